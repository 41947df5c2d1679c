"""What providers hold beside what the store knows: each thing once, what is ours only, and never what is used."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from tests.houses import end, ended, obtain, open_house

from gridcloud.clock import ManualClock
from gridcloud.drivers.instances.fake import FakeDriver, FakeSettings
from gridcloud.errors import Transient, Unreachable
from gridcloud.instances.model import SHARED, Handle, Holding, Instance, Observation
from gridcloud.instances.reconciliation import AT_ONCE, Reconciliation
from gridcloud.service.house import House


class Cloud(FakeDriver):
    """Holds more than machines, as clouds do: what the test puts there."""

    extra: list[Holding]
    destroyed: list[str]
    at_once = 0
    most_at_once = 0

    async def holdings(self) -> Sequence[Holding]:
        return [*await super().holdings(), *self.extra]

    async def destroy(self, instance_id: str, handle: Handle | None) -> None:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        if instance_id == SHARED and any(one.instance_id != SHARED for one in await self.holdings()):
            raise Transient("It is in use.")
        if instance_id == "i-stuck":
            raise Unreachable("It is away.")
        self.destroyed.append(instance_id)
        self.extra = [one for one in self.extra if one.instance_id != instance_id]
        if instance_id != SHARED:
            await super().destroy(instance_id, handle)

    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        return await super().observe(handles)


def cloud(house: House, *extra: Holding) -> Cloud:
    driver = house.providers.get("cloud")
    assert isinstance(driver.settings, FakeSettings)
    made = Cloud(driver.settings, driver.context)
    made.extra, made.destroyed = list(extra), []
    house.providers._drivers["cloud"] = made
    return made


def held(instance_id: str, what: str = "disk", name: str = "", **more: object) -> Holding:
    return Holding.model_validate(
        {"instance_id": instance_id, "what": what, "name": name or f"{what}-1", **more}
    )


async def stop(house: House, instance: Instance) -> None:
    """End an instance, and look at nothing: the house has another clock than the test."""
    await house.instances.stop(instance.id)
    await ended(house, instance.id)


FAKE = {"cloud": {"driver": "fake"}}


async def test_things_of_one_instance_are_one_difference_and_go_together(tmp_path: Path) -> None:
    async with open_house(tmp_path, FAKE) as house:
        driver = cloud(house, held("i-lost", "machine"), held("i-lost", "disk"), held("i-lost", "address"))
        (found,) = await house.reconciliation.examine()
        assert found.subject == "i-lost"
        assert "machine machine-1, disk disk-1, address address-1 (i-lost)" in found.message
        (mended,) = await house.reconciliation.mend([found])
        assert mended.mended
        assert driver.destroyed == ["i-lost"]
        assert await house.reconciliation.examine() == []


async def test_what_a_live_instance_has_is_never_touched(tmp_path: Path) -> None:
    async with open_house(tmp_path, FAKE) as house:
        driver = cloud(house)
        instance = await obtain(house)
        driver.extra = [held(instance.id, "disk"), held(instance.id, "address"), held(SHARED, "network")]
        assert await house.reconciliation.examine() == []
        driver.extra = []
        await end(house, instance)


async def test_what_was_taken_up_meanwhile_is_left_alone(tmp_path: Path) -> None:
    async with open_house(tmp_path, FAKE) as house:
        driver = cloud(house)
        instance = await obtain(house)
        record = await house.store.get("instance", instance.id)
        elsewhere = record.body | {"offer": record.body["offer"] | {"provider": "another"}}
        # As the store was when it was looked at: before the instance came here.
        await house.store.update(record, body=elsewhere)
        (found,) = await house.reconciliation.examine()
        assert "is ready elsewhere" in found.message
        await house.store.update(await house.store.get("instance", instance.id), body=record.body)
        (left,) = await house.reconciliation.mend([found])
        assert not left.mended
        assert driver.destroyed == []
        house.instances.records._known.clear()
        await end(house, await house.instances.records.get(instance.id))


@pytest.mark.parametrize("hours", [-24, 0, 24], ids=["old", "now", "by a clock that is wrong"])
async def test_no_clock_hides_what_is_lost(tmp_path: Path, hours: int) -> None:
    async with open_house(tmp_path, FAKE) as house:
        driver = cloud(house)
        driver.extra = [held("i-lost", created=house.clock.now() + timedelta(hours=hours))]
        assert len(await house.reconciliation.examine()) == 1
        patient = Reconciliation(house.instances.records, house.providers, house.clock, grace=60)
        assert len(await patient.examine()) == (0 if hours == 0 else 1)


async def test_what_serves_all_instances_goes_some_time_after_the_last(tmp_path: Path) -> None:
    async with open_house(tmp_path, FAKE) as house:
        clock = ManualClock()
        driver = cloud(house, held(SHARED, "network"), held(SHARED, "security group"))
        looks = Reconciliation(house.instances.records, house.providers, clock, unused=lambda: 3600)
        assert await looks.examine() == []
        await clock.advance(1800)
        instance = await obtain(house)
        assert await looks.examine() == [], "it is used"
        await stop(house, instance)
        assert await looks.examine() == []
        await clock.advance(3500)
        assert await looks.examine() == [], "its time began anew"
        await clock.advance(200)
        (found,) = await looks.examine()
        assert "network network-1, security group security group-1 for all its instances" in found.message
        again = await obtain(house)
        (left,) = await looks.mend([found])
        assert not left.mended, "one came meanwhile"
        await stop(house, again)
        driver.extra.append(held("i-lost"))
        assert [one.subject for one in await looks.examine()] == ["i-lost"]
        await looks.mend(await looks.examine())
        assert await looks.examine() == []
        await clock.advance(4000)
        await looks.mend(await looks.examine())
        assert driver.destroyed[-1] == SHARED
        assert driver.extra == []


async def test_many_are_removed_a_few_at_a_time_and_one_that_stays_holds_up_no_other(tmp_path: Path) -> None:
    async with open_house(tmp_path, FAKE) as house:
        driver = cloud(house, *(held(f"i-{number}") for number in range(60)), held("i-stuck"))
        mended = await house.reconciliation.mend(await house.reconciliation.examine())
        assert sum(one.mended for one in mended) == 60
        assert driver.most_at_once <= AT_ONCE
        (stuck,) = await house.reconciliation.examine()
        assert stuck.subject == "i-stuck"
        driver.extra = []
