"""gridcloud killed at random points of starting and stopping: the next run leaves nothing that nobody knows of.

More points by KILL_POINTS (of each kind), other ones by KILL_SEED: see `killing`.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import docker
import pytest

from gridcloud.connections import programs
from gridcloud.connections.driver import Command
from tests.bad_days.killing import conclude, mend, suffer_all
from tests.houses import containers, end, link, machines, obtain, open_house
from tests.labs.containers import SESSION_IMAGE, Engine
from tests.labs.machines import Machine
from tests.sessions.visit import PAGE

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(900)]

STEPS = 14
"""Lines that the victim prints in the course of one life of an instance and of a session."""
VICTIM = ("tests.bad_days.victim", PAGE)


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
    conclude(await suffer_all("container", tmp_path, lambda _: provider, left, VICTIM, STEPS), capsys)


async def test_killed_while_it_starts_and_stops_on_a_machine(
    tmp_path: Path, ssh_machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ssh_machine.execute("sh", "-c", PROCESSES)

    async def left() -> list[str]:
        found: list[str] = []
        for _ in range(
            300
        ):  # what served the last connections is still ending, or waits to do what it was told
            found = [line for line in ssh_machine.execute("sh", "-c", LEFT).splitlines() if line]
            found += sorted(
                set(ssh_machine.execute("sh", "-c", PROCESSES).split("\n")) - set(before.split("\n"))
            )
            if not found:
                break
            await asyncio.sleep(0.1)
        return found

    provider = machines(ssh_machine, keep_homes=False)
    conclude(await suffer_all("ssh", tmp_path, lambda _: provider, left, VICTIM, STEPS), capsys)


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
