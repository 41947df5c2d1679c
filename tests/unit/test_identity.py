"""Users, tokens, and secrets by reference."""

from __future__ import annotations

import logging
import os
import pickle
import sys
import types
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridcloud.clock import ManualClock
from gridcloud.errors import (
    DriverUnavailable,
    Forbidden,
    GridcloudError,
    InvalidSettings,
    NotAuthenticated,
    NotFound,
    Unavailable,
)
from gridcloud.identity import Secret, Tokens, User, Users, resolve
from gridcloud.store import Store, open_store


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    async with await open_store(tmp_path / "store.sqlite", clock) as store:
        yield store


async def test_a_token_is_shown_once_and_kept_as_its_hash(
    store: Store, clock: ManualClock, tmp_path: Path
) -> None:
    """Identity, promise A."""
    tokens = Tokens(store, clock)
    token, secret = await tokens.issue("ann", note="for the lab", scopes=["read"])
    text = secret.reveal()
    assert text.startswith("gc_")
    assert len(text.split("_", 2)[2]) == 32  # 192 bits in base 64
    assert await tokens.check(text) == token
    assert (token.user, token.allows("read"), token.allows("write")) == ("ann", True, False)
    assert text[-32:].encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert text[-32:] not in repr(token)
    assert token.hash not in repr(token)


async def test_a_token_ends_when_it_expires_or_is_revoked(store: Store, clock: ManualClock) -> None:
    tokens = Tokens(store, clock)
    _, short = await tokens.issue("ann", seconds=60)
    kept, long = await tokens.issue("ann")
    await clock.advance(59)
    await tokens.check(short.reveal())
    await clock.advance(1)
    with pytest.raises(NotAuthenticated):
        await tokens.check(short.reveal())
    with pytest.raises(NotFound):
        await tokens.revoke(kept.id, user="bob")
    await tokens.check(long.reveal())
    await tokens.revoke(kept.id, user="ann")
    with pytest.raises(NotAuthenticated):
        await tokens.check(long.reveal())
    assert [event.type for event in await store.events(kept.id)] == ["issued", "revoked"]
    assert len(await tokens.find("ann")) == 1
    assert await tokens.find("bob") == []


async def test_what_is_no_token_is_refused_in_the_same_words(store: Store, clock: ManualClock) -> None:
    """Identity, promise A."""
    tokens = Tokens(store, clock)
    token, secret = await tokens.issue("ann")
    good = secret.reveal()
    wrong = [
        "",
        "gc_",
        good[:-1],
        good + "x",
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        good.upper(),
        token.hash,
    ]
    wrong += [f"gc_{'0' * 19}_{good[-32:]}", "gc_" + "é" * 19 + "_" + "x" * 32, good + "\n", "x" * 100_000]
    said = set()
    for text in wrong:
        with pytest.raises(NotAuthenticated) as refusal:
            await tokens.check(text)
        said.add(str(refusal.value))
    assert len(said) == 1


async def test_users_are_nobody_special_until_kept(store: Store) -> None:
    users = Users(store)
    assert await users.get("ann") == User(name="ann")
    ann = User(name="ann", admin=True, groups=("lab",))
    await users.put(ann)
    await users.put(ann)
    assert await users.get("ann") == ann
    assert await users.all() == [ann]
    await users.remove("ann")
    await users.remove("ann")
    assert await users.get("ann") == User(name="ann")


def test_a_secret_shows_itself_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Identity, promise B."""
    secret = Secret("hunter2")
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("%s %r %s", secret, secret, [secret])
    shown = [caplog.text, str(secret), f"{secret}", f"{secret!r:>30}", repr({"a": secret})]
    assert not any("hunter2" in text for text in shown)
    assert secret.reveal() == "hunter2"
    assert secret == Secret(b"hunter2")
    assert secret != Secret("hunter3")
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_secrets_are_read_by_reference(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"\xffhunter2")
    path.chmod(0o600)
    assert resolve(f"file:{path}").reveal_bytes() == b"\xffhunter2"
    assert resolve("env:PLACE", {"PLACE": "hunter2"}).reveal() == "hunter2"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.touch()
    path.chmod(mode)
    with pytest.raises(Forbidden, match=f"chmod 600 {path}"):
        resolve(f"file:{path}")


@pytest.mark.needs_root
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    os.chown(path, 65534, 65534)
    with pytest.raises(Forbidden, match="belongs to somebody else"):
        resolve(f"file:{path}")


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        ("file:/no/such/file", NotFound),
        ("file:relative", InvalidSettings),
        ("file:/tmp", Forbidden),
        ("file:/dev/zero", Forbidden),
        ("env:NOT_SET", NotFound),
        ("agent:", InvalidSettings),
        ("hunter2", InvalidSettings),
        ("hunter2:x", InvalidSettings),
        ("", InvalidSettings),
    ],
)
def test_what_cannot_be_read_is_said_without_the_secret(reference: str, error: type[GridcloudError]) -> None:
    with pytest.raises(error) as refusal:
        resolve(reference, {})
    assert "hunter2" not in str(refusal.value)


def test_the_keyring_is_asked_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(DriverUnavailable, match="pip install keyring"):
        resolve("keyring:gridcloud/ann")
    keyring = types.ModuleType("keyring")
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    keyring.get_password = lambda service, user: {"ann": "hunter2"}.get(user)  # type: ignore[attr-defined]
    assert resolve("keyring:gridcloud/ann").reveal() == "hunter2"
    with pytest.raises(NotFound, match="keyring set gridcloud bob"):
        resolve("keyring:gridcloud/bob")
    keyring.get_password = lambda service, user: 1 / 0  # type: ignore[attr-defined]
    with pytest.raises(Unavailable, match="ZeroDivisionError"):
        resolve("keyring:gridcloud/ann")
