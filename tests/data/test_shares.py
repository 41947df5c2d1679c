"""Links: who is let in with what, what they may do, what their owner sees."""

from __future__ import annotations

import asyncio
import re
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncssh
import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from gridcloud.clock import ManualClock
from gridcloud.data import guard, links
from gridcloud.data.model import Door, Limits, Rights, State
from gridcloud.data.shares import Knock, Made, Shares, Wish
from gridcloud.data.visits import Visit
from gridcloud.errors import (
    Conflict,
    Forbidden,
    GridcloudError,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    Throttled,
)
from tests.data.parts import make

HERE = "192.0.2.1"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "shared"
    found.mkdir()
    (found / "a.csv").write_bytes(b"0123456789")
    (found / "b.txt").write_bytes(b"text")
    return found


async def knock(shares: Shares, secret: str, address: str = HERE, **shown: Any) -> Visit:
    return await shares.admit(Knock(Door.SFTP, address, secret, **shown))


async def add(visit: Visit, name: str, data: bytes = b"x") -> None:
    writer = await visit.write((name,))
    try:
        await writer.write(0, data)
        await writer.finish()
    finally:
        await writer.abort()


async def take(visit: Visit, name: str) -> bytes:
    reader = await visit.read((name,))
    try:
        return await reader.read(0, 1 << 20)
    finally:
        await reader.close()


async def names(visit: Visit) -> list[str]:
    return sorted([one.name async for batch in visit.scan(()) for one in batch])


def limit(error: pytest.ExceptionInfo[GridcloudError]) -> str:
    return str(error.value.details["limit"])


async def test_secret_is_in_no_record(shares: Shares, folder: Path, tmp_path: Path) -> None:
    made = await make(shares, folder, Wish(password="hunter2"))
    assert re.fullmatch(r"[0-9A-Za-z]{22}", made.secret)
    assert made.secret not in made.share.model_dump_json()
    assert "hunter2" not in made.share.model_dump_json()
    assert made.secret not in repr(made)
    assert (await shares.reveal(made.share)).secret == made.secret
    assert made.secret.encode() not in b"".join(one.read_bytes() for one in tmp_path.glob("store.sqlite*"))
    assert stat.S_IMODE((tmp_path / "shares" / "links.key").stat().st_mode) == 0o600


async def test_length_is_chosen(shares: Shares, folder: Path) -> None:
    assert len((await shares.create("ada", "", str(folder), Wish(), 10)).secret) == 10
    for length in (9, 65):
        with pytest.raises(InvalidRequest):
            await shares.create("ada", "", str(folder), Wish(), length)


async def test_folder_has_to_be_one(shares: Shares, folder: Path) -> None:
    for path in (folder / "a.csv", folder / "no"):
        with pytest.raises((InvalidRequest, NotFound)):
            await shares.create("ada", "", str(path), Wish(), 22)


async def test_rights_to_read(shares: Shares, folder: Path) -> None:
    visit = await knock(shares, (await make(shares, folder)).secret)
    assert await names(visit) == ["a.csv", "b.txt"]
    assert await take(visit, "a.csv") == b"0123456789"
    for work in (
        add(visit, "c"),
        visit.remove(("a.csv",)),
        visit.move(("a.csv",), ("c",)),
        visit.copy(("a.csv",), ("c",)),
        visit.make_folder(("d",)),
    ):
        with pytest.raises(Forbidden) as error:
            await work
        assert limit(error) == "rights"
    assert sorted(one.name for one in folder.iterdir()) == ["a.csv", "b.txt"]


async def test_drop_box(shares: Shares, folder: Path) -> None:
    visit = await knock(shares, (await make(shares, folder, Wish(rights=Rights.WRITE))).secret)
    await add(visit, "a.csv", b"mine")
    await add(visit, "a.csv", b"mine, too")
    await add(visit, "new.tar.gz", b"new")
    assert (await visit.stat(("new.tar.gz",))).size == 3
    assert (folder / "a.csv").read_bytes() == b"0123456789"
    assert (folder / "a (2).csv").read_bytes() == b"mine"
    assert (folder / "a (3).csv").read_bytes() == b"mine, too"
    with pytest.raises(NotFound):
        await visit.stat(("b.txt",))
    for work in (
        names(visit),
        take(visit, "new.tar.gz"),
        visit.remove(("a.csv",)),
        visit.copy(("b.txt",), ("c",)),
    ):
        with pytest.raises(Forbidden):
            await work
    await visit.make_folder(("d",))
    await visit.make_folder(("d",))


async def test_read_write(shares: Shares, folder: Path) -> None:
    visit = await knock(shares, (await make(shares, folder, Wish(rights=Rights.READ_WRITE))).secret)
    await add(visit, "a.csv", b"new")
    assert (folder / "a.csv").read_bytes() == b"new"
    await visit.make_folder(("d",))
    await visit.copy(("a.csv",), ("d", "a"))
    await visit.copy(("d",), ("e",))
    with pytest.raises(Conflict):
        await visit.move(("b.txt",), ("e", "a"))
    await visit.move(("b.txt",), ("e",), replace=True)
    assert (folder / "e").read_bytes() == b"text"
    with pytest.raises(Conflict):
        await visit.remove(("d",))
    await visit.remove(("d",), whole=True)
    assert await names(visit) == ["a.csv", "e"]
    with pytest.raises(InvalidRequest):
        await visit.remove(())


