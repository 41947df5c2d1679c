"""What headers say, and what the configuration of logins has to say."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import HTTPError
from traitlets.config import Config

from gridcloud.errors import DriverUnavailable, GridcloudError, InvalidSettings
from gridcloud.settings import parse_settings
from gridcloud.settings.login import HeaderSettings, ParserSettings
from gridcloud.spawner.header_authenticator import HeaderAuthenticator, front_secret
from gridcloud.spawner.headers import NAME, address_of, is_trusted, listed, parse_header
from gridcloud.spawner.login import CONTEXT, keep_contexts, login_of, note_person
from gridcloud.spawner.login_ways import check_login, let_in

MAIL = ParserSettings(kind="match", match=r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", replace={"@": "_", ".": "_"})


def settings_of(**hub: Any) -> Any:
    return parse_settings(yaml.safe_dump({"hub": hub}), "config.yaml", {}).hub


@pytest.mark.parametrize(
    ("text", "parser", "value"),
    [
        ("/C=DK/emailAddress=mail@sdfsf.com", MAIL, "mail_sdfsf_com"),
        ("fballam0@auda.org.au", MAIL, "fballam0_auda_org_au"),
        ("noemail", MAIL, None),
        ("a@b.c a@b.c", MAIL, "a_b_c"),
        ("a@b.c, d@b.c", MAIL, None),
        (" ada ", ParserSettings(), "ada"),
        ("", ParserSettings(), None),
        (None, ParserSettings(), None),
        ("x" * 16385, ParserSettings(), None),
        ('{"a": {"b": ["c"]}}', ParserSettings(kind="json", field="a.b"), ["c"]),
        ('{"a": 1}', ParserSettings(kind="json", field="a.b"), None),
        ("{nope", ParserSettings(kind="json"), None),
        ("[" * 16000, ParserSettings(kind="json"), None),
        ("CN=Ada+UID=ada7", ParserSettings(kind="match", match="UID=([a-z0-9]+)"), "ada7"),
        ("ü".encode().decode("latin-1"), ParserSettings(), "ü"),
        ("\xfc", ParserSettings(), "ü"),
    ],
)
def test_a_header_says_one_thing_or_nothing(text: str | None, parser: ParserSettings, value: Any) -> None:
    assert parse_header(text, parser) == value


def test_what_is_put_in_is_not_replaced_again() -> None:
    parser = ParserSettings(kind="match", match=".+", replace={"a": "b", "b": "a", "ab": "-"})
    assert parse_header("abba", parser) == "-ab"


@given(st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore").decode("latin-1")))
def test_any_header_is_read(text: str) -> None:
    for parser in (ParserSettings(), ParserSettings(kind="json"), MAIL):
        json.dumps(parse_header(text, parser))
    assert all(one and one.isprintable() for one in listed(parse_header(text)))


@pytest.mark.parametrize(
    ("sent", "address"),
    [
        ([], None),
        (["10.0.0.1"], "10.0.0.1"),
        (["10.0.0.1, 192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7", "10.0.0.1,::ffff:192.0.2.9"], "192.0.2.9"),
        (["10.0.0.1,"], None),
        (["10.0.0.1, unknown"], None),
        (["fe80::1%eth0"], "fe80::1"),
    ],
)
def test_the_last_hop_counts(sent: list[str], address: str | None) -> None:
    assert address_of(sent) == (ip_address(address) if address else None)
    assert is_trusted(address_of(sent), ("192.0.2.0/29", "2001:db8::/64")) is (address == "192.0.2.7")


@dataclass
class Way:
    """A connection, as Tornado describes it: through the door."""

    address_family: int = socket.AF_UNIX
    remote_ip: str = "0.0.0.0"  # noqa: S104 - what Tornado says of a socket without addresses
    protocol: str = "http"

    @property
    def context(self) -> Way:
        return self


class Handler:
    """One request, of somebody whom the hub does not know yet."""

    def __init__(self, **headers: str) -> None:
        sent = HTTPHeaders({name.replace("_", "-"): value for name, value in headers.items()})
        line = RequestStartLine("GET", "/hub/login", "HTTP/1.1")
        sent["Host"] = "hub.example"
        self.request = HTTPServerRequest(headers=sent, connection=Way(), start_line=line)  # type: ignore[arg-type]

    def find_user(self, name: str) -> None:
        return None


@pytest.mark.parametrize(
    "name", ["../root", "a b", "ünï", "a" * 64, "..", "a/b", "a\n", "-rf", "", "a\0", "\u212ate"]
)
async def test_some_names_are_taken_by_nobody(name: str) -> None:
    authenticator = HeaderAuthenticator(
        settings=HeaderSettings(trusted_proxies=("192.0.2.1",), user="X-User", parsers={"X-User": "json"})
    )
    with pytest.raises(HTTPError) as refused:
        await authenticator.authenticate(Handler(X_User=json.dumps(name), X_Forwarded_For="192.0.2.1"))
    assert refused.value.status_code == (403 if name else 401)
    assert not NAME.fullmatch(name)


async def test_names_that_differ_in_case_are_one() -> None:
    authenticator = HeaderAuthenticator(settings=HeaderSettings(trusted_proxies=("192.0.2.1",)))
    found = [
        await authenticator.authenticate(Handler(Remote_User=name, X_Forwarded_For="192.0.2.1"))
        for name in ("Ada", "ada", "ADA")
    ]
    assert [one["name"] for one in found] == ["ada"] * 3
    assert {one["auth_state"]["subject"] for one in found} == {"ada"}


@pytest.mark.parametrize(
    ("hub", "said"),
    [
        ({"authenticator": "header"}, "needs its section header"),
        ({"authenticator": "header", "header": {}}, "anybody could be anyone"),
        ({"authenticator": "header", "header": {"trusted_proxies": ["127.0.0.1"]}}, "needs a secret"),
        ({"authenticator": "header", "header": {"trusted_proxies": ["0.0.0.0/0"]}}, "so wide"),
        (
            {"authenticator": "header", "header": {"trusted_proxies": ["proxy.example"]}},
            "no address or network",
        ),
        ({"authenticator": "header", "header": {"secret": "hunter2hunter2hunter2"}}, "refer to the secret"),
        ({"header": {"secret": "env:S"}}, "goes with authenticator: header"),
        ({"authenticator": "oidc"}, "needs its section oidc"),
        ({"authenticator": "dummy"}, "lets anybody in"),
        ({"authenticator": "jupyterhub.auth.DummyAuthenticator"}, "lets anybody in"),
        (
            {"authenticator": "header", "header": {"secret": "env:S", "environment": {"A": "X-A"}}},
            "neither kept nor settable",
        ),
        (
            {
                "authenticator": "header",
                "header": {"secret": "env:S", "keep": ["X-A"], "environment": {"PATH": "X-A"}},
            },
            "decides what runs",
        ),
        (
            {"authenticator": "header", "header": {"secret": "env:S", "keep": ["x-hub-secret"]}},
            "cannot be used for anything else",
        ),
        (
            {
                "authenticator": "header",
                "header": {"secret": "env:S", "parsers": {"Remote-User": {"match": "("}}},
            },
            "the expression is none",
        ),
        (
            {"authenticator": "header", "header": {"secret": "env:S", "parsers": {"X-Other": "json"}}},
            "this header is not used",
        ),
        (
            {"authenticator": "header", "header": {"secret": "env:S", "logout_url": "//evil.example"}},
            "pattern",
        ),
        (
            {
                "authenticator": "ldap",
                "ldap": {"server": "ldap.example.org", "bind": ["uid={username}"], "tls": "off"},
            },
            "not sent through a network without TLS",
        ),
    ],
)
def test_a_login_that_is_not_guarded_is_no_configuration(hub: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        settings_of(**hub)
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_secret_has_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRONT", "short")
    with pytest.raises(InvalidSettings, match="fewer than 16") as refused:
        front_secret(HeaderSettings(secret="env:FRONT"))
    assert "short" not in str(refused.value)
    monkeypatch.delenv("FRONT")
    with pytest.raises(GridcloudError, match="FRONT is not set"):
        check_login(settings_of(authenticator="header", header={"secret": "env:FRONT"}))


def test_an_authenticator_without_its_section_does_not_start() -> None:
    with pytest.raises(InvalidSettings, match="who may set the headers"):
        HeaderAuthenticator()


def test_what_pages_set_never_stands_for_a_header() -> None:
    hub = settings_of(
        authenticator="header",
        header={
            "secret": "env:S", "keep": ["X-Role"], "settable": ["role"],
            "environment": {"ROLE": "x-role", "OWN": "role", "GONE": "X-Role"},
        },
    )  # fmt: skip
    login = login_of({"headers": {"X-Role": {"a": "ü"}}, "data": {"role": 1, "X-Role": "root"}}, hub)
    assert login.environment == {"ROLE": '{"a": "ü"}', "OWN": "1", "GONE": '{"a": "ü"}'}
    assert login_of({"data": {"X-Role": "root"}}, hub).environment == {}
    assert login_of({"headers": {"X-Role": "a\0b"}}, hub).environment == {}
    assert login_of(None, hub) == login_of({"gridcloud": 1, "headers": [], "data": ""}, hub)
    assert "ü" not in repr(login)


def test_other_logins_tell_of_courses_and_addresses() -> None:
    class OAuth:
        user_auth_state_key = "oauth_user"

    def addresses(**said: Any) -> Any:
        return note_person(OAuth(), {"oauth_user": said})["gridcloud"]["addresses"]

    assert addresses(email="Ada@Example.org", email_verified=True) == ["ada@example.org"]
    assert (
        addresses(email="ada@example.org") == addresses(email="ada@example.org", email_verified="yes") == []
    )
    found = note_person(object(), {CONTEXT: {"id": "c7"}})
    assert found["gridcloud"] == {"addresses": [], "contexts": ["c7"]}
    assert keep_contexts({"gridcloud": {"contexts": ["c1", "c7"]}}, found)["gridcloud"]["contexts"] == [
        "c1",
        "c7",
    ]


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nativeauthenticator", None)  # as where it is not installed
    with pytest.raises(DriverUnavailable, match="native needs a library") as refused:
        check_login(settings_of(authenticator="native"))
    assert "hub-login" in str(refused.value)


CLIENT = {"client_id": "hub", "client_secret": "env:FRONT"}
READY: dict[str, dict[str, Any]] = {
    "oidc": {
        **CLIENT,
        "authorize_url": "https://id.example.org/a",
        "token_url": "https://id.example.org/t",
        "userdata_url": "https://id.example.org/u",
        "groups": "groups",
        "admin_groups": ["admins"],
        "title": "Example",
    },
    "globus": {**CLIENT, "identity_provider": "example.org"},
    "cilogon": {**CLIENT, "institutions": {"https://idp.example.org/shibboleth": "eppn"}},
    "ldap": {
        "server": "ldap.example.org",
        "search_base": "ou=people,dc=example,dc=org",
        "search_user": "cn=reader,dc=example,dc=org",
        "search_password": "env:FRONT",
        "certificates": "/etc/ldap/ca.pem",
    },
    "lti": {
        "issuer": "https://moodle.example.org",
        "client_id": ["hub"],
        "authorize_url": "https://moodle.example.org/a",
        "keys_url": "https://moodle.example.org/k",
    },
    "native": {"least_password": 14},
}


@pytest.mark.parametrize("way", READY)
def test_each_way_is_what_its_library_takes(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRONT", "s" * 20)
    hub = settings_of(authenticator=way, public_url="https://hub.example.org", **{way: READY[way]})
    try:
        check_login(hub)
    except DriverUnavailable as error:
        pytest.skip(str(error))
    configuration = Config()
    let_in(configuration, hub, tmp_path)
    kind = configuration.JupyterHub.authenticator_class
    given = configuration[kind.__name__]
    assert set(given) <= set(kind.class_trait_names(config=True))
    if way == "native":  # it cannot be made without the hub's database
        return
    made = kind(config=configuration)
    assert not made.allow_existing_users
    assert not made.allow_all
    assert not made.validate_username("a b")
    for name, value in given.items():
        if isinstance(value, dict):  # of which defaults are filled in
            continue
        kept = getattr(made, name)
        assert getattr(kept, "name", kept) == value, name  # some are members of an enumeration
