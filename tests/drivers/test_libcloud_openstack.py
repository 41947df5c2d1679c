"""The `libcloud` driver through libcloud's OpenStack driver, on OpenStack itself; the machines are stood in for."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.labs.ground import Ground
from tests.labs.openstack import OpenStack

from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.drivers.instances.libcloud import LibcloudDriver
from gridcloud.drivers.instances.libcloud_settings import LibcloudSettings
from gridcloud.instances.driver import InstanceDriver
from gridcloud.instances.model import Request
from gridcloud.testing.instances import InstanceDriverContract

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(600),  # the first test may set the cloud up, and OpenStack is slow on few processors
    # The SDK, with which the lab is looked at, says of its own calls that they will go, whatever is called.
    pytest.mark.filterwarnings("ignore::openstack.warnings.OpenStackDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning"),
]

NAMES = {"compute": "nova", "image": "glance", "network": "neutron", "volumev3": "cinderv3"}


def user_data_by_address(cloud: Any) -> dict[str, str]:
    """What each server that runs was told at its first boot, by each of its addresses; only administrators see it."""
    return {
        one["addr"]: base64.b64decode(server.user_data).decode()
        for server in cloud.compute.servers(details=True, all_projects=True, status="ACTIVE")
        for addresses in server.addresses.values()
        for one in addresses
        if server.user_data
    }


class TestOpenStackThroughLibcloud(InstanceDriverContract):
    """The contract."""

    request_: ClassVar[Request] = Request(cpus=1, memory=512 * 1024**2)
    most: ClassVar[int] = 0
    poll_seconds: ClassVar[float] = 0.3

    @pytest.fixture
    async def driver(
        self, openstack_cloud: OpenStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[LibcloudDriver]:
        with openstack_cloud.administrator() as cloud:
            for service in list(
                cloud.identity.services()
            ):  # libcloud asks for them by the names that most clouds give
                if name := NAMES.get(service.type):
                    cloud.identity.update_service(service, name=name)
        project = openstack_cloud.make_project(cores=8, ram=16 * 1024, instances=6)
        monkeypatch.setenv(
            "LIBCLOUD_TEST_PASSWORD", project.password
        )  # a secret, which settings only refer to
        arguments = {
            "key": project.user,
            "secret": "env:LIBCLOUD_TEST_PASSWORD",
            "ex_force_auth_url": openstack_cloud.identity_url.removesuffix("/v3/"),
            "ex_force_auth_version": "3.x_password",
            "ex_tenant_name": project.user,
            "ex_domain_name": "Default",
            "ex_force_service_region": "RegionOne",
            "api_version": "2.2",
        }
        entry = LibcloudSettings.model_validate(
            {
                "driver": "libcloud",
                "compute": "openstack",
                "arguments": arguments,
                "image": "debian-12-2026-03",
                "networks": project.network,
                "public_address": False,
                "user": "root",
            }
        )
        with openstack_cloud.administrator() as cloud:
            async with Ground(lambda: user_data_by_address(cloud)) as ground:
                self.ground = ground
                driver = LibcloudDriver(entry, ground.context(tmp_path / "provider"))
                yield driver
                await driver.close()

    async def connect(self, driver: InstanceDriver, address: Address) -> Connection:
        return await self.ground.connect(address)
