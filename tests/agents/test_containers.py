"""A machine that gives containers only: what runs in them, their files and ports, as on any other machine."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridcloud.agents.hosting import Host
from gridcloud.agents.model import Terms
from gridcloud.connections.model import Port, Socket
from gridcloud.sessions.model import State
from tests.agents.machines import admit, dialling
from tests.houses import ended, link, obtain, story
from tests.labs.containers import SESSION_IMAGE, Engine
from tests.services import Service, open_service
from tests.sessions.visit import begin, fetch, home, over, plan_back

pytestmark = pytest.mark.needs_root


@pytest.fixture
async def back() -> AsyncIterator[Port]:
    """A server here that a session is to reach."""
    async with home() as port:
        yield port


@contextlib.asynccontextmanager
async def machine(folder: Path, engine: Engine, environment: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service with one machine, whose engine this is."""
    environment.setenv("DOCKER_HOST", engine.url)
    async with open_service(folder, {"machines": {"driver": "agent"}}) as service:
        way, membership, place = await admit(service, folder / "machine")
        terms = Terms(containers_only=True, image=SESSION_IMAGE, cpus=1, memory=1 << 30)
        host = Host(membership.model_copy(update={"terms": terms}), folder / "machine")
        await host.start()
        try:
            async with dialling(service, way, membership, place, host):
                yield service
        finally:
            await host.close()


async def test_a_session_lives_in_a_container_of_a_machine_that_dialled_in(
    tmp_path: Path, podman_engine: Engine, monkeypatch: pytest.MonkeyPatch, back: Port
) -> None:
    async with machine(tmp_path, podman_engine, monkeypatch) as service:
        house = service.house
        session = await begin(house, plan_back(back), environment={"SECRET": "x{port}y $HOME\n'\""})
        assert await fetch(session) == b"here"
        assert await fetch(session, "/back") == b"from home"
        assert json.loads(await fetch(session, "/environment"))["SECRET"] == "x{port}y $HOME\n'\""
        assert isinstance(session.remote, Socket)
        await house.sessions.stop(session.id)
        last = await over(house, session)
        assert last.state is State.ENDED, await story(house, session.id)
        assert (await ended(house, session.instance_id)).handle is None
        assert await house.providers.get("machines").holdings() == []


async def test_files_of_a_container_are_its_own(
    tmp_path: Path, podman_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path, podman_engine, monkeypatch) as service:
        instance = await obtain(service.house)
        connection = await link(service.house, instance)
        (tmp_path / "file").write_text("hello")
        await connection.put(tmp_path / "file", "folder/file")
        await connection.get("folder/file", tmp_path / "back")
        assert (tmp_path / "back").read_text() == "hello"
        await connection.put(tmp_path / "file", str(tmp_path / "escaped"))
        assert not (tmp_path / "escaped").exists(), "the same path within the container"
        await service.house.instances.stop(instance.id)
        await ended(service.house, instance.id)
