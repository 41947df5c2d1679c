"""What goes wrong while a session runs: a taken port, a dead machine, a cut connection, gridcloud itself killed."""

from __future__ import annotations

import asyncio
import sys
import urllib.error
from pathlib import Path
from typing import Any

import docker
import pytest

from gridcloud import connections
from gridcloud.connections import programs
from gridcloud.connections.driver import Command
from gridcloud.errors import GridcloudError
from gridcloud.instances.model import FINAL, Reason
from gridcloud.service.house import House
from gridcloud.sessions.model import Plan, Session, State
from tests.houses import configure, containers, ended, here, link, machines, open_house, story
from tests.labs.containers import SESSION_IMAGE, Engine
from tests.labs.machines import Machine
from tests.sessions.visit import PAGE, begin, fetch, home, over

# The first time somebody takes the port a moment before the program does.
SQUATTED = """
if mkdir "$HOME/gridcloud-squatted" 2>/dev/null; then
  python3 -c 'import os, socket, time; s = socket.socket(); s.bind(("127.0.0.1", int(os.environ["PORT"])))
print("taken", flush=True); time.sleep(60)' > taken &
  until [ -s taken ]; do sleep 0.02; done
fi
exec python3 -c "$1"
"""


async def follow(house: House, session: Session, *states: State, seconds: float) -> Session:
    async with asyncio.timeout(seconds):
        async for now in house.sessions.lives.follow(session.id):
            if now.state in states:
                return now
    raise AssertionError("it never came so far")


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"here": here()}) as house:
        plan = Plan(
            words=("sh", "-c", SQUATTED, "sh", PAGE),
            environment={"PORT": "{port}"},
            directory=str(tmp_path),
        )
        session = await begin(house, plan, environment={"HOME": str(tmp_path)})
        assert await fetch(session) == b"here"
        assert "Trying another port" in await story(house, session.id)
        await house.sessions.stop(session.id)
        assert (await over(house, session)).state is State.ENDED


@pytest.mark.needs_root
async def test_a_container_that_dies_under_a_session(tmp_path: Path, podman_engine: Engine) -> None:
    async with open_house(tmp_path, {"boxes": containers(podman_engine, SESSION_IMAGE)}) as house:
        session = await begin(house)
        instance = await house.instances.records.get(session.instance_id)
        assert instance.handle is not None
        await asyncio.to_thread(kill_container, podman_engine, instance.handle.data["container"])
        last = await over(house, session)
        assert last.state is State.FAILED
        assert last.detail
        assert "gridcloud itself" not in last.detail
        assert str(await house.sessions.failure(last)).count(last.detail)
        assert (await ended(house, instance.id)).state in FINAL
        assert await house.providers.get("boxes").holdings() == []


def kill_container(engine: Engine, container: str) -> None:
    client = docker.DockerClient(base_url=engine.url)
    try:
        client.containers.get(container).kill()
    finally:
        client.close()


@pytest.mark.needs_root
@pytest.mark.lab
async def test_a_machine_that_dies_under_a_session(tmp_path: Path, ssh_machine: Machine) -> None:
    async with open_house(tmp_path, {"pool": machines(ssh_machine)}, limits={"silence": 2}) as house:
        session = await begin(house)
        ssh_machine.kill()
        last = await follow(house, session, State.FAILING, State.FAILED, seconds=90)
        assert last.reason is Reason.LOST
        assert "has not answered since" in last.detail
        assert "does not answer" in await story(house, session.instance_id)
        with pytest.raises(GridcloudError, match="has not answered since"):
            await house.sessions.wait(session.id)


@pytest.mark.needs_root
async def test_a_machine_that_restarts_under_a_session(tmp_path: Path, ssh_machine: Machine) -> None:
    """As after a power cut: nothing of the session is there any more, and the machine says so."""
    async with open_house(tmp_path, {"pool": machines(ssh_machine)}) as house:
        session = await begin(house)
        ssh_machine.execute("sh", "-c", "sed -i 's/ [^ ]*-[0-9]* \\([0-9]*\\)$/ earlier-1 \\1/' " + SPECS)
        last = await over(house, session)
        assert last.state is State.FAILED
        assert "started anew" in last.detail
        assert await house.providers.get("pool").holdings() == []


SPECS = "/var/lib/gridcloud/*/instances/*/spec"
COUNT = "n=0; while [ $n -lt $1 ]; do n=$((n + 1)); echo $n; sleep 0.1; done"


async def live_through_a_cut(folder: Path, machine: Machine, seconds: float) -> None:
    async with open_house(folder, {"pool": machines(machine)}) as house:
        session = await begin(house)
        instance = await house.instances.records.get(session.instance_id)
        there = await link(house, instance)
        lines = int(seconds * 10) + 30
        words = ("sh", "-c", COUNT, "sh", str(lines))
        printing = await programs.launch(there, Command(words), name="count", folder="count")
        machine.cut()
        await asyncio.sleep(seconds)
        machine.heal()
        async with asyncio.timeout(120):
            log = b"".join([chunk async for chunk in programs.follow(there, printing)])
            assert log == b"".join(b"%d\n" % n for n in range(1, lines + 1))
            assert await fetch(session) == b"here"
            assert (await connections.run(there, Command(("echo", "well")))).stdout == b"well\n"
        now = await house.sessions.lives.get(session.id)
        assert now.state is State.RUNNING
        assert now.endpoint == session.endpoint
        await house.sessions.stop(session.id)
        assert (await over(house, session)).state is State.ENDED


@pytest.mark.needs_root
async def test_a_connection_that_is_cut_for_a_moment(tmp_path: Path, ssh_machine: Machine) -> None:
    await live_through_a_cut(tmp_path, ssh_machine, 2)


@pytest.mark.needs_root
@pytest.mark.lab
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [30, 100])
async def test_a_connection_that_is_cut_for_long(tmp_path: Path, ssh_machine: Machine, seconds: int) -> None:
    """After 30 s the old connection still lives; after 100 s it was given up and another one took its place."""
    await live_through_a_cut(tmp_path, ssh_machine, seconds)


async def fetch_at_last(session: Session, path: str) -> bytes:
    """Return a page as soon as somebody listens where the session was."""
    while True:
        try:
            return await fetch(session, path)
        except urllib.error.URLError:
            await asyncio.sleep(0.1)


@pytest.mark.needs_root
async def test_gridcloud_killed_under_a_session(
    tmp_path: Path, opened_anywhere: str, anywhere: dict[str, Any]
) -> None:
    """Killed with no chance to say goodbye: the next run has the session at the same place."""
    provider = anywhere | ({"image": SESSION_IMAGE} if opened_anywhere == "container" else {})
    configure(tmp_path, {"there": provider})
    (tmp_path / "data").mkdir(mode=0o700)
    async with home() as back:
        victim = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bad_days.owner", str(tmp_path), str(back.port)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert victim.stdout is not None
        session = Session.model_validate_json(await victim.stdout.readline())
        try:
            pid = (await fetch(session, "/pid")).decode()
        finally:
            victim.kill()
            await victim.communicate()
        async with open_house(tmp_path, {"there": provider}) as house:
            async with asyncio.timeout(60):
                assert (await fetch_at_last(session, "/pid")).decode() == pid
                assert await fetch(session, "/back") == b"from home"
            assert (await house.sessions.lives.get(session.id)).state is State.RUNNING
            await house.sessions.stop(session.id)
            assert (await over(house, session)).state is State.ENDED
            assert await house.reconciliation.examine() == []
