"""Every limit of a link at every door: each cell of the table in docs/design/data.md."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import asyncssh
import pytest

from gridcloud.clock import ManualClock
from gridcloud.data import guard
from gridcloud.data.links import Codes, new_secret
from gridcloud.data.model import Limits, Rights
from gridcloud.data.shares import Made, Shares, Wish
from tests.data.parts import SFTPAddress, ask, make, open_sftp, open_shares, open_web

KEY = asyncssh.generate_private_key("ssh-ed25519")
OTHER = asyncssh.generate_private_key("ssh-ed25519")
CONTENT = b"0123456789"


@dataclass
class Shown:
    """What a client shows with a link."""

    password: str = ""
    key: asyncssh.SSHKey | None = None


class Client:
    """Does the same through one door; each answer is `ok`, or the words of the door for why not."""

    async def read(self, secret: str, name: str, shown: Shown) -> str:
        raise NotImplementedError

    async def write(self, secret: str, name: str, shown: Shown) -> str:
        raise NotImplementedError

    async def list(self, secret: str, shown: Shown) -> str:
        raise NotImplementedError


class Web(Client):
    """Plain requests, and for WebDAV what its clients do: they look by PROPFIND first."""

    def __init__(self, session: aiohttp.ClientSession, dav: bool) -> None:
        self._session = session
        self._dav = dav

    async def read(self, secret: str, name: str, shown: Shown) -> str:
        if self._dav and (said := await self._ask("PROPFIND", secret, name, shown)) != "ok":
            return said
        return await self._ask("GET", secret, name, shown)

    async def write(self, secret: str, name: str, shown: Shown) -> str:
        if self._dav:
            return await self._ask("LOCK", secret, name, shown)
        return await self._ask("PUT", secret, name, shown, CONTENT)

    async def list(self, secret: str, shown: Shown) -> str:
        return await self._ask("PROPFIND" if self._dav else "GET", secret, "", shown, depth="1")

    async def _ask(
        self, method: str, secret: str, name: str, shown: Shown, data: bytes = b"", depth: str = "0"
    ) -> str:
        headers = {"Depth": depth, "Accept": "application/json"}
        if shown.password:
            headers["Authorization"] = f"Basic {base64.b64encode(f'x:{shown.password}'.encode()).decode()}"
        if method == "LOCK":
            scope = "<lockscope><exclusive/></lockscope><locktype><write/></locktype>"
            data = f'<lockinfo xmlns="DAV:">{scope}</lockinfo>'.encode()
        async with self._session.request(method, f"/s/{secret}/{name}", headers=headers, data=data) as answer:
            text = await answer.text()
            if answer.status < 300:
                return f"ok {text}" if depth == "1" else "ok"
            return f"{answer.status} {answer.headers.get('X-Gridcloud-Limit', '')}".strip()


class SFTP(Client):
    def __init__(self, address: SFTPAddress) -> None:
        self._address = address

    async def read(self, secret: str, name: str, shown: Shown) -> str:
        async def work(files: asyncssh.SFTPClient) -> str:
            async with files.open(name, "rb") as file:
                data: object = await file.read()
                return "ok" if data == CONTENT else "wrong"

        return await self._do(secret, shown, work)

    async def write(self, secret: str, name: str, shown: Shown) -> str:
        async def work(files: asyncssh.SFTPClient) -> str:
            async with files.open(name, "wb") as file:
                await file.write(CONTENT)
            return "ok"

        return await self._do(secret, shown, work)

    async def list(self, secret: str, shown: Shown) -> str:
        async def work(files: asyncssh.SFTPClient) -> str:
            return f"ok {await files.listdir('.')}"

        return await self._do(secret, shown, work)

    async def _do(
        self, secret: str, shown: Shown, work: Callable[[asyncssh.SFTPClient], Awaitable[str]]
    ) -> str:
        try:
            async with (
                self._address.connect(
                    secret,
                    password=shown.password or None,
                    client_keys=[shown.key] if shown.key else None,
                ) as connection,
                connection.start_sftp_client() as files,
            ):
                return await work(files)
        except asyncssh.PermissionDenied:
            return "no login"
        except asyncssh.SFTPPermissionDenied:
            return "denied"
        except asyncssh.SFTPNoSuchFile:
            return "no file"


@dataclass
class Table:
    """The doors over one set of shares."""

    shares: Shares
    clock: ManualClock
    client: Client
    door: str
    folder: Path

    async def make(self, **wished: object) -> Made:
        return await make(self.shares, self.folder, Wish(**wished))  # type: ignore[arg-type]

    def says(self, web: str, sftp: str) -> str:
        """Return what this door is to say."""
        return sftp if self.door == "sftp" else web


@pytest.fixture(params=["https", "webdav", "sftp"])
async def table(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Table]:
    clock = ManualClock()
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "a.csv").write_bytes(CONTENT)
    (folder / "b.txt").write_bytes(CONTENT)
    async with open_shares(tmp_path, clock) as shares:
        if request.param == "sftp":
            async with open_sftp(shares, tmp_path) as address:
                yield Table(shares, clock, SFTP(address), request.param, folder)
            return
        async with open_web(shares, clock) as url, ask(url) as session:
            yield Table(shares, clock, Web(session, request.param == "webdav"), request.param, folder)


NOTHING = Shown()


async def test_open_link(table: Table) -> None:
    made = await table.make(rights=Rights.READ_WRITE)
    assert await table.client.read(made.secret, "a.csv", NOTHING) == "ok"
    assert await table.client.write(made.secret, "new", NOTHING) == "ok"
    assert "b.txt" in await table.client.list(made.secret, NOTHING)


async def test_unknown(table: Table) -> None:
    for secret in (new_secret(), "short"):
        said = await table.client.read(secret, "a.csv", NOTHING)
        assert said == table.says("404 unknown", "no login")


async def test_revoked(table: Table) -> None:
    made = await table.make()
    await table.shares.revoke(made.share.id)
    assert await table.client.read(made.secret, "a.csv", NOTHING) == table.says("404 revoked", "no login")


async def test_expired(table: Table) -> None:
    made = await table.make(limits=Limits(expires=table.clock.now() + timedelta(hours=1)))
    assert await table.client.read(made.secret, "a.csv", NOTHING) == "ok"
    await table.clock.advance(3600)
    assert await table.client.read(made.secret, "a.csv", NOTHING) == table.says("404 expired", "no login")


async def test_network(table: Table) -> None:
    for network, said in (("192.0.2.0/24", table.says("403 network", "no login")), ("127.0.0.0/8", "ok")):
        made = await table.make(limits=Limits(networks=(network,)))
        assert await table.client.read(made.secret, "a.csv", NOTHING) == said


async def test_password(table: Table) -> None:
    made = await table.make(password="hunter2")
    for password in ("", "wrong"):
        said = await table.client.read(made.secret, "a.csv", Shown(password))
        assert said == table.says("401 password", "no login")
    assert await table.client.read(made.secret, "a.csv", Shown("hunter2")) == "ok"


async def test_key(table: Table) -> None:
    made = await table.make(keys=(KEY.export_public_key().decode(),))
    for shown in (NOTHING, Shown("x"), Shown(key=OTHER)):
        assert await table.client.read(made.secret, "a.csv", shown) == table.says("401 key", "no login")
    said = await table.client.read(made.secret, "a.csv", Shown(key=KEY))
    assert said == table.says("401 key", "ok")


@pytest.mark.parametrize("password", ["", "hunter2"])
async def test_code(table: Table, password: str) -> None:
    made = await table.make(password=password, code=True)
    (secret,) = parse_qs(urlsplit(made.code).query)["secret"]
    code = Codes(base64.b32decode(secret)).at(table.clock.now().timestamp())
    wrong = "000000" if code != "000000" else "111111"
    why = "password" if password else "code"
    said = await table.client.read(made.secret, "a.csv", NOTHING)
    assert said == table.says(f"401 {why}", "no login")
    said = await table.client.read(made.secret, "a.csv", Shown(password + wrong))
    assert said == table.says("401 code", "no login")
    assert await table.client.read(made.secret, "a.csv", Shown(password + code)) == "ok"


async def test_uses(table: Table) -> None:
    made = await table.make(limits=Limits(uses=1))
    assert await table.client.read(made.secret, "a.csv", NOTHING) == "ok"
    assert await table.client.read(made.secret, "a.csv", NOTHING) == "ok"
    assert await table.client.read(made.secret, "b.txt", NOTHING) == table.says("403 uses", "denied")


async def test_bytes(table: Table) -> None:
    made = await table.make(limits=Limits(bytes=15))
    assert await table.client.read(made.secret, "a.csv", NOTHING) == "ok"
    said = await table.client.read(made.secret, "b.txt", NOTHING)
    assert said == table.says("403 bytes", "denied")


async def test_rights(table: Table) -> None:
    reading = await table.make()
    no = table.says("403 rights", "denied")
    assert await table.client.write(reading.secret, "a.csv", NOTHING) == no
    assert await table.client.write(reading.secret, "new", NOTHING) == no
    box = await table.make(rights=Rights.WRITE)
    said = await table.client.read(box.secret, "a.csv", NOTHING)
    assert said in {"403 rights", "404", "denied", "no file"}
    assert "b.txt" not in await table.client.list(box.secret, NOTHING)
    if table.door != "webdav":  # its locks are for those who may change files
        assert await table.client.write(box.secret, "a.csv", NOTHING) == "ok"
        assert (table.folder / "a (2).csv").read_bytes() == CONTENT
    assert (table.folder / "a.csv").read_bytes() == CONTENT


async def test_patterns(table: Table) -> None:
    made = await table.make(rights=Rights.READ_WRITE, limits=Limits(patterns=("*.csv",)))
    assert await table.client.read(made.secret, "a.csv", NOTHING) == "ok"
    assert await table.client.read(made.secret, "b.txt", NOTHING) == table.says("404", "no file")
    assert await table.client.write(made.secret, "c.txt", NOTHING) == table.says("403 pattern", "denied")
    assert await table.client.write(made.secret, "c.csv", NOTHING) == "ok"
    listed = await table.client.list(made.secret, NOTHING)
    assert "a.csv" in listed
    assert "b.txt" not in listed


async def test_too_many_guesses(table: Table) -> None:
    made = await table.make()
    for _ in range(guard.GUESSES):
        await table.client.read(new_secret(), "a.csv", NOTHING)
    assert await table.client.read(made.secret, "a.csv", NOTHING) == table.says("429 banned", "no login")
    await table.clock.advance(guard.BAN + 1)
    assert await table.client.read(made.secret, "a.csv", NOTHING) == "ok"
