"""A provider that left the configuration is forgotten only where nothing is left there, or where that is given up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.houses import end, ended, obtain, open_house, story
from tests.labs.moto import REGION, moto_server

from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.instances.forgetting import forget
from gridcloud.instances.model import State
from gridcloud.service.house import House

AWAY: dict[str, Any] = {
    "driver": "fake",
    "faults": [
        {"call": "destroy", "error": "unreachable", "times": 9999},
        {"call": "holdings", "error": "unreachable", "times": 9999},
    ],
}
QUICK: dict[str, Any] = {"limits": {"retry_first": 0.1, "retry_longest": 0.2}}


def remove(house: House, name: str) -> None:
    del house.settings().providers[name]


async def test_what_is_empty_is_forgotten(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": {"driver": "fake"}, "never": {"driver": "fake"}}) as house:
        await end(house, await obtain(house, on="cloud"))
        with pytest.raises(InvalidRequest, match="in the configuration"):
            await forget(house.instances, "cloud", give_up=True)
        remove(house, "cloud")
        remove(house, "never")
        assert "cloud" in await house.providers.remembered()
        assert (await forget(house.instances, "cloud")).given_up == ()
        assert await house.providers.remembered() == []
        assert "cloud is forgotten." in await story(house, "cloud")
        for name in ("cloud", "never", "unheard-of"):
            with pytest.raises(NotFound, match="remembered"):
                await forget(house.instances, name)


async def test_machines_that_live_are_never_given_up(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": AWAY}, **QUICK) as house:
        instance = await obtain(house)
        remove(house, "cloud")
        for give_up in (False, True):
            with pytest.raises(InvalidRequest, match=f"{instance.id} .ready.") as caught:
                await forget(house.instances, "cloud", give_up)
            assert caught.value.remedy == f"Stop them first: gridcloud instance stop {instance.id}"
        assert (await house.instances.records.get(instance.id)).state is State.READY
        await house.instances.stop(instance.id)
        with pytest.raises(InvalidRequest, match=f"gives up instance {instance.id} .stopping.") as caught:
            await forget(house.instances, "cloud")
        assert "provider forget cloud --yes" in caught.value.remedy
        done = await forget(house.instances, "cloud", give_up=True)
        assert done.given_up[0] == f"instance {instance.id} (stopping)"
        last = await ended(house, instance.id)
        assert last.state is State.STOPPED
        assert "nobody saw whether anything is left" in last.detail
        assert all(charge.until is not None for charge in last.charges)
        assert f"Given up: instance {instance.id}" in await story(house, "cloud")
        assert await house.reconciliation.examine() == []


async def test_what_is_seen_to_be_left_is_named(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": {"driver": "fake"}}) as house:
        instance = await obtain(house)
        record = await house.store.get("instance", instance.id)
    async with open_house(tmp_path, {"cloud": {"driver": "fake"}}) as house:
        await house.store.delete(record)
    async with open_house(tmp_path, {}) as house:
        with pytest.raises(InvalidRequest, match=f"cloud still holds .*{instance.id}") as caught:
            await forget(house.instances, "cloud")
        assert "gridcloud doctor --mend" in caught.value.remedy
        assert all(one.mended for one in await house.mend())
        assert (await forget(house.instances, "cloud")).given_up == ()


async def test_a_cloud_that_is_no_more(tmp_path: Path) -> None:
    with moto_server() as moto:
        amazon = {"driver": "ec2", "region": REGION, "endpoint": moto.url, "image": moto.image()["ImageId"]}
        async with open_house(tmp_path, {"amazon": {**amazon, "allow_from": ["192.0.2.0/24"]}}) as house:
            await house.providers.remember("amazon")
            assert await house.examine() == []
    async with open_house(tmp_path, {}) as house:
        (trouble,) = await house.examine()
        assert trouble.message.startswith("It was removed from the configuration, and cannot be asked")
        assert trouble.remedy.endswith("gridcloud provider forget amazon")
        with pytest.raises(InvalidRequest, match="whatever else carries our tag there"):
            await forget(house.instances, "amazon")
        await forget(house.instances, "amazon", give_up=True)
        assert await house.examine() == []