async def test_expiry(shares: Shares, folder: Path, clock: ManualClock) -> None:
    wish = Wish(limits=Limits(expires=clock.now() + timedelta(hours=1)))
    made = await make(shares, folder, wish)
    visit = await knock(shares, made.secret)
    reader = await visit.read(("a.csv",))
    await clock.advance(3600)
    for work in (reader.read(0, 1), names(visit), knock(shares, made.secret)):
        with pytest.raises(NotFound) as error:
            await work
        assert limit(error) == "expired"
    await reader.close()
    await shares.edit(made.share.id, Wish(limits=Limits()))
    assert await names(await knock(shares, made.secret)) == ["a.csv", "b.txt"]


async def test_networks(shares: Shares, folder: Path) -> None:
    made = await make(shares, folder, Wish(limits=Limits(networks=("192.0.2.0/24", "2001:db8::/32"))))
    for address in ("192.0.2.7", "2001:db8::1", "::ffff:192.0.2.9"):
        await knock(shares, made.secret, address)
    for address in ("192.0.3.7", "2001:db9::1", "nonsense"):
        with pytest.raises(Forbidden) as error:
            await knock(shares, made.secret, address)
        assert limit(error) == "network"


async def test_uses_are_files(shares: Shares, folder: Path, clock: ManualClock) -> None:
    made = await make(shares, folder, Wish(limits=Limits(uses=2)))
    visit = await knock(shares, made.secret)
    await names(visit)
    for name in ("a.csv", "a.csv", "b.txt", "a.csv"):
        await take(visit, name)
    with pytest.raises(Forbidden) as error:
        await take(await knock(shares, made.secret, "192.0.2.2"), "a.csv")
    assert limit(error) == "uses"
    await clock.advance(3601)
    with pytest.raises(Forbidden):
        await take(visit, "a.csv")
    assert (await shares.lives.get(made.share.id)).used == 2


async def test_bytes(shares: Shares, folder: Path) -> None:
    made = await make(shares, folder, Wish(rights=Rights.READ_WRITE, limits=Limits(bytes=25)))
    visit = await knock(shares, made.secret)
    await take(visit, "a.csv")
    with pytest.raises(Forbidden) as error:
        await add(visit, "c", bytes(16))
    assert limit(error) == "bytes"
    assert not (folder / "c").exists()
    await add(visit, "c", bytes(15))
    await shares.settle()
    assert (await shares.lives.get(made.share.id)).moved == 25


async def test_patterns(shares: Shares, folder: Path) -> None:
    wish = Wish(rights=Rights.READ_WRITE, limits=Limits(patterns=("*.csv",)))
    visit = await knock(shares, (await make(shares, folder, wish)).secret)
    assert await names(visit) == ["a.csv"]
    with pytest.raises(NotFound):
        await take(visit, "b.txt")
    for work in (add(visit, "c.txt"), visit.move(("a.csv",), ("a.txt",)), visit.copy(("a.csv",), ("a.txt",))):
        with pytest.raises(Forbidden) as error:
            await work
        assert limit(error) == "pattern"
    await add(visit, "c.csv")


async def test_password(shares: Shares, folder: Path) -> None:
    made = await make(shares, folder, Wish(password="hunter2"))
    await knock(shares, made.secret, password="hunter2")
    for shown in ("", "hunter3", "hunter2 "):
        with pytest.raises(NotAuthenticated) as error:
            await knock(shares, made.secret, password=shown)
        assert limit(error) == "password"
    before = await knock(shares, made.secret, password="hunter2")
    await shares.edit(made.share.id, Wish(password="other"))
    with pytest.raises(NotAuthenticated):
        await names(before)
    with pytest.raises(NotAuthenticated):
        await knock(shares, made.secret, password="hunter2")
    await knock(shares, made.secret, password="other")


