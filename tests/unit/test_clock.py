"""The clocks: ids that sort and cannot be guessed, and a time that tests own."""

from __future__ import annotations

import asyncio
import re

import pytest

from gridcloud.clock import Clock, ManualClock, SystemClock


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()])
def test_ids_sort_in_the_order_they_were_made_and_fit_the_pattern(clock: Clock) -> None:
    made = [clock.new_id("i") for _ in range(1000)]
    assert made == sorted(made)
    assert len(set(made)) == 1000
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{2,40}", one) for one in made)


def test_system_ids_have_fifty_bits_nobody_can_guess() -> None:
    chances = {SystemClock().new_id("token")[-10:] for _ in range(1000)}
    assert len(chances) == 1000
    assert all(len({one[place] for one in chances}) > 20 for place in range(10))


@pytest.mark.parametrize("prefix", ["", "I", "9", "a-b", "../x", "a" * 17])
def test_a_prefix_that_would_break_the_id_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        SystemClock().new_id(prefix)


async def test_system_time_is_aware_and_sleep_takes_no_negative() -> None:
    clock = SystemClock()
    assert clock.now().utcoffset() is not None
    before = clock.monotonic()
    await clock.sleep(-1)
    assert clock.monotonic() >= before


async def test_advance_wakes_sleepers_in_order_each_at_its_own_time() -> None:
    clock = ManualClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *pauses: float) -> None:
        for pause in pauses:
            await clock.sleep(pause)
            woken.append((name, clock.monotonic()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("slow", 5))
        group.create_task(sleeper("often", 2, 2, 2))
        await clock.until_asleep(2)
        await clock.advance(4.5)
        assert woken == [("often", 2), ("often", 4)]
        start = clock.now()
        await clock.advance(10)
        assert woken[2:] == [("slow", 5), ("often", 6)]
        assert (clock.now() - start).total_seconds() == 10


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(1))
    await clock.until_asleep()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleepers == 0
    await clock.advance(2)
    assert clock.monotonic() == 2
