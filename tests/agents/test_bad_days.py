"""Machines that are cut off, services that return under many of them, proxies in between; sessions live through it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridcloud.agents.dialling import Dialler, Way, join
from gridcloud.agents.hosting import Host
from gridcloud.agents.membership import MembershipFolder
from gridcloud.agents.model import Terms
from gridcloud.errors import InvalidSettings, Unreachable
from gridcloud.identity import Secret
from gridcloud.instances.model import State
from tests.agents.machines import Little, admit, dialling, until
from tests.houses import ended
from tests.proxies import connect_proxy
from tests.services import Service, free_port, open_service
from tests.sessions.visit import begin, fetch, home, over, plan_back
from tests.unit.distributions import write_distribution


@pytest.fixture(autouse=True)
def _driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where the driver was installed with gridcloud itself, that one is taken.
    point = {"agent": "gridcloud.drivers.instances.agent:AgentDriver"}
    monkeypatch.syspath_prepend(str(write_distribution(tmp_path, "agent-driver", "instances", point, {})))


async def test_a_session_lives_through_a_cut_and_ends_clean(tmp_path: Path) -> None:
    async with open_service(tmp_path, {"machines": {"driver": "agent"}}) as service, home() as back:
        way, membership, place = await admit(service, tmp_path / "machine")
        host = Host(membership, tmp_path / "machine" / "host")
        await host.start()
        house = service.house
        async with dialling(service, way, membership, place, host):
            session = await begin(house, plan_back(back))
            assert await fetch(session) == b"here"
            assert await fetch(session, "/back") == b"from home"
            pid = await fetch(session, "/pid")
        await until(lambda: not house.switchboard.present())
        away = (await house.instances.records.get(session.instance_id)).state
        assert away is State.READY, "a machine that is away is waited for"
        async with dialling(service, way, membership, place, host):
            async with asyncio.timeout(40):
                while not await _fetched(session, pid):  # noqa: ASYNC110 - until its tunnels are back
                    await asyncio.sleep(0.1)
            assert await fetch(session, "/back") == b"from home"
            await house.sessions.stop(session.id)
            await over(house, session)
            assert (await ended(house, session.instance_id)).handle is None
            assert (await host.report()).running == ()
            assert await house.reconciliation.examine() == []
        await host.close()


async def _fetched(session: object, pid: bytes) -> bool:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, Exception):
        return await fetch(session, "/pid") == pid  # type: ignore[arg-type]
    return False


async def test_a_service_returns_under_many_machines(tmp_path: Path) -> None:
    port = free_port()
    door = {
        "host": "127.0.0.1",
        "port": port,
        "certificate": str(tmp_path / "localhost.crt"),
        "key": str(tmp_path / "localhost.key"),
    }
    count, url = 50, f"https://localhost:{port}"
    tasks = []
    async with open_service(tmp_path, service=door) as service:
        there = Service(service.house, service.socket, url, service.certificate)
        for number in range(count):
            way, membership, place = await admit(there, tmp_path / f"m{number}", f"m{number}")
            dialler = Dialler(way, membership, await place.key(), Little(tmp_path))
            tasks.append(asyncio.create_task(dialler.run()))
        board = service.house.switchboard
        await until(lambda: len(board.present()) == count, seconds=60)
    async with open_service(tmp_path, service=door) as service:
        board = service.house.switchboard
        await until(lambda: len(board.present()) == count, seconds=60)
        answers = await asyncio.gather(*(board.call(f"m{number}", "look", {}) for number in range(count)))
        assert answers == [{"call": "look"}] * count
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_machine_that_was_removed_while_away_ends_all_and_leaves(tmp_path: Path) -> None:
    async with open_service(tmp_path, {"machines": {"driver": "agent"}}) as service:
        way, membership, place = await admit(service, tmp_path / "machine")
        host = Host(membership, tmp_path / "machine" / "host")
        async with dialling(service, way, membership, place, host):
            instance = await service.obtain(on="machines")
            assert (await host.report()).running == (instance.id,)
        await until(lambda: not service.house.switchboard.present())
        await service.house.agents.remove("lab-pc", "root")
        told: list[str] = []
        dialler = Dialler(way, membership, await place.key(), host, tell=told.append)
        async with asyncio.timeout(30):
            await dialler.run()
        assert told[-1] == f"This machine was removed from {service.url}."
        assert (await host.report()).running == ()
        assert (await ended(service.house, instance.id)).state is State.FAILED
        await host.close()


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that is given a password; what it was asked for."""
    async with connect_proxy() as (url, asked):
        yield url.replace("://", "://ada:secret@"), asked


@pytest.mark.parametrize("given", ["url", "password", "environment"])
async def test_everything_goes_through_a_proxy(
    tmp_path: Path, proxy: tuple[str, list[str]], given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = proxy
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with open_service(tmp_path) as service:
        way = Way(service.url, ca=service.certificate, proxy=url)
        if given == "password":
            alone = url.replace(":secret@", "@")
            way = Way(service.url, ca=service.certificate, proxy=alone, password=Secret("secret"))
        if given == "environment":
            monkeypatch.setenv("HTTPS_PROXY", url)
            way = Way(service.url, ca=service.certificate)
        _, token = await service.house.agents.invite("lab-pc", "admin")
        place = MembershipFolder(tmp_path / "machine")
        membership = await join(way, token, place, Terms())
        assert len(asked) == 1, "joining too"
        async with dialling(service, way, membership, place, Little(tmp_path)):
            assert await service.house.switchboard.call("lab-pc", "look", {}) == {"call": "look"}
        assert asked[0].startswith(f"CONNECT {service.url.removeprefix('https://')} HTTP/1.1")
        wanted = f"Proxy-Authorization: Basic {base64.b64encode(b'ada:secret').decode()}"
        assert len(asked) > 1
        assert all(wanted in head for head in asked)


def test_a_proxy_that_is_none_is_told_without_its_password() -> None:
    for wrong in ("ada:secret@proxy", "socks5://ada:secret@proxy", "http://", "http://ada:secret@proxy:port"):
        with pytest.raises(InvalidSettings) as caught:
            Way("https://localhost", proxy=wrong)
        assert "secret" not in str(caught.value)


async def test_a_certificate_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    async with open_service(tmp_path) as service:
        _, membership, place = await admit(service, tmp_path / "machine")
        told: list[str] = []
        dialler = Dialler(Way(service.url), membership, await place.key(), Little(tmp_path), tell=told.append)
        task = asyncio.create_task(dialler.run())
        await until(lambda: told)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert "shows a certificate that is not trusted" in told[0]
        assert not service.house.switchboard.present()
        with pytest.raises(Unreachable):
            await service.house.switchboard.call("lab-pc", "look", {})
