"""gridcloud killed at random points of starting and stopping: the next run leaves nothing that nobody knows of.

More points by KILL_POINTS (of each kind), other ones by KILL_SEED.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

from gridcloud.connections import programs
from gridcloud.connections.driver import Command
from gridcloud.instances.model import FINAL, State
from gridcloud.service.house import House
from gridcloud.sessions.model import FINAL as SESSION_FINAL
from tests.houses import configure, containers, end, ended, link, machines, obtain, open_house
from tests.labs.containers import SESSION_IMAGE, Engine
from tests.labs.machines import Machine
from tests.sessions.visit import PAGE

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(900)]

POINTS = int(os.environ.get("KILL_POINTS", "10"))
SEED = int(os.environ.get("KILL_SEED", "20"))
AT_ONCE = 3
STEPS = 14
"""Lines that the victim prints in the course of one life of an instance and of a session."""


@dataclass
class Point:
    """One moment to be killed at, and what was found afterwards."""

    number: int
    lines: int
    delay: float
    last: str = ""
    live: int = 0
    mended: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)


async def kill_at(point: Point, folder: Path) -> None:
    """Let a victim live in the folder until the point, and kill it."""
    victim = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bad_days.victim", str(folder), PAGE),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert victim.stdout is not None
        async with asyncio.timeout(120):
            for _ in range(point.lines):
                line = await victim.stdout.readline()
                if not line:
                    _, complaint = await victim.communicate()
                    pytest.fail(f"the victim died by itself: {complaint.decode()}")
                point.last = line.decode().strip()
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
    left = [f"session {one.id} is {one.state}" for one in await house.sessions.lives.live()]
    left += [f"instance {one.id} is {one.state}" for one in await house.instances.records.live()]
    left += [f"{one.what} {one.name}" for one in await house.providers.get("there").holdings()]
    return left + [str(path) for path in (house.data / "providers").glob("*/asked/*")]


async def suffer(point: Point, folder: Path, provider: dict[str, Any]) -> None:
    """Be killed once; then run again, mend, and look."""
    folder.mkdir()
    (folder / "data").mkdir(mode=0o700)
    configure(folder, {"there": provider})
    await kill_at(point, folder)
    async with open_house(folder, {"there": provider}) as house:
        point.mended = await mend(house)
        point.leaks = await look(house)
        point.live = len([one for one in await house.instances.records.live() if one.state not in FINAL])
        point.leaks += await end_all(house)


async def suffer_all(
    kind: str, folder: Path, provider: dict[str, Any], left: Callable[[], Awaitable[Sequence[str]]]
) -> str:
    """Be killed at all points, print what became of each, and return the counts in a line."""
    chance = random.Random(f"{SEED} {kind}")
    points = [Point(n, chance.randint(1, STEPS), chance.uniform(0, 0.4)) for n in range(POINTS)]
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(point: Point) -> None:
        async with gate:
            await suffer(point, folder / f"point{point.number}", provider)

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


async def test_killed_while_it_starts_and_stops_containers(
    tmp_path: Path, podman_engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    async def left() -> list[str]:
        def names() -> list[str]:
            client = docker.DockerClient(base_url=podman_engine.url)
            try:
                return [f"container {one.name}" for one in client.containers.list(all=True)]
            finally:
                client.close()

        return await asyncio.to_thread(names)

    provider = containers(podman_engine, SESSION_IMAGE, overcommit=10)
    conclude(await suffer_all("container", tmp_path, provider, left), capsys)


async def test_killed_while_it_starts_and_stops_on_a_machine(
    tmp_path: Path, ssh_machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ssh_machine.execute("sh", "-c", PROCESSES)

    async def left() -> list[str]:
        found: list[str] = []
        for _ in range(50):  # what served the last connections is still ending
            found = [line for line in ssh_machine.execute("sh", "-c", LEFT).splitlines() if line]
            found += sorted(
                set(ssh_machine.execute("sh", "-c", PROCESSES).split("\n")) - set(before.split("\n"))
            )
            if not found:
                break
            await asyncio.sleep(0.1)
        return found

    provider = machines(ssh_machine, keep_homes=False)
    conclude(await suffer_all("ssh", tmp_path, provider, left), capsys)


async def test_what_an_older_copy_of_the_store_does_not_know_is_mended(
    tmp_path: Path, elsewhere: dict[str, Any]
) -> None:
    provider = elsewhere
    async with open_house(tmp_path, {"there": provider}) as house:
        known = await obtain(house)
    for name in ("store.sqlite", "store.sqlite-wal"):
        if (tmp_path / "data" / name).exists():
            shutil.copy(tmp_path / "data" / name, tmp_path / name)
    async with open_house(tmp_path, {"there": provider}) as house:
        unknown = await obtain(house)
        there = await link(house, unknown)
        await programs.launch(there, Command(("sleep", "7777")), name="p", folder="p")
    for path in (tmp_path / "data").glob("store.sqlite*"):
        path.unlink()
    for path in tmp_path.glob("store.sqlite*"):
        shutil.copy(path, tmp_path / "data" / path.name)
    async with open_house(tmp_path, {"there": provider}) as house:
        [message] = [difference.message for difference in await house.reconciliation.examine()]
        assert unknown.id in message
        [said] = await mend(house)
        assert "Removed" in said
        held = await house.providers.get("there").holdings()
        assert [holding.instance_id for holding in held] == [known.id]
        await end(house, known)


# Only names: numbers of processes change.
PROCESSES = (
    "for p in /proc/[0-9]*; do [ $p = /proc/$$ ] || tr '\\0' ' ' <$p/cmdline 2>/dev/null; echo; done"
    " | grep -v '^$' | grep -v -e '^tr ' -e '^sort' -e '^sshd: /usr/sbin/sshd' | sort -u"
)
LEFT = (
    "ls -d /var/lib/gridcloud/*/instances/* /var/lib/gridcloud/homes/* /tmp/gridcloud-* /etc/sudoers.d/gridcloud-i-* "
    "2>/dev/null; getent passwd | grep ^gc-; find /sys/fs/cgroup -path '*gridcloud/i-*' -type d 2>/dev/null; :"
)
