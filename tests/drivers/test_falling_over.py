"""From one cloud to the next: each refuses for a reason of its own, and the events tell the whole story."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.houses import end, here, open_house, story
from tests.labs.moto import REGION, Moto, moto_server
from tests.labs.moto_proxy import MotoProxy, refusal
from tests.labs.openstack import OpenStack, Project
from tests.labs.oracle import Oracle

from gridcloud.errors import NoOffer
from gridcloud.instances.model import Request

WISH = Request(cpus=1, memory=512 << 20, time=3600)
FULL = refusal("InsufficientInstanceCapacity", "We currently do not have sufficient t3.small capacity.")


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with moto_server() as moto:
        yield moto


@pytest.fixture
def full_ec2(moto: Moto) -> Iterator[dict[str, Any]]:
    """The entry of an account whose region has no room."""
    with MotoProxy(moto.url) as proxy:
        proxy.fail("Action=RunInstances", times=1000, status=500, body=FULL)
        yield {
            "driver": "ec2",
            "region": REGION,
            "endpoint": proxy.url,
            "image": moto.image()["ImageId"],
            "shapes": ["t3.small"],
            "prices": {"*": 0.01},
            "price_list": False,
            "allow_from": ["192.0.2.0/24"],
        }
    assert moto.machines() == []


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    with Oracle() as oracle:
        oracle.tenancy.add_compartment("lab")
        yield oracle


def at_oracle(oracle: Oracle, folder: Path) -> dict[str, Any]:
    """The entry of a tenancy whose quota is used up, as the launch finds out."""
    oracle.tenancy.fail(
        "POST", "/instances$", times=1000, status=400, code="QuotaExceeded", message="standard-e4: 0"
    )
    return {
        "driver": "oci",
        "compartment": "lab",
        "config_file": str(oracle.write_config(folder)),
        "image": "Canonical-Ubuntu-24.04-*",
        "shapes": ["VM.Standard.E4.Flex"],
        "prices": {"*": 0.02},
        "allow_from": ["192.0.2.0/24"],
        "endpoint": oracle.url,
    }


def take_all(lab: OpenStack, project: Project) -> None:
    """Have somebody else use up the project's only CPU."""
    with lab.connect(project) as cloud:
        image = next(one for one in cloud.image.images() if one.name.startswith("debian-12"))
        flavor = cloud.compute.find_flavor("m1.tiny")
        theirs = cloud.compute.create_server(
            name="theirs", flavor_id=flavor.id, image_id=image.id, networks="none"
        )
        cloud.compute.wait_for_server(theirs, wait=120, interval=1)


async def obtain_elsewhere(folder: Path, clouds: dict[str, dict[str, Any]]) -> str:
    """Ask for a machine of two clouds that have none and of this computer; return what the events tell."""
    third = here(price=5)
    async with open_house(folder, {**clouds, "third": third}, limits={"retry_first": 0.1}) as house:
        instance = await house.instances.submit("ada", WISH)
        async with asyncio.timeout(90):
            instance = await house.instances.wait(instance.id)
        assert instance.offer is not None
        assert instance.offer.provider == "third"
        told = await story(house, instance.id)
        await end(house, instance)
        for name in clouds:
            assert [one for one in await house.providers.get(name).holdings() if one.what == "machine"] == []
    return told


async def dry(folder: Path, clouds: dict[str, dict[str, Any]]) -> NoOffer:
    """Ask where nothing is to be had at all; return the error."""
    async with open_house(folder, clouds, limits={"retry_first": 0.1}) as house:
        instance = await house.instances.submit("ada", WISH)
        async with asyncio.timeout(90):
            with pytest.raises(NoOffer) as caught:
                await house.instances.wait(instance.id)
        assert await house.instances.records.live() == []
        for name in clouds:
            assert [one for one in await house.providers.get(name).holdings() if one.what == "machine"] == []
    return caught.value


async def test_no_room_then_no_quota_then_the_third(
    tmp_path: Path, full_ec2: dict[str, Any], oracle: Oracle
) -> None:
    told = await obtain_elsewhere(tmp_path, {"amazon": full_ec2, "oracle": at_oracle(oracle, tmp_path)})
    assert "amazon refused: We currently do not have sufficient t3.small capacity." in told
    assert "amazon: " not in told
    assert "oracle refused" in told
    assert "standard-e4: 0" in told
    assert "on third" in told


async def test_a_dry_account_shows_three_refusals(
    tmp_path: Path, full_ec2: dict[str, Any], oracle: Oracle
) -> None:
    tiny = {"driver": "fake", "shapes": [{"cpus": 1, "memory": "1GiB", "count": 0}]}
    clouds = {"amazon": full_ec2, "oracle": at_oracle(oracle, tmp_path), "tiny": tiny}
    error = await dry(tmp_path, clouds)
    for words in ("amazon: We currently do not have", "oracle: ", "standard-e4: 0", "tiny: "):
        assert words in error.message


@pytest.mark.lab
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::openstack.warnings.OpenStackDeprecationWarning")
@pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning")
async def test_no_room_at_ec2_then_no_quota_at_openstack_then_the_third(
    tmp_path: Path, full_ec2: dict[str, Any], openstack_cloud: OpenStack
) -> None:
    project = openstack_cloud.make_project(cores=1)
    await asyncio.to_thread(take_all, openstack_cloud, project)
    campus = {
        "driver": "openstack",
        "cloud": project.cloud,
        "clouds_file": str(openstack_cloud.clouds_file),
        "image": "debian-12-*",
        "prices": {"*": 0.02},
        "allow_from": ["192.0.2.0/24"],
    }
    told = await obtain_elsewhere(tmp_path, {"amazon": full_ec2, "campus": campus})
    assert "amazon refused: We currently do not have sufficient t3.small capacity." in told
    assert "campus has nothing free: the project's quota: 0 of 1 CPUs left, 1 needed" in told
    error = await dry(tmp_path, {"amazon": full_ec2, "campus": campus})
    assert "amazon: We currently do not have" in error.message
    assert "campus: " in error.message
