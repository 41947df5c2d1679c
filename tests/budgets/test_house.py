"""Budgets in a whole gridcloud: starts refused, users warned, machines ended, restarts, two at once."""

from __future__ import annotations

import asyncio
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gridcloud.clock import ManualClock
from gridcloud.errors import NoOffer
from gridcloud.identity import User
from gridcloud.instances.model import Reason, Request, State
from gridcloud.service.house import House
from gridcloud.service.process import owning
from gridcloud.settings import SettingsFile
from tests.budgets.scenes import CLOUD, START, ended, open_house, submit, used
from tests.houses import configure, story

ADA = {"ada": {"user": "ada", "money": 20}}
HOUR = 3600


async def told(house: House, subject: str, type: str) -> list[str]:
    """Return what the events of a type say."""
    return [event.message for event in await house.store.events(subject=subject) if event.type == type]


async def test_a_start_that_would_pass_a_budget_is_refused_with_the_figures(tmp_path: Path) -> None:
    """Budgets, promise C."""
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ADA) as house:
        first = await submit(house, time=15 * HOUR)
        await clock.advance(5 * HOUR)
        with pytest.raises(NoOffer) as refused:
            await submit(house, time=6 * HOUR)
        assert "The budget ada is 20.00 EUR until 2026-10-01 00:00 UTC: 5.00 spent" in str(refused.value)
        assert "10.00 committed to what runs, 6.00 asked, 21.00 in all; ask for less time" in str(
            refused.value
        )
        assert "18.00 asked" in str(refused.value), "the dearer machine was refused, too"
        assert len(await house.providers.get("cloud").holdings()) == 1
        second = await submit(house, time=5 * HOUR)
        other = await submit(house, "bob", time=100 * HOUR)
        for one in (first, second, other):
            await house.instances.stop(one.id)
            await ended(house, one.id)
        usage = await used(house, "ada")
        assert (usage.spent.money, usage.running.money, usage.live) == (Decimal(5), Decimal(0), ())


async def test_what_uses_a_budget_up_is_warned_told_of_its_end_and_ended_in_time(tmp_path: Path) -> None:
    """Budgets, promise D."""
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ADA) as house:
        paid = await submit(house, time=19 * HOUR)
        free = await submit(house, "bob", time=19 * HOUR)
        configure(tmp_path, {"cloud": CLOUD}, budgets={"ada": {"user": "ada", "money": 10}})  # lowered
        await clock.advance(7.9 * HOUR)
        await house.budgets.look()
        assert not await told(house, paid.id, "warning")
        await clock.advance(0.1 * HOUR)
        await house.budgets.look()
        await clock.advance(60)
        await house.budgets.look()
        (warning,) = await told(house, paid.id, "warning")
        assert warning.startswith("80 % of the budget ada are used: 8.00 of 10.00 EUR until 2026-10-01")
        for _ in range(110):  # to the first look within ten minutes of the end, and one more
            await clock.advance(60)
            await house.budgets.look()
        _, ending = await told(house, paid.id, "warning")
        assert ending.startswith("The budget ada is nearly used up, 9.8")
        assert ending.endswith("what it pays for is ended at 2026-09-15 09:59 UTC.")
        assert (await house.instances.records.get(paid.id)).state is State.READY
        while (await house.instances.records.get(paid.id)).state is State.READY:
            await clock.advance(60)
            await house.budgets.look()
        last = await ended(house, paid.id)
        assert (last.reason, last.detail) == (Reason.BUDGET, "The budget ada is used up.")
        assert Decimal("9.9") < (await used(house, "ada")).spent.money <= 10
        assert (await house.instances.records.get(free.id)).state is State.READY
        assert await told(house, "ada", "warned") == ["Those who use the budget ada were warned."]
        assert len(await told(house, "ada", "ending")) == 1
        assert len(await told(house, "ada", "ended")) == 1
        await house.instances.stop(free.id)
        await ended(house, free.id)


async def test_a_budget_that_is_raised_in_time_ends_nothing(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ADA) as house:
        paid = await submit(house, time=19 * HOUR)
        configure(tmp_path, {"cloud": CLOUD}, budgets={"ada": {"user": "ada", "money": 1}})
        await clock.advance(2 * HOUR)  # it was passed without any warning: the grace is given all the same
        await house.budgets.look()
        assert "ended at 2026-09-15 02:10 UTC" in (await told(house, paid.id, "warning"))[-1]
        await clock.advance(300)
        configure(tmp_path, {"cloud": CLOUD}, budgets={"ada": {"user": "ada", "money": 30}})
        await house.budgets.look()
        await clock.advance(600)
        await house.budgets.look()
        assert (await house.instances.records.get(paid.id)).state is State.READY
        assert await told(house, "ada", "open") == ["The budget ada has room again."]
        await house.instances.stop(paid.id)
        await ended(house, paid.id)


