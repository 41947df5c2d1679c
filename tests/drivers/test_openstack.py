"""The `openstack` driver on OpenStack itself; only the machines behind its servers are stood in for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gridcloud.drivers.instances.openstack import OpenStackDriver
from gridcloud.drivers.instances.openstack_settings import OpenStackSettings
from gridcloud.instances.model import Request
from gridcloud.testing.instances import InstanceDriverContract, driver_context
from tests.labs.openstack import OpenStack, Project

pytestmark = [
    pytest.mark.lab,
    # The SDK says of its own calls that they will go, whatever is called.
    pytest.mark.filterwarnings("ignore::openstack.warnings.OpenStackDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning"),
]

IMAGE = "debian-12-*"


@pytest.fixture(scope="session")
def project(openstack_cloud: OpenStack) -> Project:
    """A project in which two of the largest machines fit."""
    return openstack_cloud.make_project(cores=8, ram=16 * 1024, instances=6, floating_ips=6)


def settings_of(lab: OpenStack, project: Project, **more: Any) -> OpenStackSettings:
    """The settings of a provider in a project."""
    words = {"driver": "openstack", "cloud": project.cloud, "clouds_file": lab.clouds_file, "image": IMAGE}
    return OpenStackSettings.model_validate(words | more)


class TestOpenStack(InstanceDriverContract):
    """The contract."""

    request_: ClassVar[Request] = Request(cpus=1, memory=512 * 1024**2)
    poll_seconds: ClassVar[float] = 0.3

    @pytest.fixture
    async def driver(
        self, openstack_cloud: OpenStack, project: Project, tmp_path: Path
    ) -> AsyncIterator[OpenStackDriver]:
        driver = OpenStackDriver(settings_of(openstack_cloud, project), driver_context(tmp_path))
        yield driver
        await driver.close()
