"""Accounts in a directory: a real slapd on loopback, hooks as two hubs at once have them."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridcloud.drivers.hooks.ldap_settings import LDAPSettings
from gridcloud.errors import (
    Forbidden,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NotFound,
    TimedOut,
    Unavailable,
    Unreachable,
    Untrusted,
)
from gridcloud.hooks.driver import Hook
from gridcloud.hooks.model import Context
from gridcloud.testing.hooks import HookContract, context_of
from tests.services import free_port

if importlib.util.find_spec("ldap3") is None:
    pytest.skip("ldap3 is not installed: pip install 'gridcloud[ldap]'", allow_module_level=True)

from gridcloud.drivers.hooks.ldap import LDAPHook
from gridcloud.drivers.hooks.ldap_directory import escape_filter, escape_name
from tests.hooks.directory import BASE, COUNTER, PEOPLE, Slapd, find_slapd

if not find_slapd():
    pytest.skip("slapd is not installed: apt-get install slapd", allow_module_level=True)

LITERAL = 'a=b+c,d)e*f(g\\h "i;<j>#k/ünï 名'


@pytest.fixture(scope="module")
def slapd() -> Iterator[Slapd]:
    folder = Path(tempfile.mkdtemp(prefix="gcl"))
    directory = Slapd(folder, (free_port(), free_port()))
    yield directory
    directory.stop()
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def fresh(slapd: Slapd) -> Iterator[None]:
    """Nobody has an account, and the counter is at 1000."""
    yield
    connection = slapd.connection()
    for one in slapd.entries():
        connection.delete(one["dn"])
    connection.modify(COUNTER, {"uidNumber": [("MODIFY_REPLACE", ["1000"])]})
    connection.unbind()


class TestLDAP(HookContract):
    @pytest.fixture
    def works(self, slapd: Slapd) -> Hook:
        return slapd.hook()

    @pytest.fixture
    def refuses(self, slapd: Slapd) -> Hook:
        return slapd.hook(entry="", classes=[])


async def number(hook: LDAPHook, user: str) -> str:
    return (await hook.run(context_of(user))).environment["NB_UID"]


async def test_numbers_are_each_users_own_and_stay(slapd: Slapd) -> None:
    hook = slapd.hook()
    assert [await number(hook, user) for user in ("bob", "amy", "bob")] == ["1001", "1002", "1001"]
    assert len(slapd.entries()) == 2
    given = await hook.run(context_of("amy"))
    assert given.environment == {"NB_UID": "1002", "NB_GID": "20000", "NB_HOME": "/home/1002"}


async def test_two_hubs_at_once_give_no_number_twice(slapd: Slapd) -> None:
    hubs = [slapd.hook(), slapd.hook(url=slapd.secure)]
    users = [f"user{number}" for number in range(10)]
    given = await asyncio.gather(*(number(hub, user) for user in users for hub in hubs))
    assert given[0::2] == given[1::2]  # the same user at both
    assert len(set(given)) == len(users)
    assert len(slapd.entries()) == len(users)


async def test_a_number_in_use_is_skipped(slapd: Slapd) -> None:
    await slapd.hook(attributes={**slapd.settings()["attributes"], "uidNumber": "1002"}).run(
        context_of("old")
    )
    connection = slapd.connection()
    connection.modify(COUNTER, {"uidNumber": [("MODIFY_REPLACE", ["1001"])]})
    connection.unbind()
    assert await number(slapd.hook(), "new") == "1003"


@pytest.mark.parametrize("name", [LITERAL, " padded ", "#", "*)(uid=*", "ou=people", "+", "a\\2cb"])
async def test_names_are_stored_as_they_are(slapd: Slapd, name: str) -> None:
    hook = slapd.hook()
    first = await number(hook, name)
    assert await number(hook, name) == first
    (entry,) = slapd.entries()
    assert entry["sn"] == [name.encode()]
    assert entry["dn"].endswith(PEOPLE)
    assert name.encode() in entry["uid"]


async def test_values_of_the_login_are_stored_as_they_are(
    slapd: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = slapd.hook(
        filter="(title={auth_state.claims.title})",
        attributes={
            **slapd.settings()["attributes"],
            "title": "{auth_state.claims.title}",
            "description": ["{JUPYTERHUB_USER}", LITERAL],
        },
    )
    context = Context("eva", auth_state={"claims": {"title": LITERAL, "other": ["no text"]}})
    assert (await hook.run(context)) == (await hook.run(context))
    (entry,) = slapd.entries()
    assert entry["title"] == [LITERAL.encode()]
    assert set(entry["description"]) == {b"eva", LITERAL.encode()}
    with pytest.raises(InvalidRequest, match="Your login did not bring it"):
        await hook.run(context_of("noname"))


def test_escapes_are_those_of_the_standards() -> None:
    assert escape_name('a,b+c"d\\e<f>g;h=i') == "a\\2cb\\2bc\\22d\\5ce\\3cf\\3eg\\3bh\\3di"
    assert escape_name(" #x y ") == "\\20\\23x y\\20"
    assert escape_name("\0\r") == "\\00\\0d"
    assert escape_filter("Parens R Us (for *all*)") == "Parens R Us \\28for \\2aall\\2a\\29"
    assert escape_filter("\0\\Lučić") == "\\00\\5cLu\\c4\\8di\\c4\\87"


async def test_paths_are_not_left(slapd: Slapd) -> None:
    home = {**slapd.settings()["attributes"], "homeDirectory": "/home/{JUPYTERHUB_USER}"}
    for name in ("..", "../root", "a/b"):
        with pytest.raises(InvalidRequest, match="no name for a folder"):
            await slapd.hook(attributes=home).run(context_of(name))
    assert not slapd.entries()
    assert await number(slapd.hook(), "ada") == "1001"  # no number was spent


async def test_names_that_differ_in_case_share_no_account(slapd: Slapd) -> None:
    await slapd.hook().run(context_of("Bob"))
    with pytest.raises(Forbidden, match="is of 'Bob', who is not 'bob'"):
        await slapd.hook().run(context_of("bob"))
    assert await number(slapd.hook(exact=False), "bob") == "1001"


async def test_faults_refuse_with_their_reason(slapd: Slapd, tmp_path: Path) -> None:
    (tmp_path / "wrong").touch(0o600)
    (tmp_path / "wrong").write_text("wrong")
    attributes = slapd.settings()["attributes"]
    cases: list[tuple[dict[str, Any], type[GridcloudError], str]] = [
        ({"url": f"ldap://127.0.0.1:{free_port()}"}, Unreachable, "does not answer"),
        (
            {"password": f"file:{tmp_path / 'wrong'}"},
            InvalidSettings,
            "name or password of the hub's account",
        ),
        ({"password": "env:NOT_SET_ANYWHERE"}, NotFound, "NOT_SET_ANYWHERE is not set"),
        ({"bind": "", "password": ""}, GridcloudError, "strongerAuth|insufficientAccess|stronger way"),
        ({"search": f"ou=nobody,{BASE}"}, NotFound, "no such entry"),
        ({"entry": "", "classes": []}, Forbidden, "has no entry for 'ada'"),
        ({"classes": ["inetOrgPerson"]}, InvalidSettings, "misses or does not allow"),
        ({"attributes": {**attributes, "colour": "red"}}, InvalidSettings, "knows no such attribute"),
        ({"attributes": {**attributes, "gidNumber": "many"}}, InvalidSettings, "form of a value"),
        (
            {"numbers": {"uidNumber": {"entry": PEOPLE, "attribute": "uidNumber"}}},
            InvalidSettings,
            "no number",
        ),
        (
            {"numbers": {"uidNumber": {"entry": COUNTER, "attribute": "uidNumber", "most": 3}}},
            Unavailable,
            "no number left",
        ),
        (
            {"lookups": {"gidNumber": {"search": BASE, "filter": "(cn=no)", "attribute": "gidNumber"}}},
            NotFound,
            "not one gidNumber",
        ),
        (
            {"filter": "(objectClass=*)", "environment": {"X": "{ou}"}},
            Forbidden,
            "has several entries|no entry",
        ),
    ]
    for changed, kind, words in cases:
        if changed.get("filter"):
            await slapd.hook().run(context_of("one"))
            await slapd.hook().run(context_of("two"))
        with pytest.raises(kind, match=words) as caught:
            await slapd.hook(**changed).run(context_of("ada"))
        assert "wrong" not in str(caught.value).split()


async def test_certificates_are_verified(slapd: Slapd, tmp_path: Path) -> None:
    for url in (slapd.plain, slapd.secure):
        assert await number(slapd.hook(url=url), "ada") == "1001"
        with pytest.raises(Untrusted, match="certificate"):
            await slapd.hook(url=url, certificate="").run(context_of("ada"))
        elsewhere = url.replace("127.0.0.1", "localhost")  # the certificate is for the address
        with pytest.raises(Untrusted):
            await slapd.hook(url=elsewhere).run(context_of("ada"))
    first_is_down = [f"ldaps://127.0.0.1:{free_port()}", slapd.secure]
    assert await number(slapd.hook(url=first_is_down), "ada") == "1001"
    assert await number(slapd.hook(plain=True), "ada") == "1001"


async def test_silence_is_not_waited_for(slapd: Slapd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # nobody accepts
        url = f"ldap://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises((Unreachable, TimedOut)):
            await slapd.hook(url=url, limit=1).run(context_of("ada"))


async def test_nothing_is_written_beside(
    slapd: Slapd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await slapd.hook().run(context_of("ada"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"url": "http://example.org"}, "write ldaps://HOST"),
        ({"url": "ldaps://user:secret@example.org"}, "nothing but scheme"),
        ({"password": "hunter2"}, "must refer to a secret"),
        ({"bind": ""}, "go together"),
        ({"url": "ldap://example.org", "plain": True}, "for all to read"),
        ({"classes": []}, "entry and classes go together"),
        ({"filter": "(uid={uidNumber})"}, "nothing is known as {uidNumber}"),
        ({"entry": "uid={user},dc=org"}, "nothing is known as {user}"),
    ],
)
def test_settings_are_checked(slapd: Slapd, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LDAPSettings.model_validate(slapd.settings(**changed))