async def test_a_new_period_begins_at_nothing_and_warns_anew(tmp_path: Path) -> None:
    clock = ManualClock(START)
    daily = {"ada": {"user": "ada", "money": 24, "period": "day", "time_zone": "Europe/Oslo"}}
    async with open_house(tmp_path, clock, daily) as house:
        paid = await submit(house, time=60 * HOUR)
        for hours, spent, warnings in ((20, 20, 1), (2, 0, 1), (19, 19, 1), (1, 20, 2), (3.95, "23.95", 2)):
            await clock.advance(hours * HOUR)
            await house.budgets.look()
            assert (await used(house, "ada")).spent.money == Decimal(spent)
            assert len(await told(house, "ada", "warned")) == warnings
        assert not await told(house, "ada", "ending"), "what was promised is kept to the last minute"
        assert (await house.instances.records.get(paid.id)).state is State.READY
        await house.instances.stop(paid.id)
        await ended(house, paid.id)


async def test_it_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Budgets, promise G."""
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ADA) as house:
        paid = await submit(house, time=15 * HOUR)
        gone = await submit(house, time=2 * HOUR)
        await clock.advance(HOUR)
        await house.instances.stop(gone.id)
        await ended(house, gone.id)
        configure(tmp_path, {"cloud": CLOUD}, budgets={"ada": {"user": "ada", "money": 2}})
        await house.budgets.look()
        before = await used(house, "ada")
        assert before.spent.money == 2
    lowered = {"ada": {"user": "ada", "money": 2}}
    async with open_house(tmp_path, clock, lowered) as house:
        assert await used(house, "ada") == before
        await house.budgets.look()
        assert len(await told(house, "ada", "ending")) == 1
        await clock.advance(600)
        await house.budgets.look()
        assert (await ended(house, paid.id)).reason is Reason.BUDGET
    async with open_house(tmp_path, clock, lowered) as house:
        assert (await used(house, "ada")).spent.money == 2 + Decimal(600) / 3600
        assert len(list(house.treasury.ledger.entries(clock.now()))) == 2


async def test_of_many_at_once_only_those_pass_that_the_last_money_pays(tmp_path: Path) -> None:
    """Budgets, promise A."""
    cloud = {**CLOUD, "latency": 20, "shapes": CLOUD["shapes"][:1]}
    async with open_house(tmp_path, ManualClock(START), ADA, {"cloud": cloud}) as house:
        asked = [
            await house.instances.submit("ada", Request(cpus=1, memory=1 << 30, time=8 * HOUR))
            for _ in range(5)
        ]
        outcomes = await asyncio.gather(
            *(house.instances.wait(one.id) for one in asked), return_exceptions=True
        )
        ready = [one for one in outcomes if not isinstance(one, BaseException)]
        assert len(ready) == 2
        assert all(isinstance(one, NoOffer) for one in outcomes if isinstance(one, BaseException))
        assert (await used(house, "ada")).committed.money == 16
        for one in ready:
            await house.instances.stop(one.id)
            await ended(house, one.id)


async def test_refused_attempts_are_paid_too(tmp_path: Path) -> None:
    """Budgets, promise G."""
    faults = [{"call": "create", "error": "crash-after"}]
    providers = {"first": {**CLOUD, "faults": faults}, "second": {**CLOUD, "price": 2}}
    async with open_house(tmp_path, ManualClock(START), ADA, providers) as house:
        ready = await submit(house)
        assert [charge.provider for charge in ready.charges] == ["first", "second"]
        (account,) = house.treasury.ledger.live()
        assert account.charges == ready.charges
        await house.instances.stop(ready.id)
        await ended(house, ready.id)


async def test_a_provider_without_prices_is_refused_where_money_is_counted(tmp_path: Path) -> None:
    """Budgets, promise F."""
    unpriced = {"driver": "fake", "shapes": [{"name": "odd", "priced": False}]}
    async with open_house(tmp_path, ManualClock(START), ADA, {"cloud": unpriced}) as house:
        with pytest.raises(
            NoOffer, match="Its price is not known, and the budget ada counts money: an admin"
        ):
            await submit(house)
        bob = await submit(house, "bob")
        await house.instances.stop(bob.id)
        await ended(house, bob.id)


async def test_projects_pay_for_those_who_may_charge_them(tmp_path: Path) -> None:
    """Budgets, promise E."""
    budgets: dict[str, Any] = {
        "ada": {"user": "ada", "money": 0},
        "wind": {"project": "wind", "group": "lab", "money": 5},
    }
    async with open_house(tmp_path, ManualClock(START), budgets, groups={"lab": ["ada"]}) as house:
        with pytest.raises(NoOffer, match=r"The budget ada is 0\.00 EUR"):
            await submit(house)
        with pytest.raises(
            NoOffer, match="bob may not charge the project 'wind': they may charge none"
        ) as told:
            await submit(house, "bob", project="wind")
        assert "leave --project out" in str(told.value)
        assert "'gridcloud budget list'" in str(told.value)
        assert "again later" not in str(told.value)
        with pytest.raises(NoOffer, match="ada may not charge the project 'sun': they may charge wind"):
            await submit(house, project="sun")
        ready = await submit(house, project="wind")
        assert (await used(house, "wind")).running.money == 1
        await house.users.put(User(name="bob", groups=("lab",)))
        other = await submit(house, "bob", project="wind", time=3 * HOUR)
        with pytest.raises(NoOffer, match=r"The budget wind is 5\.00 EUR"):
            await submit(house, "bob", project="wind", time=2 * HOUR)
        for one in (ready, other):
            await house.instances.stop(one.id)
            await ended(house, one.id)


async def test_gpu_hours_of_machines_that_cost_nothing(tmp_path: Path) -> None:
    free = {"driver": "fake", "shapes": [{"name": "gpu", "cpus": 2, "memory": "4GiB", "gpus": 2}]}
    budgets = {"everyone": {"each": True, "gpu_hours": 4}}
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, budgets, {"lab": free}) as house:
        ready = await submit(house, time=HOUR)
        await clock.advance(HOUR / 2)
        with pytest.raises(
            NoOffer, match=r"The budget everyone of ada is 4.00 GPU-hours .* 1.00 spent, 1.00 com"
        ):
            await submit(house, time=2 * HOUR)
        other = await submit(house, "bob", time=2 * HOUR)
        assert (await used(house, "everyone", "ada")).spent.gpu_hours == 1
        assert (await used(house, "everyone", "bob")).committed.gpu_hours == 4
        for one in (ready, other):
            await house.instances.stop(one.id)
            await ended(house, one.id)


async def test_a_term_that_ends_ends_what_it_paid_for(tmp_path: Path) -> None:
    clock = ManualClock(START)
    term = {"ada": {"user": "ada", "money": 1000, "period": "2026-09-01..2026-09-15"}}
    async with open_house(tmp_path, clock, term) as house:
        paid = await submit(house, time=30 * HOUR)
        await clock.advance(24 * HOUR)
        await house.budgets.look()
        assert (await told(house, paid.id, "warning"))[-1] == (
            "The budget ada ended at 2026-09-16 00:00 UTC: what it pays for is ended at 2026-09-16 00:10 UTC."
        )
        with pytest.raises(NoOffer, match="The budget ada ended at 2026-09-16"):
            await submit(house)
        await clock.advance(600)
        await house.budgets.look()
        assert (await ended(house, paid.id)).reason is Reason.BUDGET


async def test_killed_in_the_middle_nothing_of_it_is_forgotten(tmp_path: Path) -> None:
    """Budgets, promise G."""
    (tmp_path / "data").mkdir(mode=0o700)
    cloud = {**CLOUD, "latency": 300}
    configure(tmp_path, {"cloud": cloud}, budgets=ADA)
    victim = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.budgets.victim", str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert victim.stdout is not None
    async with asyncio.timeout(60):
        async for line in victim.stdout:
            if line.strip() == b"creating":
                break
    victim.kill()
    await victim.communicate()
    async with owning(SettingsFile(tmp_path / "config.yaml", {}), tmp_path / "data") as house:
        (instance,) = await house.instances.records.live()
        assert len(instance.charges) == 1
        with pytest.raises(NoOffer, match=r"The budget ada is 20.00 EUR .*, 5.00 asked, 21\.00 in all"):
            await submit(house, time=5 * HOUR)
        ready = await house.instances.wait(instance.id)
        assert len(await house.providers.get("cloud").holdings()) == 1
        await house.instances.stop(ready.id)
        await ended(house, ready.id)
        (line_,) = house.treasury.ledger.entries(house.clock.now())
        assert line_.since == instance.charges[0].since
        assert "budget" not in await story(house, ready.id)
