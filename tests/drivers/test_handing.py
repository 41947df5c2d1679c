"""Which providers hand over what was made ahead, and to whom."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.drivers.instances.container import ContainerDriver
from gridcloud.drivers.instances.container_settings import ContainerSettings
from gridcloud.drivers.instances.ec2 import EC2Driver
from gridcloud.drivers.instances.kubernetes import KubernetesDriver
from gridcloud.drivers.instances.libcloud import LibcloudDriver
from gridcloud.drivers.instances.local import LocalDriver, LocalSettings
from gridcloud.drivers.instances.oci import OCIDriver
from gridcloud.drivers.instances.openstack import OpenStackDriver
from gridcloud.drivers.instances.qemu import QEMUDriver
from gridcloud.drivers.instances.slurm import SlurmDriver
from gridcloud.drivers.instances.ssh import SSHDriver
from gridcloud.errors import NotFound, Rejected
from gridcloud.instances.driver import Context, Handing
from gridcloud.instances.model import Kind, Offer, Request, Shape, Spec


def context(folder: Path) -> Context:
    async def connect(address: Address) -> Connection:
        raise NotFound("nobody connects here")

    return Context("there", "house-1", folder, connect, "")


def test_machines_and_shares_of_them_are_handed_over_and_what_has_a_home_from_the_start_is_not() -> None:
    for kind in (EC2Driver, LibcloudDriver, LocalDriver, OCIDriver, OpenStackDriver, QEMUDriver, SSHDriver):
        assert issubclass(kind, Handing)
    for other in (KubernetesDriver, SlurmDriver):
        assert not issubclass(other, Handing)


def test_containers_are_handed_over_where_they_have_no_homes(tmp_path: Path) -> None:
    kept, lost = (
        ContainerDriver(
            ContainerSettings.model_validate({"driver": "container", "image": "i", "keep_homes": keep}),
            context(tmp_path),
        )
        for keep in (True, False)
    )
    assert "have their owners' homes from the start" in kept.handing()
    assert lost.handing() == ""


@pytest.mark.needs_root
async def test_this_computer_hands_nothing_over_between_accounts(tmp_path: Path, account: str) -> None:
    assert os.geteuid() == 0
    settings = LocalSettings.model_validate(
        {"driver": "local", "allow_root": True, "accounts": {"ada": account}}
    )
    driver = LocalDriver(settings, context(tmp_path))
    offer = Offer(provider="there", kind=Kind.BARE_METAL, shape=Shape(cpus=0.1, memory=1 << 20))
    request = Request(cpus=0.1, memory=1 << 20)
    spec = Spec(id="i-handed", owner="course/physics", request=request, offer=offer, seat=True)
    handle = await driver.create(spec)
    try:
        with pytest.raises(Rejected, match="ada has an account of their own"):
            await driver.hand_over(spec.id, handle, "ada")
        assert await driver.hand_over(spec.id, handle, "ben") == handle
        assert await driver.hand_over(spec.id, handle, "ben") == handle
    finally:
        await driver.destroy(spec.id, handle)
        await driver.close()
    with pytest.raises(NotFound):
        await driver.hand_over(spec.id, handle, "ben")