async def test_keys(shares: Shares, folder: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519", "somebody").export_public_key().decode()
    made = await make(shares, folder, Wish(keys=(key,)))
    await knock(shares, made.secret, key=" ".join(key.split()[:2]))
    for shown in ({}, {"password": "x"}, {"key": "ssh-ed25519 other"}):
        with pytest.raises(NotAuthenticated) as error:
            await knock(shares, made.secret, **shown)
        assert limit(error) == "key"
    with pytest.raises(InvalidRequest):
        await make(shares, folder, Wish(keys=("nonsense",)))


def code_of(made: Made, clock: ManualClock) -> str:
    import base64

    (secret,) = parse_qs(urlsplit(made.code).query)["secret"]
    return TOTP(base64.b32decode(secret), 6, SHA1(), 30).generate(int(clock.now().timestamp())).decode()  # noqa: S303


async def test_code(shares: Shares, folder: Path, clock: ManualClock) -> None:
    made = await make(shares, folder, Wish(password="hunter2", code=True))
    code = code_of(made, clock)
    wrong = "000000" if code != "000000" else "111111"
    for shown in ("hunter2", f"hunter2{wrong}", code):
        with pytest.raises(NotAuthenticated):
            await knock(shares, made.secret, password=shown)
    await knock(shares, made.secret, password=f"hunter2{code}")
    await clock.advance(120)
    await knock(shares, made.secret, password=f"hunter2{code}")  # remembered from there
    with pytest.raises(NotAuthenticated) as error:  # and good for nobody else
        await knock(shares, made.secret, "192.0.2.2", password=f"hunter2{code}")
    assert limit(error) == "code"
    fresh = code_of(made, clock)
    await knock(shares, made.secret, "192.0.2.2", password=f"hunter2{fresh}")
    with pytest.raises(NotAuthenticated):  # a code is good once
        await knock(shares, made.secret, "192.0.2.3", password=f"hunter2{fresh}")
    key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    with pytest.raises(InvalidRequest):
        await make(shares, folder, Wish(code=True, keys=(key,)))


async def test_revoking_cuts(shares: Shares, folder: Path) -> None:
    made = await make(shares, folder)
    visit = await knock(shares, made.secret)
    cut = asyncio.Event()
    visit.on_cut(1, cut.set)
    reader = await visit.read(("a.csv",))
    assert (await shares.revoke(made.share.id)).state is State.REVOKED
    assert cut.is_set()
    for work in (reader.read(0, 1), names(visit), knock(shares, made.secret)):
        with pytest.raises(NotFound) as error:
            await work
        assert limit(error) == "revoked"
    await reader.close()
    await shares.revoke(made.share.id)
    assert (await shares.reveal(made.share)).secret == ""


async def test_guessing_links_is_banned(shares: Shares, folder: Path, clock: ManualClock) -> None:
    made = await make(shares, folder)
    for _ in range(guard.GUESSES):
        with pytest.raises(NotFound):
            await knock(shares, links.new_secret())
    for secret in (links.new_secret(), made.secret):
        with pytest.raises(Throttled) as error:
            await knock(shares, secret)
        assert limit(error) == "banned"
    await knock(shares, made.secret, "192.0.2.2")
    await clock.advance(guard.BAN + 1)
    await knock(shares, made.secret)
    for _ in range(guard.GUESSES):
        with pytest.raises(NotFound):
            await knock(shares, "short")
    await clock.advance(guard.BAN + 1)
    with pytest.raises(Throttled):  # the second ban takes longer
        await knock(shares, made.secret)


def test_guessing_from_many_addresses(clock: ManualClock) -> None:
    watch = guard.Guard(clock)
    watch.welcome("192.0.2.1", "s")
    for number in range(guard.SHARE_GUESSES):
        watch.check(f"2001:db8:{number:x}::1", "s")
        watch.fail(f"2001:db8:{number:x}::1", "s")
    with pytest.raises(Throttled):
        watch.check("2001:db8:ffff::1", "s")
    watch.check("192.0.2.1", "s")
    watch.check("2001:db8:ffff::1", "another")


def test_one_network_of_ipv6_is_one_guesser(clock: ManualClock) -> None:
    watch = guard.Guard(clock)
    for number in range(guard.GUESSES):
        watch.fail(f"2001:db8::{number:x}")
    with pytest.raises(Throttled):
        watch.check("2001:db8::ffff:1")


async def test_guessing_at_the_same_time_is_no_faster(
    shares: Shares, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def right(kept: str, password: str) -> bool:
        tried.append(password)
        return False

    # Real hashes would take seconds: what counts is how many are made.
    monkeypatch.setattr(links, "right_password", right)
    made = await make(shares, folder, Wish(password="hunter2"))
    attempts = [knock(shares, made.secret, password=str(number)) for number in range(100)]
    found = await asyncio.gather(*attempts, return_exceptions=True)
    assert all(isinstance(one, NotAuthenticated | Throttled) for one in found)
    assert len(tried) <= guard.GUESSES + 1
    assert await shares.asks_for(made.secret, HERE) is None


async def test_owner_sees_every_access(shares: Shares, folder: Path) -> None:
    made = await make(shares, folder, Wish(rights=Rights.READ_WRITE))
    visit = await knock(shares, made.secret)
    await names(visit)
    for _ in range(3):
        await take(visit, "a.csv")
    await add(visit, "c", b"xyz")
    await visit.remove(("c",))
    await shares.settle()
    events = await shares._store.events(subject=made.share.id)
    lines = {event.message for event in events}
    assert {
        f"{HERE} by sftp: listed /",
        f"{HERE} by sftp: read /a.csv, 30 bytes, 3 times",
        f"{HERE} by sftp: wrote /c, 3 bytes",
        f"{HERE} by sftp: removed /c",
    } <= lines
