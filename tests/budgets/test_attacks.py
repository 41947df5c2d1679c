"""Ways to spend more than a budget has, each of which fails."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gridcloud.budgets.ledger import Ledger
from gridcloud.clock import ManualClock
from gridcloud.errors import InvalidRequest, NoOffer, QuotaExceeded
from gridcloud.instances.model import Charge, Instance, Reason, Request, State
from gridcloud.service.house import House
from gridcloud.sessions.model import Plan
from gridcloud.settings.budgets import BudgetSettings
from gridcloud.stacks.model import Definition, Wish
from tests.budgets.scenes import CLOUD, START, ended, open_house, submit, used
from tests.houses import configure

HOUR = 3600
SMALL: dict[str, Any] = {**CLOUD, "shapes": CLOUD["shapes"][:1]}
"""One shape only, for 1 per hour."""


def ada(money: float) -> dict[str, Any]:
    """Return a budget for one user."""
    return {"ada": {"user": "ada", "money": money}}


async def end_all(house: House) -> None:
    """End whatever lives."""
    for one in await house.instances.records.live():
        await house.instances.stop(one.id)
        await ended(house, one.id)


async def test_starts_and_extensions_of_one_moment_share_what_is_left(tmp_path: Path) -> None:
    """Budgets, promise A."""
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ada(10), {"cloud": SMALL}) as house:
        running = [await submit(house) for _ in range(4)]
        later = clock.now() + timedelta(hours=2)
        extensions = [house.instances.extend(one.id, later) for one in running]
        starts = [submit(house) for _ in range(8)]
        mixed = [work for pair in zip(starts, extensions * 2, strict=True) for work in pair]
        outcomes = await asyncio.gather(*dict.fromkeys(mixed), return_exceptions=True)
        passed = [one for one in outcomes if isinstance(one, Instance)]
        assert all(isinstance(one, NoOffer | QuotaExceeded | Instance) for one in outcomes), outcomes
        assert len(passed) == 6, "four hours are promised, six are left"
        assert (await used(house, "ada")).committed.money == 10
        await end_all(house)


async def test_extensions_of_one_machine_at_one_moment_are_judged_one_after_the_other(tmp_path: Path) -> None:
    """Budgets, promise A."""
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ada(4), {"cloud": SMALL}) as house:
        one, other = await submit(house), await submit(house)
        wishes = [
            house.instances.extend(each.id, clock.now() + timedelta(hours=hours))
            for hours in (2, 3, 4, 2, 3)
            for each in (one, other)
        ]
        await asyncio.gather(*wishes, return_exceptions=True)
        assert (await used(house, "ada")).committed.money <= 4
        await end_all(house)


async def test_a_short_end_before_the_beginning_promises_nothing_less(tmp_path: Path) -> None:
    """Budgets, promise A: who extends a machine that is not ready would be promised a second, and live for hours."""
    slow = {**SMALL, "latency": 5}
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ada(10), {"cloud": slow}) as house:
        wish = Request(cpus=1, memory=1 << 30, time=10 * HOUR)
        first = await house.instances.submit("ada", wish)
        async for one in house.instances.records.follow(first.id):
            if one.state is State.CREATING:
                break
        with pytest.raises(InvalidRequest, match="is creating: its time begins when it is ready"):
            await house.instances.extend(first.id, clock.now() + timedelta(seconds=1))
        assert (await used(house, "ada")).committed.money == 10
        await end_all(house)


async def test_an_expiry_in_another_zone_is_told_in_utc(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ada(10), {"cloud": SMALL}) as house:
        one = await submit(house)
        elsewhere = (clock.now() + timedelta(hours=2)).astimezone(timezone(timedelta(hours=5)))
        extended = await house.instances.extend(one.id, elsewhere)
        assert extended.expires == datetime(2026, 9, 15, 2, tzinfo=UTC)
        messages = [event.message for event in await house.store.events(subject=one.id)]
        assert "Ends 2026-09-15 02:00:00 UTC now." in messages
        await end_all(house)


async def test_each_who_uses_a_budget_is_warned_once_over_restarts(tmp_path: Path) -> None:
    """Budgets, promise D: those who come later too; a limit that was raised warns of itself."""
    clock = ManualClock(START)
    course = {"course": {"group": "course", "money": 10}}
    groups = {"course": ["ada", "bob"]}

    async def warnings(house: House, one: Instance) -> list[str]:
        await house.budgets.look()
        events = await house.store.events(subject=one.id)
        return [event.message[:4] for event in events if event.type == "warning"]

    async with open_house(tmp_path, clock, course, {"cloud": SMALL}, groups=groups) as house:
        first = await submit(house, time=9 * HOUR)
        await clock.advance(8 * HOUR)
        assert await warnings(house, first) == ["80 %"]
        assert await warnings(house, first) == ["80 %"]
        await clock.advance(HOUR / 2)
        again = await submit(house, time=HOUR // 2)
    async with open_house(tmp_path, clock, course, {"cloud": SMALL}, groups=groups) as house:
        assert await warnings(house, first) == ["80 %"]
        assert await warnings(house, again) == [], "ada was told"
        later = await submit(house, "bob", time=HOUR // 2)
        assert await warnings(house, later) == ["85 %"]
        assert await warnings(house, first) == ["80 %"]
        told = [event.type for event in await house.store.events(subject="course")]
        assert told == ["warned"]
        configure(
            tmp_path, {"cloud": SMALL}, budgets={"course": {"group": "course", "money": 11}}, groups=groups
        )
        await house.budgets.look()
        await clock.advance(0.4 * HOUR)
        assert await warnings(house, first) == ["80 %", "88 %"], "of the new limit"
        await end_all(house)


async def test_one_budget_that_cannot_be_looked_at_leaves_the_others_looked_at(tmp_path: Path) -> None:
    clock = ManualClock(START)
    budgets = {"a": {"user": "ada", "money": 10}, "b": {"user": "bob", "money": 10}}
    async with open_house(tmp_path, clock, budgets, {"cloud": SMALL}) as house:
        ada_, bob = await submit(house, time=9 * HOUR), await submit(house, "bob", time=9 * HOUR)
        await clock.advance(8.5 * HOUR)
        # A record that another version wrote.
        await house.store.insert("budget", "a", "", "open", {"since": "never"}, [])
        await house.budgets.look()
        assert "warning" in [event.type for event in await house.store.events(subject=bob.id)]
        assert ada_.state is State.READY
        await end_all(house)


async def test_what_a_budget_ended_is_saved_first_and_does_not_begin_anew(tmp_path: Path) -> None:
    """Budgets, promise A: the hook runs once, and whoever tries again is judged again."""
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ada(10), {"cloud": SMALL}) as house:
        wish = Request(cpus=1, memory=1 << 30, time=10 * HOUR)
        one = await house.instances.submit("ada", wish, before_end=("sh", "-c", "echo saved; exit 3"))
        await house.instances.wait(one.id)
        configure(tmp_path, {"cloud": SMALL}, budgets=ada(5))
        await clock.advance(5 * HOUR)
        await house.budgets.look()
        await clock.advance(600)
        await house.budgets.look()
        last = await ended(house, one.id)
        assert last.reason is Reason.BUDGET
        types = [event.type for event in await house.store.events(subject=one.id)]
        assert types.count("saving") == types.count("saved") == 1
        assert types.index("saved") < types.index("stopped")
        for avoid in ([], [last.offer] if last.offer else []):
            again = await house.instances.submit("ada", wish, avoid=avoid)
            with pytest.raises(NoOffer, match=r"The budget ada is 5\.00 EUR"):
                await house.instances.wait(again.id)
        assert not await house.providers.get("cloud").holdings()


async def test_stacks_and_sessions_pass_the_same_judgement(tmp_path: Path) -> None:
    """Budgets, promise A."""
    member = Wish(request=Request(cpus=1, memory=1 << 30, time=HOUR))
    async with open_house(tmp_path, ManualClock(START), ada(1), {"cloud": SMALL}) as house:
        ready = await submit(house)
        session = await house.sessions.submit("ada", member.request, Plan(words=("true",)))
        async for now in house.sessions.lives.follow(session.id):
            last = now
        assert "The budget ada is 1.00 EUR" in last.detail
        stack = await house.stacks.define("ada", "web", Definition(instances={"a": member}))
        await house.stacks.deploy(stack.id)
        async for one in house.stacks.lives.follow(stack.id):
            if one.members["a"].problem:
                assert "The budget ada is 1.00 EUR" in one.members["a"].problem
                break
        assert (await used(house, "ada")).committed.money == 1
        assert len(await house.providers.get("cloud").holdings()) == 1
        await end_all(house)
        assert ready.charges


async def test_amounts_beyond_all_reason_are_still_reckoned(tmp_path: Path) -> None:
    dear = {**CLOUD, "shapes": [{**CLOUD["shapes"][0], "price": "1e40"}]}
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ada(10), {"cloud": dear}) as house:
        with pytest.raises(NoOffer, match=r"The budget ada is 10\.00 EUR"):
            await submit(house)
        bob = await submit(house, "bob")
        await clock.advance(HOUR)
        await house.instances.stop(bob.id)
        assert (await ended(house, bob.id)).state is State.STOPPED


@pytest.mark.parametrize("term", ["9999-01-01..9999-12-31", "0001-01-01..2026-01-01"])
def test_terms_that_no_calendar_holds_are_refused(term: str) -> None:
    with pytest.raises(ValueError, match="is not between the years"):
        BudgetSettings(money=Decimal(1), period=term)


def test_what_was_read_before_an_end_is_not_taken_up_after_it() -> None:
    """A record that was read while its instance ended would cost for ever."""
    ledger = Ledger()
    charge = Charge(provider="p", price=Decimal(1), since=START)
    live = Instance(id="i-1", owner="ada", request=Request(), state=State.CREATING, created=START, version=3)
    ledger.note(live.model_copy(update={"charges": (charge,)}), START)
    ledger.note(live.model_copy(update={"state": State.FAILED, "version": 4}), START)  # never made
    ledger.note(live.model_copy(update={"charges": (charge,)}), START)
    assert not ledger.live()


async def test_what_is_saved_before_the_end_is_within_the_budget(tmp_path: Path) -> None:
    """Budgets, promise D: a machine costs while its command runs."""
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, ada(20), {"cloud": SMALL}) as house:
        wish = Request(cpus=1, memory=1 << 30, time=19 * HOUR)
        one = await house.instances.wait((await house.instances.submit("ada", wish, before_end=("true",))).id)
        configure(tmp_path, {"cloud": SMALL}, budgets=ada(1))
        await clock.advance(HOUR - 1200)
        while (await house.instances.records.get(one.id)).state is State.READY:
            await house.budgets.look()
            await clock.advance(60)
        assert (await ended(house, one.id)).reason is Reason.BUDGET
        spent = (await used(house, "ada")).spent.money
        assert Decimal("0.95") < spent <= 1 - Decimal(house.instances.timing.before_end) / HOUR


async def test_machines_that_start_for_longer_than_they_are_to_live_are_ended_without_grace(
    tmp_path: Path,
) -> None:
    """Budgets, promise D: a second is promised to each, and minutes are paid."""
    clock = ManualClock(START)
    slow = {**SMALL, "boot_seconds": 3600}
    async with open_house(tmp_path, clock, ada(0.5), {"cloud": slow}) as house:
        made = [
            await house.instances.submit("ada", Request(cpus=1, memory=1 << 30, time=1)) for _ in range(5)
        ]
        for one in made:
            async for now in house.instances.records.follow(one.id):
                if now.state is State.STARTING:
                    break
        while (await house.instances.records.get(made[0].id)).state is State.STARTING:
            await clock.advance(60)
            await house.budgets.look()
        for one in made:
            assert (await ended(house, one.id)).reason is Reason.BUDGET
        assert (await used(house, "ada")).spent.money <= Decimal("0.5")
