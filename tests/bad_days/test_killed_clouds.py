"""gridcloud killed at random points of starting, configuring and stopping machines of clouds.

Nothing of ours is left at the cloud afterwards, and nothing that is not ours was touched. More points by KILL_POINTS
(of each cloud), other ones by KILL_SEED: see `killing`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from gridcloud.service.house import House
from tests.bad_days.killing import conclude, suffer_all
from tests.houses import open_house
from tests.labs.ground import Ground, grounded, missing_for_ground
from tests.labs.moto import CREDENTIALS, REGION, Moto, moto_server
from tests.labs.openstack import OpenStack
from tests.labs.oracle import Oracle

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(missing_for_ground() is not None, reason=f"NOT TESTED: {missing_for_ground()}"),
]

STEPS = 14
"""Lines that the victim prints in the course of two lives beside each other."""


async def suffer_at(
    cloud: str,
    folder: Path,
    entry: dict[str, Any],
    look: Callable[[], Mapping[str, str]],
    there: Callable[[], set[str]],
) -> str:
    """Be killed at all points; return the counts, what is left and what was touched that is not ours among them.

    ``there`` names everything in the account, whoever made it; what is there now is not ours.
    """
    before = await asyncio.to_thread(there)
    touched: set[str] = set()

    async def left() -> list[str]:
        after = await asyncio.to_thread(there)
        touched.update(before - after)
        return [*sorted(after - before), *(f"touched, though not ours: {name}" for name in sorted(touched))]

    async with Ground(look) as ground, ground.door(folder / "door"):
        kind = grounded(folder / "door")

        def open_(place: Path, providers: dict[str, dict[str, Any]]) -> AbstractAsyncContextManager[House]:
            return open_house(place, providers, kind, limits={"orphan": 0})

        words = ("tests.bad_days.cloud_victim", str(folder / "door"))
        counts = await suffer_all(cloud, folder, lambda _: entry, left, words, STEPS, open_, usual=4)
    return f"{counts} foreign={len(before)} touched={len(touched)}"


async def test_killed_at_ec2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with moto_server() as moto:
        image = moto.image()["ImageId"]
        theirs = [
            {"Key": "gridcloud-installation", "Value": "another"},
            {"Key": "gridcloud-instance", "Value": "i-x"},
        ]
        for tags in ([], theirs):
            given = {"TagSpecifications": [{"ResourceType": "instance", "Tags": tags}]} if tags else {}
            moto.ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, **given)
        moto.ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1)
        moto.ec2.create_security_group(GroupName="gridcloud-theirs", Description="theirs")
        entry = {
            "driver": "ec2",
            "region": REGION,
            "endpoint": moto.url,
            "image": image,
            "shapes": ["t3.small"],
            "prices": {"*": 0.02},
            "price_list": False,
            "allow_from": ["192.0.2.0/24"],
            "user": "root",
        }
        conclude(await suffer_at("ec2", tmp_path, entry, moto.look, lambda: things_at_ec2(moto)), capsys)


def things_at_ec2(moto: Moto) -> set[str]:
    """Name what an account holds that costs or blocks something."""
    found = {one["InstanceId"] for one in moto.machines()}
    found |= {one["VolumeId"] for one in moto.ec2.describe_volumes()["Volumes"]}
    found |= {one["GroupId"] for one in moto.ec2.describe_security_groups()["SecurityGroups"]}
    interfaces = moto.ec2.describe_network_interfaces()["NetworkInterfaces"]
    return found | {one["NetworkInterfaceId"] for one in interfaces}


async def test_killed_at_oracle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Oracle() as oracle:
        oracle.tenancy.seconds = 0
        oracle.tenancy.add_compartment("lab")
        entry = {
            "driver": "oci",
            "compartment": "lab",
            "config_file": str(oracle.write_config(tmp_path)),
            "image": "Canonical-Ubuntu-24.04-*",
            "shapes": ["VM.Standard.E4.Flex"],
            "prices": {"*": 0.02},
            "allow_from": ["192.0.2.0/24"],
            "endpoint": oracle.url,
            "user": "root",
        }
        await make_strangers_at_oracle(tmp_path, entry, oracle)
        counts = await suffer_at("oci", tmp_path, entry, oracle.look, lambda: things_at_oracle(oracle))
        conclude(counts, capsys)


async def make_strangers_at_oracle(folder: Path, entry: dict[str, Any], oracle: Oracle) -> None:
    """Have another gridcloud hold a machine there, with a network of its own, and lose its store."""
    async with Ground(oracle.look) as ground, ground.door(folder / "their-door"):
        theirs = folder / "theirs"
        theirs.mkdir()
        async with open_house(theirs, {"there": entry}, grounded(folder / "their-door")) as house:
            from tests.houses import obtain

            await obtain(house, cpus=1, memory=512 << 20)


def things_at_oracle(oracle: Oracle) -> set[str]:
    """Name what a tenancy holds and has not ended."""
    ended = {"TERMINATED", "TERMINATING", "DELETED", "DETACHED"}
    with oracle.tenancy.lock:
        oracle.tenancy.settle()
        kinds = ("instance", "bootvolume", "vcn", "subnet", "internetgateway", "routetable", "securitylist")
        found = [thing for kind in kinds for thing in oracle.tenancy.of(kind)]
        return {f"{thing.kind} {thing.id}" for thing in found if thing.state not in ended}


@pytest.mark.lab
@pytest.mark.filterwarnings("ignore::openstack.warnings.OpenStackDeprecationWarning")
@pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning")
async def test_killed_at_openstack(
    tmp_path: Path, openstack_cloud: OpenStack, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.drivers.test_openstack import user_data_by_address

    project = openstack_cloud.make_project(cores=40, ram=80 * 1024, instances=40, floating_ips=40)
    cloud = openstack_cloud.connect(project)
    administrator = openstack_cloud.administrator()
    cloud.block_storage.create_volume(size=1, name="theirs")
    cloud.network.create_security_group(name="gridcloud-theirs")
    entry = {
        "driver": "openstack",
        "cloud": project.cloud,
        "clouds_file": str(openstack_cloud.clouds_file),
        "image": "debian-12-*",
        "prices": {"*": 0.02},
        "allow_from": ["192.0.2.0/24"],
        "user": "root",
    }

    def there() -> set[str]:
        found = {f"server {one.id}" for one in cloud.compute.servers(details=False)}
        found |= {f"volume {one.id}" for one in cloud.block_storage.volumes(details=False)}
        found |= {
            f"port {one.id}" for one in cloud.network.ports() if one.device_owner.startswith(("", "compute"))
        }
        found |= {f"address {one.id}" for one in cloud.network.ips()}
        return found | {f"security group {one.id}" for one in cloud.network.security_groups()}

    counts = await suffer_at("openstack", tmp_path, entry, lambda: user_data_by_address(administrator), there)
    conclude(counts, capsys)
