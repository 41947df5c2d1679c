"""Sessions on real instances of each kind: a program there, reached from here, that reaches back."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gridcloud.connections.model import Port, Socket
from gridcloud.errors import Rejected
from gridcloud.sessions.model import Plan, Session, State
from tests.houses import containers, ended, here, machines, open_house, story
from tests.labs.containers import SESSION_IMAGE, Engine
from tests.labs.machines import Machine
from tests.sessions.visit import SMALL, begin, fetch, home, over, plan_back


@pytest.fixture
async def back() -> AsyncIterator[Port]:
    """A server here that a session is to reach."""
    async with home() as port:
        yield port


async def live_a_life(folder: Path, provider: dict[str, Any], back: Port) -> Session:
    async with open_house(folder, {"there": provider}) as house:
        session = await begin(house, plan_back(back), environment={"SECRET": "x{port}y $HOME\n'\""})
        assert await fetch(session) == b"here"
        assert await fetch(session, "/back") == b"from home"
        given = json.loads(await fetch(session, "/environment"))
        assert given["SECRET"] == "x{port}y $HOME\n'\""
        assert "SECRET" not in session.model_dump_json()
        await house.sessions.stop(session.id)
        last = await over(house, session)
        assert last.state is State.ENDED, await story(house, session.id)
        assert last.endpoint is None
        with pytest.raises(OSError, match="refused"):
            await fetch(session)
        assert (await ended(house, session.instance_id)).handle is None
        assert await house.providers.get("there").holdings() == []
        assert await house.reconciliation.examine() == []
        return session


async def test_on_this_computer(tmp_path: Path, back: Port) -> None:
    session = await live_a_life(tmp_path, here(), back)
    assert isinstance(session.remote, Port)


@pytest.mark.needs_root
async def test_on_this_computer_as_another_account(tmp_path: Path, back: Port) -> None:
    name = f"gct{secrets.token_hex(3)}"
    await asyncio.to_thread(subprocess.run, ["useradd", "--create-home", name], check=True)
    try:
        with tempfile.TemporaryDirectory(prefix="gct-session-", dir="/var/tmp") as folder:
            Path(folder).chmod(0o711)
            provider = here(directory=folder, accounts={"ada": name})
            session = await live_a_life(tmp_path, provider, back)
            # Other accounts could take a port as soon as it is free, and be sent what is meant for the session.
            assert isinstance(session.remote, Socket)
            assert not Path(session.remote.path).parent.exists()
    finally:
        await asyncio.to_thread(
            subprocess.run, ["userdel", "--remove", name], check=True, capture_output=True
        )


@pytest.mark.needs_root
async def test_on_a_machine(tmp_path: Path, ssh_machine: Machine, back: Port) -> None:
    session = await live_a_life(tmp_path, machines(ssh_machine), back)
    # Nobody else on the machine can reach it: it listens on a socket in a private folder.
    assert isinstance(session.remote, Socket)
    assert session.remote.path not in ssh_machine.execute("cat", "/proc/net/unix")
    assert "page" not in ssh_machine.execute("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


@pytest.mark.needs_root
async def test_in_a_container(tmp_path: Path, container_engine: Engine, back: Port) -> None:
    session = await live_a_life(tmp_path, containers(container_engine, SESSION_IMAGE), back)
    assert isinstance(session.remote, Socket)


async def test_a_program_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"here": here()}) as house:
        plan = Plan(words=("sh", "-c", "echo the reason is this; exit 9"))
        session = await house.sessions.submit("ada", SMALL, plan)
        with pytest.raises(Rejected, match="exit code 9: the reason is this"):
            await house.sessions.wait(session.id)
        assert (await over(house, session)).state is State.FAILED
        assert await house.providers.get("here").holdings() == []


async def test_a_machine_without_the_program_is_told_as_such_with_what_mends_it(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"here": here()}) as house:
        session = await house.sessions.submit("ada", SMALL, Plan(words=("jupyterhub-nobody",)))
        with pytest.raises(Rejected, match=r"no program 'jupyterhub-nobody'.*'packages' below 'session'"):
            await house.sessions.wait(session.id)


async def test_a_plans_files_lie_beside_its_program(tmp_path: Path) -> None:
    text = "as it is: $HOME {files} 'x'\n\\n%s"
    plan = Plan(
        words=("sh", "-c", 'cat "$1"/a/b/text; ls -l "$1"/a; exit 9', "sh"),
        files={"a/b/text": text, "a/other": ""},
        reading=("{files}",),
    )
    async with open_house(tmp_path, {"here": here()}) as house:
        session = await house.sessions.submit("ada", SMALL, plan)
        last = await over(house, session)
        assert last.log.startswith(text), last.detail
        assert "-rw-------" in last.log


@pytest.mark.parametrize(
    "files",
    [
        {"../up": ""},
        {"/top": ""},
        {"a//b": ""},
        {"a/../b": ""},
        {"": ""},
        {"-x": ""},
        {"a": "\0"},
        {"a": "x" * 100_000},
    ],
)
def test_a_plans_files_are_few_and_stay_in_their_folder(files: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Plan(words=("true",), files=files)


async def test_stopped_at_every_step_leaves_nothing(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"here": here()}) as house:
        for step in (State.PLACING, State.LAUNCHING):
            session = await house.sessions.submit("ada", SMALL, Plan(words=("sleep", "60")))
            async for now in house.sessions.lives.follow(session.id):
                if now.state is step:
                    break
            await house.sessions.stop(session.id)
            assert (await over(house, session)).state is State.ENDED
            assert await house.providers.get("here").holdings() == []
