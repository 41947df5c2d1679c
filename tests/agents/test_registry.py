"""Invitations: used once, by who has them, in time, from where they are valid; and what is told of the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from gridcloud.agents.invitations import fingerprint, prove, read_token
from gridcloud.agents.membership import Answer, MembershipFolder, Trust, check_url
from gridcloud.agents.model import Agent, Caps, State, Terms
from gridcloud.agents.registry import Registry
from gridcloud.clock import ManualClock
from gridcloud.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    Untrusted,
)
from gridcloud.identity import Secret
from gridcloud.store import Store, open_store

AUTHORITY = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    async with await open_store(tmp_path / "store", clock) as opened:
        yield opened


@pytest.fixture
def registry(store: Store, clock: ManualClock) -> Registry:
    return Registry(store, clock, lambda: Trust(authority=AUTHORITY))


def make_key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


async def admit(registry: Registry, token: Secret, key: asyncssh.SSHKey, address: str = "192.0.2.7") -> Agent:
    read = read_token(token.reveal())
    line = key.export_public_key().decode()
    return await registry.admit(read.id, line, prove(read, key), address)


async def story(store: Store, name: str) -> str:
    return "\n".join(f"{one.type}: {one.message}" for one in await store.events(subject=name))


async def test_a_token_is_used_once(registry: Registry, store: Store, clock: ManualClock) -> None:
    agent, token = await registry.invite("lab-pc", "root", labels={"room": "4"}, caps=Caps(cpus=2))
    assert agent.state is State.INVITED
    mine, theirs = make_key(), make_key()
    joined = await admit(registry, token, mine)
    assert (joined.state, joined.joined_from, joined.caps.cpus) == (State.JOINED, "192.0.2.7", 2)
    await clock.advance(90000)
    assert await admit(registry, token, mine, "192.0.2.8") == joined, "a lost answer is asked for again"
    with pytest.raises(NotAuthenticated, match=r"was used at 2026-01-01 00:00 UTC, from 192\.0\.2\.7"):
        await admit(registry, token, theirs, "198.51.100.9")
    assert "shown again from 198.51.100.9" in await story(store, "lab-pc")
    with pytest.raises(Conflict):
        await registry.invite("lab-pc", "root")


async def test_two_at_once_are_one(registry: Registry) -> None:
    _, token = await registry.invite("lab-pc", "root")
    keys = [make_key() for _ in range(5)]
    results = await asyncio.gather(*(admit(registry, token, key) for key in keys), return_exceptions=True)
    joined = [one for one in results if isinstance(one, Agent)]
    assert len(joined) == 1
    assert all(isinstance(one, Agent | NotAuthenticated) for one in results)
    assert (await registry.get("lab-pc")).host_key == joined[0].host_key


async def test_a_token_expires_and_a_later_one_takes_its_place(
    registry: Registry, clock: ManualClock
) -> None:
    _, first = await registry.invite("lab-pc", "root", seconds=60)
    _, second = await registry.invite("lab-pc", "root", seconds=60)
    with pytest.raises(NotAuthenticated):
        await admit(registry, first, make_key())
    await clock.advance(61)
    with pytest.raises(NotAuthenticated, match="used or expired"):
        await admit(registry, second, make_key())


async def test_what_was_not_signed_with_the_token_joins_nothing(registry: Registry) -> None:
    _, token = await registry.invite("lab-pc", "root")
    key, other = make_key(), make_key()
    read, line = read_token(token.reveal()), key.export_public_key().decode()
    good = prove(read, key)
    for wrong in (("00" * 64, good[1]), ("zz", good[1]), prove(read, other)):
        with pytest.raises(NotAuthenticated):
            await registry.admit(read.id, line, wrong, "")
    for wrong in ((good[0], prove(read, other)[1]), (good[0], "00")):
        with pytest.raises(Untrusted):
            await registry.admit(read.id, line, wrong, "")
    with pytest.raises(NotAuthenticated):
        await registry.admit("v-0000000000000000000", line, good, "")
    for text in ("", "gc_abc", token.reveal()[:-1], token.reveal().replace("gca_", "gcb_")):
        with pytest.raises(NotAuthenticated):
            read_token(text)
    assert (await registry.get("lab-pc")).state is State.INVITED


async def test_a_token_for_a_network_is_good_there_alone(registry: Registry, store: Store) -> None:
    with pytest.raises(InvalidRequest):
        await registry.invite("lab-pc", "root", addresses=["everywhere"])
    _, token = await registry.invite("lab-pc", "root", addresses=["192.0.2.0/24", "2001:db8::/32"])
    key = make_key()
    for address in ("198.51.100.1", "2001:db9::1", "", "::ffff:198.51.100.1"):
        with pytest.raises(Forbidden):
            await admit(registry, token, key, address)
    assert "shown from 198.51.100.1" in await story(store, "lab-pc")
    assert (await admit(registry, token, key, "::ffff:192.0.2.9")).state is State.JOINED


async def test_a_life(registry: Registry, store: Store) -> None:
    for name in ("", "Lab", "a b", "../x", "join", "streams", "x" * 42):
        with pytest.raises(InvalidRequest):
            await registry.invite(name, "root")
    _, token = await registry.invite("lab-pc", "root", labels={"room": "4", "gpu": "no"})
    with pytest.raises(InvalidRequest):
        await registry.drain("lab-pc", "root")
    key = make_key()
    await admit(registry, token, key)
    assert (await registry.label("lab-pc", {"room": "5", "gpu": None})).labels == {"room": "5"}
    assert (await registry.drain("lab-pc", "root")).state is State.DRAINING
    assert (await registry.drain("lab-pc", "root", draining=False)).state is State.JOINED
    await registry.saw("lab-pc", "192.0.2.7", "connected", "from 192.0.2.7", {"room": "9", "cool": "yes"})
    assert (await registry.get("lab-pc")).all_labels == {
        "owner.room": "9",
        "owner.cool": "yes",
        "room": "5",
    }
    await registry.remove("lab-pc", "root")
    with pytest.raises(NotAuthenticated):
        await admit(registry, token, key)
    again, _ = await registry.invite("lab-pc", "root")
    assert (again.state, again.host_key) == (State.INVITED, "")
    with pytest.raises(NotFound):
        await registry.remove("nobody", "root")
    assert "secret" not in repr(again) + await story(store, "lab-pc")
    body = str((await store.get("agent", "lab-pc")).body)
    assert token.reveal().split("_", 2)[2] not in body


async def test_a_machine_knows_whom_it_joins(registry: Registry, tmp_path: Path) -> None:
    _, token = await registry.invite("lab-pc", "root")
    read = read_token(token.reveal())
    assert read.authority == fingerprint(AUTHORITY)
    folder = MembershipFolder(tmp_path / "machine")
    other = make_key().export_public_key().decode()
    answer = Answer(name="lab-pc", installation="i", authority=other)
    with pytest.raises(Untrusted, match="is not the gridcloud that the token was made by"):
        folder.keep("https://hub", read, answer, Terms())
    assert folder.read() is None
    kept = folder.keep("https://hub", read, answer.model_copy(update={"authority": AUTHORITY}), Terms())
    assert folder.read() == kept
    key = await folder.key()
    assert (await folder.key()).export_public_key() == key.export_public_key()
    assert {path.stat().st_mode & 0o077 for path in (folder.path, folder.path / "membership.json")} == {0}
    assert (folder.path / "key" / "machine").stat().st_mode & 0o777 == 0o600
    folder.remove()
    assert folder.read() is None


def test_addresses_of_services() -> None:
    assert check_url("https://Hub.example:8443/grid/") == "https://hub.example:8443/grid"
    assert check_url("http://127.0.0.1:8000") == "http://127.0.0.1:8000"
    assert check_url("http://[::1]:8000/") == "http://[::1]:8000"
    for wrong in ("http://hub", "hub", "ftp://hub", "https://ada:x@hub", "https://hub?x", "https://h:99999"):
        with pytest.raises(InvalidRequest):
            check_url(wrong)
