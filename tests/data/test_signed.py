"""URLs that are signed for one file: they open that, for their time, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from gridcloud.clock import ManualClock
from gridcloud.data import guard
from gridcloud.data.model import Limits, Rights
from gridcloud.data.shares import Made, Shares, Wish
from gridcloud.errors import InvalidRequest, NotFound
from tests.data.parts import ask, make


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def http(web: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with ask(web) as session:
        yield session


async def made_with_file(shares: Shares, folder: Path, wish: Wish) -> Made:
    made = await make(shares, folder, wish)
    (folder / "d").mkdir()
    (folder / "d" / "a b").write_bytes(b"0123456789")
    (folder / "other").write_bytes(b"other")
    return made


async def status(http: aiohttp.ClientSession, path: str, method: str = "GET") -> int:
    async with http.request(method, path) as answer:
        await answer.read()
        return answer.status


async def test_one_file(
    shares: Shares, http: aiohttp.ClientSession, folder: Path, clock: ManualClock
) -> None:
    made = await made_with_file(shares, folder, Wish(rights=Rights.READ_WRITE, password="hunter2"))
    path, expires = await shares.sign(made.share, "d/a b", 3600)
    assert expires - clock.now() <= timedelta(hours=1)
    assert made.secret not in path
    async with http.get(path, headers={"Range": "bytes=2-4"}) as answer:
        assert (answer.status, await answer.read()) == (206, b"234")
    assert await status(http, path, "HEAD") == 200
    for method in ("PUT", "DELETE", "PROPFIND", "MOVE", "LOCK"):
        assert await status(http, path, method) == 405
    head, _, _ = path.rpartition("/d/")
    _, _, share, when, proof = head.split("/")
    for wrong in (
        f"{head}/other",
        f"{head}/d/",
        f"{head}/d/../other",
        f"/f/{share}/{int(when) + 1}/{proof}/d/a%20b",
        f"/f/{share}/{when}/{'A' * 43}/d/a%20b",
        f"/f/{'a' * 32}/{when}/{proof}/d/a%20b",
    ):
        assert await status(http, wrong) in (400, 404), wrong
    await clock.advance(3600)
    async with http.get(path) as answer:
        assert (answer.status, answer.headers["X-Gridcloud-Limit"]) == (404, "expired")
    await shares.settle()
    assert (folder / "d" / "a b").read_bytes() == b"0123456789"


async def test_limits_of_the_share_hold(
    shares: Shares, http: aiohttp.ClientSession, folder: Path, clock: ManualClock
) -> None:
    made = await made_with_file(shares, folder, Wish(limits=Limits(bytes=15), password="hunter2"))
    path, _ = await shares.sign(made.share, "d/a b", 10**6)
    assert await status(http, path) == 200
    assert await status(http, path) == 403
    await shares.edit(made.share.id, Wish(limits=Limits(networks=("192.0.2.0/24",))))
    assert await status(http, path) == 403
    await shares.edit(made.share.id, Wish(limits=Limits(patterns=("*.csv",))))
    assert await status(http, path) == 404
    await shares.edit(made.share.id, Wish(limits=Limits()))
    assert await status(http, path) == 200
    await shares.edit(made.share.id, Wish(password="another"))
    assert await status(http, path) == 404  # what was signed ends with the password
    path, _ = await shares.sign(await shares.lives.get(made.share.id), "d/a b", 10**6)
    assert await status(http, path) == 200
    await shares.revoke(made.share.id)
    assert await status(http, path) == 404
    limited = Limits(expires=clock.now() + timedelta(minutes=1))
    made = await make(shares, folder, Wish(limits=limited))
    assert (await shares.sign(made.share, "d/a b", 3600))[1] <= clock.now() + timedelta(minutes=1)


async def test_what_is_not_signed(shares: Shares, folder: Path) -> None:
    made = await made_with_file(shares, folder, Wish())
    for path, error in (
        ("", InvalidRequest),
        ("d", InvalidRequest),
        ("../x", InvalidRequest),
        ("no", NotFound),
    ):
        with pytest.raises(error):
            await shares.sign(made.share, path, 60)


async def test_revoking_cuts_a_download(shares: Shares, web: str, folder: Path) -> None:
    made = await made_with_file(shares, folder, Wish())
    with (folder / "big").open("wb") as file:
        file.truncate(1 << 30)
    path, _ = await shares.sign(made.share, "big", 60)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(web.rpartition(":")[2]))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(10):
        assert await reader.read(100_000)
        await shares.revoke(made.share.id)
        size = 0
        try:
            while data := await reader.read(1 << 20):
                size += len(data)
        except ConnectionResetError:
            pass
    assert size < 1 << 30
    writer.close()


async def test_guessing_is_counted(shares: Shares, http: aiohttp.ClientSession, folder: Path) -> None:
    made = await made_with_file(shares, folder, Wish())
    path, _ = await shares.sign(made.share, "other", 60)
    for number in range(guard.GUESSES):
        assert await status(http, path.replace(path.split("/")[4], f"{number:043}")) == 404
    assert await status(http, path) == 429
