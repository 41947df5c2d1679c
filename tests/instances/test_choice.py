"""Which offer an instance is made from: the steps, refusals, budgets and what was lost before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.houses import configure, end, ended, obtain, open_house, story

from gridcloud.drivers.instances.fake import FakeDriver, FakeSettings
from gridcloud.errors import NoOffer
from gridcloud.instances.costs import cost
from gridcloud.instances.model import Instance, Offer, Request, State, Step
from gridcloud.service.house import House


def fake(**settings: Any) -> dict[str, Any]:
    return {"driver": "fake", **settings}


def sizes(count: int) -> list[dict[str, Any]]:
    return [
        {"name": f"size{number}", "cpus": 2 + number, "memory": "4GiB", "count": 9} for number in range(count)
    ]


class Choosing(FakeDriver):
    """Tells how it chose, as clouds do."""

    async def offers(self, request: Request) -> Sequence[Offer]:
        steps = (
            Step(step="image", chosen="debian-12", why="the provider's default"),
            Step(step="shape", chosen="small", why="the only one that fits"),
            Step(step="location", chosen="north", why="the only one there"),
            Step(step="network", chosen="default", why="the provider's default"),
        )
        return [offer.model_copy(update={"steps": steps}) for offer in await super().offers(request)]


def put_in_place(house: House, kind: type[FakeDriver]) -> None:
    """Have a provider served by a driver of the test."""
    driver = house.providers.get("cloud")
    assert isinstance(driver.settings, FakeSettings)
    house.providers._drivers["cloud"] = kind(driver.settings, driver.context)


async def test_the_four_steps_are_told_with_their_reasons(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        put_in_place(house, Choosing)
        instance = await obtain(house)
        told = [
            event.message for event in await house.store.events(subject=instance.id) if event.type == "step"
        ]
        assert told == [
            "image: debian-12 (the provider's default)",
            "shape: small (the only one that fits)",
            "location: north (the only one there)",
            "network: default (the provider's default)",
        ]
        await end(house, instance)


async def test_the_story_tells_of_every_provider_that_refused(tmp_path: Path) -> None:
    providers = {
        "scarce": fake(price=0.1, faults=[{"call": "create", "error": "no-capacity", "times": "always"}]),
        "full": fake(price=0.2, faults=[{"call": "create", "error": "quota", "times": "always"}]),
        "good": fake(price=0.3),
    }
    async with open_house(tmp_path, providers) as house:
        instance = await obtain(house)
        told = await story(house, instance.id)
        places = [
            told.index("Chose 4 CPUs, 16GiB on scarce at 0.1 EUR per hour (2 more to fall back on)."),
            told.index("scarce refused: scarce has no machine left"),
            told.index("Chose 4 CPUs, 16GiB on full at 0.2 EUR per hour (1 more to fall back on)."),
            told.index("full refused: the quota at full is used up"),
            told.index("Chose 4 CPUs, 16GiB on good at 0.3 EUR per hour."),
            told.index("ready: Ready"),
        ]
        assert places == sorted(places)
        assert [charge.provider for charge in instance.charges] == ["good"], (
            "refused for sure: nothing to pay"
        )
        await end(house, instance)


async def test_dry_providers_give_their_refusals_and_nothing_is_made(tmp_path: Path) -> None:
    quota = [{"call": "create", "error": "quota", "times": "always"}]
    scarce = [{"call": "create", "error": "no-capacity", "times": "always"}]
    providers = {"a": fake(faults=quota), "b": fake(faults=scarce), "c": fake(faults=quota)}
    async with open_house(tmp_path, providers) as house:
        instance = await house.instances.submit("ada", Request())
        with pytest.raises(NoOffer) as caught:
            await house.instances.wait(instance.id)
        for name, why in (("a", "quota"), ("b", "no machine left"), ("c", "quota")):
            assert f"{name}: " in caught.value.message
            assert why in caught.value.message
            assert await house.providers.get(name).holdings() == []
        assert (await house.instances.records.get(instance.id)).charges == ()


async def test_a_full_account_is_not_asked_for_every_size(tmp_path: Path) -> None:
    faults = [{"call": "create", "error": "quota", "times": "always"}]
    async with open_house(tmp_path, {"cloud": fake(shapes=sizes(6), faults=faults)}) as house:
        instance = await house.instances.submit("ada", Request())
        with pytest.raises(NoOffer, match="not tried, for 2 others were refused there: the quota at cloud"):
            await house.instances.wait(instance.id)
        assert (await story(house, instance.id)).count("cloud refused") == 2


async def test_what_no_waiting_mends_is_not_to_be_tried_again(tmp_path: Path) -> None:
    faults = [{"call": "create", "error": "rejected", "times": "always"}]
    async with open_house(tmp_path, {"cloud": fake(faults=faults)}) as house:
        instance = await house.instances.submit("ada", Request())
        with pytest.raises(NoOffer) as caught:
            await house.instances.wait(instance.id)
        assert "again" not in str(caught.value)
        assert "provider check" in caught.value.remedy


async def test_a_machine_costs_until_it_is_certainly_gone_also_when_it_was_refused(tmp_path: Path) -> None:
    providers = {
        "unclear": fake(price=1, faults=[{"call": "create", "error": "crash-after"}]),
        "good": fake(price=2),
    }
    async with open_house(tmp_path, providers) as house:
        instance = await obtain(house)
        first, second = instance.charges
        assert (first.provider, second.provider) == ("unclear", "good")
        assert first.until is not None
        assert second.until is None
        assert cost(instance.charges, house.clock.now()) > 0
        await end(house, instance)
        last = await house.instances.records.get(instance.id)
        assert all(charge.until is not None for charge in last.charges)
        assert "It cost under 0.01 EUR." in await story(house, instance.id)


async def test_the_judge_is_asked_one_at_a_time_and_its_figures_are_told(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"dear": fake(price=5), "cheap": fake(price=1)}) as house:
        asked: list[str] = []

        async def judge(instance: Instance, offer: Offer) -> str:
            """Allow machines for 6 per hour in all."""
            asked.append(offer.provider)
            await asyncio.sleep(0)
            running = [one for one in await house.instances.records.live() if one.id != instance.id]
            spent = sum(charge.price for one in running for charge in one.charges if charge.until is None)
            return f"{spent} of 6 EUR are spent" if spent + offer.price > 6 else ""

        house.instances.choice.judge = judge
        wishes = [await house.instances.submit("ada", Request()) for _ in range(8)]
        found = await asyncio.gather(
            *(house.instances.wait(one.id) for one in wishes), return_exceptions=True
        )
        ready = [one for one in found if isinstance(one, Instance)]
        assert len(ready) == 6
        refused = next(one for one in found if isinstance(one, NoOffer))
        assert "6 of 6 EUR are spent" in str(refused)
        lost = next(one for one in wishes if one.id not in {two.id for two in ready})
        assert "on cheap may not be taken: 6 of 6 EUR" in await story(house, lost.id)
        assert asked.count("dear") >= 2
        await end(house, *ready)


async def test_what_was_lost_before_is_taken_last(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"near": fake(price=1), "far": fake(price=2)}) as house:
        first = await obtain(house)
        assert first.offer
        assert first.offer.provider == "near"
        again = await house.instances.submit("ada", Request(), avoid=[first.offer])
        second = await house.instances.wait(again.id)
        assert second.offer
        assert second.offer.provider == "far"
        only = await house.instances.submit("ada", Request(on="near"), avoid=[first.offer])
        third = await house.instances.wait(only.id)
        assert third.state is State.READY, "there is no other"
        await end(house, first, second, third)


async def test_a_warning_is_kept_until_the_end_is_moved(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        instance = await obtain(house, time=60)
        await house.instances.warn(instance.id, "80 % of the budget are spent.")
        await house.instances.warn(instance.id, "80 % of the budget are spent.")
        assert (await house.instances.records.get(instance.id)).notice == "80 % of the budget are spent."
        assert (await story(house, instance.id)).count("80 %") == 1
        await house.instances.extend(instance.id, house.clock.now() + timedelta(hours=1))
        assert (await house.instances.records.get(instance.id)).notice == ""
        await house.instances.stop(instance.id)
        await ended(house, instance.id)


class Leaving(FakeDriver):
    """Offers something, and has left the configuration by the time that it would be taken."""

    async def offers(self, request: Request) -> Sequence[Offer]:
        made = await super().offers(request)
        self.settings_file.unlink()
        configure(self.settings_file.parent, {"other": fake(price=5)})
        return made

    settings_file: Path


async def test_an_entry_that_leaves_after_its_offer_is_passed_over_and_told(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake(), "other": fake(price=5)}) as house:
        put_in_place(house, Leaving)
        Leaving.settings_file = tmp_path / "config.yaml"
        instance = await obtain(house)
        assert instance.offer is not None
        assert instance.offer.provider == "other"
        assert [one.refusal for one in instance.refused] == ["NotFound"]
        told = await story(house, instance.id)
        assert "on cloud may not be taken: No provider named 'cloud' is configured" in told
        await end(house, instance)


async def test_many_are_noted_together_and_an_entry_does_not_move_meanwhile(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        await house.providers.remember("cloud")
        async with house.providers.remembering("cloud"), asyncio.timeout(5):
            async with house.providers.remembering("cloud"):
                pass
            configure(tmp_path, {"cloud": fake(price=7)})
            moving = asyncio.create_task(house.providers.remember("cloud"))
            await asyncio.sleep(0.2)
            assert not moving.done()
        await moving
        assert (await house.store.get("provider", "cloud")).body["price"] == "7"


async def test_a_provider_that_left_since_it_was_asked_for_is_no_offer(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        instance = await house.instances.submit("ada", Request(on="gone"))
        async with asyncio.timeout(10):
            with pytest.raises(NoOffer, match="No provider named 'gone' is configured"):
                await house.instances.wait(instance.id)
