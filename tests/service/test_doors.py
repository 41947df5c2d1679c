"""Who can knock: the private socket's modes, the HTTPS door's tokens, and what others own."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gridcloud.client import connect_async
from gridcloud.errors import (
    DriverUnavailable,
    Forbidden,
    InvalidSettings,
    NotAuthenticated,
    NotFound,
    PortTaken,
    QuotaExceeded,
    Untrusted,
)
from gridcloud.service.process import owning
from gridcloud.sessions.model import Plan
from tests.houses import configure
from tests.services import FAKE, SMALL, Service, make_certificate, open_service


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_only_its_owner_reaches_the_private_socket(service: Service) -> None:
    assert (mode(service.socket), mode(service.socket.parent)) == (0o600, 0o700)
    assert mode(service.house.scratch) == 0o700
    async with service.admin() as client:
        told = await client.version()
    assert told.admin
    assert told.user == service.house.administrator


async def test_the_door_takes_valid_tokens_only(service: Service) -> None:
    token, secret = await service.house.tokens.issue("ada")
    expired = await service.token("ada", seconds=0)
    revoked_token, revoked = await service.house.tokens.issue("ada")
    await service.house.tokens.revoke(revoked_token.id)
    good = secret.reveal()
    flipped = good[:-1] + ("A" if good[-1] != "A" else "B")
    bad = ["x", "gc_" + "a" * 19 + "_" + "b" * 32, expired, revoked.reveal(), flipped, good + "é"]
    for text in bad:
        async with service.browser("x") as browser:
            answer = await browser.get("/v1/version", headers={"Authorization": f"Bearer {text}"})
            problem = await answer.json(content_type="application/problem+json")
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert problem["type"] == "urn:gridcloud:error:NotAuthenticated"
        assert problem["status"] == 401
        assert text not in str(problem).replace("x", "") or text == "x"
    async with service.browser("x") as browser:
        for path in ("/v1/version", "/v1/openapi.json", "/v1/nothing", "/"):
            async with (
                aiohttp.ClientSession(connector=browser.connector, connector_owner=False) as nobody,
                nobody.get(service.url + path) as answer,
            ):
                assert answer.status == 401, path
                await answer.read()
    async with service.browser(good) as browser:
        assert (await (await browser.get("/v1/version")).json())["user"] == "ada"
    assert token.user == "ada"


async def test_who_is_unknown_sends_no_body(service: Service) -> None:
    """The answer comes before the body does: nothing is read from who is unknown."""
    reader, writer = await open_tls(service)
    writer.write(b"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401")
    writer.close()
    await writer.wait_closed()


async def open_tls(service: Service) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    import ssl

    trusted = ssl.create_default_context(cafile=service.certificate)
    return await asyncio.open_connection("localhost", int(service.url.rpartition(":")[2]), ssl=trusted)


async def test_a_websocket_without_a_token_is_told_so(service: Service) -> None:
    instance = await service.obtain()
    async with await connect_async(service.url, token="x", ca=service.certificate) as nobody:
        with pytest.raises(NotAuthenticated):
            await nobody.version()
        process = await nobody.command(instance.id, ["true"])
        with pytest.raises(NotAuthenticated):
            [chunk async for chunk in process.output()]


async def test_what_somebody_else_owns_is_not_found(service: Service, tmp_path: Path) -> None:
    instance = await service.obtain("ada")
    wish = Plan(words=("sleep", "60"), probe="/")
    session = await service.house.sessions.submit("ada", SMALL, wish)
    (tmp_path / "file").write_text("x")
    async with await service.user("bob") as bob:
        absent = "i-none"
        attempts: list[Any] = [
            bob.instance,
            bob.stop,
            lambda one: bob.extend(one, time=60),
            lambda one: anext(bob.instance_events(one)),
            lambda one: bob.put(one, tmp_path / "file", "x"),
            lambda one: bob.get(one, "x", tmp_path / "got"),
            lambda one: output_of(bob, one),
        ]
        for attempt in attempts:
            words = []
            for one in (instance.id, absent):
                with pytest.raises(NotFound) as caught:
                    await attempt(one)
                words.append(caught.value.message.replace(one, "ID"))
            assert words[0] == words[1], "nobody can tell what is not theirs from what is not there"
        for attempt in (bob.session, bob.stop_session, bob.wait_session):
            with pytest.raises(NotFound):
                await attempt(session.id)
        assert await bob.instances(all=True, owner="ada") == []
        assert await bob.sessions(all=True, owner="ada") == []
    async with await service.user("ada") as ada, await service.user("root", admin=True) as root:
        assert [one.id for one in await ada.instances()][:1] == [instance.id]
        assert {one.owner for one in await root.instances(all=True)} == {"ada"}
        assert (await root.session(session.id)).owner == "ada"
        assert await root.instances(owner="bob") == []
    await service.house.sessions.stop(session.id)


async def output_of(client: Any, instance_id: str) -> list[tuple[str, bytes]]:
    process = await client.command(instance_id, ["true"])
    return [chunk async for chunk in process.output()]


async def test_a_plain_user_acts_for_nobody_else(service: Service) -> None:
    async with await service.user("bob") as bob, await service.user("root", admin=True) as root:
        with pytest.raises(Forbidden):
            await bob.start(SMALL, owner="ada")
        for forbidden in (
            bob.start_session(SMALL, Plan(words=("x",), exposed={"hub": {"port": 22}})),
            bob.check_provider("cloud"),
            bob.add_provider("more", {"driver": "fake"}),
            bob.remove_provider("cloud"),
            bob.examine(),
            bob.mend(),
            bob.create_token(user="ada"),
            bob.create_token(admin=True),
        ):
            with pytest.raises(Forbidden):
                await forbidden
        assert (await root.start(SMALL, owner="ada")).owner == "ada"
        assert [one.name for one in await bob.providers()] == ["cloud"]


async def test_a_plain_user_names_no_file_of_this_computer(service: Service, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("cat /etc/shadow")
    entries: list[dict[str, Any]] = [
        {"use": "script", "script": str(script)},
        {"use": "script", "script": "/etc/hostname"},
        {"use": "packages", "requirements": str(script)},
        {"use": "ansible", "playbook": str(script)},
        {"use": "nothing"},
        {},
    ]
    async with await service.user("bob") as bob:
        for entry in entries:
            with pytest.raises((InvalidSettings, DriverUnavailable)):
                await bob.start(SMALL, configure=[entry])
        instance = await bob.start(SMALL, configure=[{"use": "script", "text": "echo x > made"}])
        await bob.wait_ready(instance.id)


async def test_a_providers_mistake_is_told_to_administrators_only(tmp_path: Path) -> None:
    providers = {"bad": {"driver": "absent"}, **FAKE}
    async with open_service(tmp_path, providers) as service, await service.user("bob") as bob:
        told = {one.name: one.problem for one in await bob.providers()}
        assert told == {"bad": "It is not set up rightly; an administrator sees why.", "cloud": ""}
        async with service.admin() as admin:
            assert "'absent'" in {one.name: one.problem for one in await admin.providers()}["bad"]


async def test_the_count_holds_when_many_ask_at_once(tmp_path: Path) -> None:
    plan = Plan(words=("sleep", "60"))
    async with (
        open_service(tmp_path, limits={"instances": 3}) as service,
        await service.user("ada") as ada,
        service.admin() as admin,
    ):
        asked = await asyncio.gather(
            *(ada.start(SMALL) for _ in range(6)),
            *(admin.start_session(SMALL, plan, owner="ada") for _ in range(6)),
            return_exceptions=True,
        )
        refused = [one for one in asked if isinstance(one, BaseException)]
        assert [type(one) for one in refused] == [QuotaExceeded] * 9
        assert (await admin.start(SMALL, owner="bob")).owner == "bob"


async def test_a_wrong_certificate_is_not_trusted(service: Service, tmp_path: Path, monkeypatch: Any) -> None:
    token = await service.token("ada")
    async with await connect_async(service.url, token=token) as client:
        with pytest.raises(Untrusted, match="SSL_CERT_FILE"):
            await client.version()
        with pytest.raises(Untrusted):
            await client.command("i-1", ["true"])
    (tmp_path / "other").mkdir()
    other, _ = make_certificate(tmp_path / "other")
    async with await connect_async(service.url, token=token, ca=other) as client:
        with pytest.raises(Untrusted):
            await client.version()
    async with await connect_async(
        service.url.replace("localhost", "localhost.localdomain"), token=token, ca=service.certificate
    ) as client:
        with pytest.raises((Untrusted, OSError, Exception)):  # wrong name, or no such name here
            await client.version()
    monkeypatch.setenv("SSL_CERT_FILE", str(service.certificate))
    async with await connect_async(service.url, token=token) as client:
        assert (await client.version()).user == "ada"
    with pytest.raises(InvalidSettings, match="certificates"):
        await connect_async(service.url, token=token, ca=tmp_path / "config.yaml")


async def test_a_door_that_cannot_open_is_told(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    _, other_key = make_certificate(tmp_path / "elsewhere")
    data = tmp_path / "data"
    data.mkdir(mode=0o700)

    async def open_with(port: int = 0, **changes: Any) -> None:
        door = {"host": "127.0.0.1", "port": port, "certificate": str(certificate), "key": str(key)} | changes
        async with owning(configure(tmp_path, FAKE, service=door), data):
            raise AssertionError("it opened")

    with pytest.raises(InvalidSettings, match="is no file"):
        await open_with(certificate="/nowhere")
    with pytest.raises(InvalidSettings, match="cannot be used"):
        await open_with(key=str(other_key))
    os.chmod(key, 0o644)
    with pytest.raises(InvalidSettings, match="chmod 600"):
        await open_with()
    os.chmod(key, 0o600)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortTaken, match=r"service\.port"):
            await open_with(port=taken.getsockname()[1])
