"""Kill a gridcloud at random moments, let the next one mend what it finds, and count what is left.

More points by KILL_POINTS (of each kind), other ones by KILL_SEED.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gridcloud.instances.model import FINAL, State
from gridcloud.service.house import House
from gridcloud.sessions.model import FINAL as SESSION_FINAL
from tests.houses import configure, ended, open_house

__all__ = [
    "POINTS",
    "SEED",
    "Open",
    "Point",
    "conclude",
    "kill_at",
    "mend",
    "suffer_all",
    "suffer_each",
]

Open = Callable[[Path, dict[str, dict[str, Any]]], AbstractAsyncContextManager[House]]
"""Opens a house over a folder and its providers."""

POINTS = int(os.environ.get("KILL_POINTS", "10"))
SEED = int(os.environ.get("KILL_SEED", "20"))
AT_ONCE = 3


@dataclass
class Point:
    """One moment to be killed at, and what was found afterwards."""

    number: int
    lines: int
    delay: float
    word: str = ""
    """With which lines begin that count; empty: all do."""
    last: str = ""
    live: int = 0
    mended: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)


async def kill_at(point: Point, words: Sequence[str]) -> None:
    """Let a victim live until the point, and kill it. ``words``: its module and arguments."""
    victim = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert victim.stdout is not None
        async with asyncio.timeout(120):
            counted = 0
            while counted < point.lines:
                line = await victim.stdout.readline()
                if not line:
                    _, complaint = await victim.communicate()
                    pytest.fail(f"the victim died by itself: {complaint.decode()}")
                point.last = line.decode().strip()
                counted += point.last.startswith(point.word)
        await asyncio.sleep(point.delay)
    finally:
        if victim.returncode is None:
            victim.kill()
        await victim.communicate()


async def mend(house: House) -> list[str]:
    """Do what `gridcloud doctor --mend` does."""
    await house.settle()
    found = await house.reconciliation.mend(await house.reconciliation.examine())
    return [difference.message for difference in found]


async def look(house: House) -> list[str]:
    """Return what is wrong after mending: things nobody accounts for, and records of which nothing is there."""
    leaks = [difference.message for difference in await house.reconciliation.examine()]
    held = {holding.instance_id for holding in await house.providers.get("there").holdings()}
    live = await house.instances.records.live()
    lost = [one for one in live if one.state is State.READY and one.id not in held]
    return leaks + [f"instance {one.id} is {one.state} with nothing behind it" for one in lost]


async def end_all(house: House) -> list[str]:
    """Stop what lives, as its owners would; return what is left in the store or at the provider."""
    for session in await house.sessions.lives.live():
        await house.sessions.stop(session.id)
    for session in await house.sessions.lives.live():
        async with asyncio.timeout(60):
            async for now in house.sessions.lives.follow(session.id):
                if now.state in SESSION_FINAL:
                    break
    for instance in await house.instances.records.live():
        await house.instances.stop(instance.id)
        await ended(house, instance.id, seconds=60)
    await mend(house)  # what all instances shared goes now that none is left
    left = [f"session {one.id} is {one.state}" for one in await house.sessions.lives.live()]
    left += [f"instance {one.id} is {one.state}" for one in await house.instances.records.live()]
    left += [f"{one.what} {one.name}" for one in await house.providers.get("there").holdings()]
    return left + [str(path) for path in (house.data / "providers").glob("*/asked/*")]


async def suffer(
    point: Point, folder: Path, provider: dict[str, Any], words: Sequence[str], open_: Open
) -> None:
    """Be killed once; then run again, mend, and look."""
    folder.mkdir()
    (folder / "data").mkdir(mode=0o700)
    configure(folder, {"there": provider}, limits={"orphan": 0})
    await kill_at(point, [words[0], str(folder), *words[1:]])
    async with open_(folder, {"there": provider}) as house:
        point.mended = await mend(house)
        point.leaks = await look(house)
        point.live = len([one for one in await house.instances.records.live() if one.state not in FINAL])
        point.leaks += await end_all(house)


async def suffer_all(
    kind: str,
    folder: Path,
    provider: Callable[[int], dict[str, Any]],
    left: Callable[[], Awaitable[Sequence[str]]],
    words: Sequence[str],
    steps: int,
    open_: Open = open_house,
    usual: int = POINTS,
) -> str:
    """Be killed at all points, print what became of each, and return the counts in a line.

    ``provider`` gives the entry for each point. ``words``: the victim's module and its arguments after the folder;
    ``steps``: lines that it prints in the course of one life; ``usual``: points where KILL_POINTS does not say.
    """
    chance = random.Random(f"{SEED} {kind}")
    points = [Point(n, chance.randint(1, steps), chance.uniform(0, 0.4)) for n in range(count_points(usual))]

    async def one(point: Point) -> None:
        await suffer(point, folder / f"point{point.number}", provider(point.number), words, open_)

    return await suffer_each(kind, points, one, left)


def count_points(usual: int) -> int:
    """Return how many points there are: as KILL_POINTS says, else as is usual."""
    return POINTS if "KILL_POINTS" in os.environ else usual


async def suffer_each(
    kind: str,
    points: Sequence[Point],
    suffer_one: Callable[[Point], Awaitable[None]],
    left: Callable[[], Awaitable[Sequence[str]]],
) -> str:
    """Be killed at these points, some at once, print what became of each, and return the counts in a line."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(point: Point) -> None:
        async with gate:
            await suffer_one(point)

    async with asyncio.TaskGroup() as group:
        for point in points:
            group.create_task(one(point))
    for point in points:
        print(
            f"point {point.number}: {point.delay * 1000:.0f} ms after line {point.lines} ({point.last}): "
            f"{point.live} live on, {len(point.mended)} mended, {len(point.leaks)} leaks"
        )
    leaks = [leak for point in points for leak in point.leaks] + list(await left())
    print(*leaks, sep="\n")
    mended = sum(len(point.mended) for point in points)
    live = sum(point.live for point in points)
    return f"KILL-TEST kind={kind} points={len(points)} live={live} mended={mended} leaks={len(leaks)} seed={SEED}"


def conclude(counts: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Say the counts aloud, for documents to quote, and see that nothing leaked."""
    with capsys.disabled():
        print(f"\n{counts}")
    assert " leaks=0 " in counts
