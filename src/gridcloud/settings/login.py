"""How people log in to the hub: one section for each way, strict about its keys. Secrets stand by reference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

__all__ = [
    "WAYS",
    "CILogonSettings",
    "GlobusSettings",
    "HeaderSettings",
    "LDAPSettings",
    "LTISettings",
    "NativeSettings",
    "OIDCSettings",
    "ParserSettings",
    "check_way",
]

WAYS = ("header", "oidc", "globus", "cilogon", "ldap", "lti", "native")
"""Values of ``hub.authenticator`` that have a section of the same name below ``hub``."""

LETS_ANYBODY_IN = re.compile(r"dummy|(.*\.)?DummyAuthenticator", re.IGNORECASE)

HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,99}$")]
DataName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,99}$")]


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", value):
        raise ValueError("no name of a variable")
    if re.match(r"(JUPYTERHUB|LD|PYTHON)_|(PATH|HOME|PYTHONPATH|PYTHONHOME)$", value):
        raise ValueError("this variable decides what runs, or who it is: take another")
    return value


Variable = Annotated[str, AfterValidator(_variable)]


def _reference(value: str) -> str:
    # What was given may be the secret itself, so that it is not repeated.
    if value and not re.match(r"file:[/~]|env:\w|keyring:.+/", value):
        raise ValueError("refer to the secret: file:PATH, env:NAME or keyring:SERVICE/USER")
    return value


SecretReference = Annotated[str, AfterValidator(_reference)]


def _https(value: str) -> str:
    if not re.fullmatch(r"https://[^\s]+|http://(127\.0\.0\.1|\[::1\]|localhost)(:\d+)?(/[^\s]*)?", value):
        raise ValueError("an https address is needed: tokens go there")
    return value


Address = Annotated[str, AfterValidator(_https)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ParserSettings(_Part):
    """What is made of a header's text."""

    kind: Literal["plain", "json", "match"] = Field(
        default="plain", description="plain text, a JSON text, or what an expression finds in it"
    )
    field: str = Field(
        default="", max_length=200, description="json: the value at this name; dots lead further down"
    )
    match: str = Field(
        default="",
        max_length=1000,
        description="match: a regular expression; its first group counts, or all that it finds",
    )
    replace: dict[str, str] = Field(
        default_factory=dict, description="match: texts, each with what stands in its place"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            re.compile(self.match)
        except re.error as error:
            raise ValueError(f"the expression is none: {error}") from None
        if bool(self.match) != (self.kind == "match") or (self.replace and self.kind != "match"):
            raise ValueError("an expression goes with the kind match, and replace with both")
        if "" in self.replace:
            raise ValueError("nothing cannot be replaced")
        if self.field and self.kind != "json":
            raise ValueError("a field goes with the kind json")
        return self


def _parser(value: Any) -> Any:
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, Mapping) and "match" in value:
        return {"kind": "match", **value}
    if isinstance(value, Mapping) and "field" in value:
        return {"kind": "json", **value}
    return value


Parser = Annotated[ParserSettings, BeforeValidator(_parser)]


def _network(value: str) -> str:
    try:
        network = ip_network(value)
    except ValueError as error:
        raise ValueError(f"no address or network: {error}") from None
    if network.prefixlen < (8 if network.version == 4 else 16):
        raise ValueError("so wide a network is trusted by nobody; name the proxy's own address")
    return value


class HeaderSettings(_Part):
    """A web server before the hub that knows who somebody is, and says so in headers."""

    user: HeaderName = Field(default="Remote-User", description="header with the user's name")
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        default=(),
        description="addresses or networks of the front server, as it connects to hub.port; headers of anybody else "
        "are refused",
    )
    secret: SecretReference = Field(
        default="",
        description="reference to a secret that the front server sends along with its headers (file:PATH, env:NAME)",
    )
    secret_header: HeaderName = Field(
        default="X-Hub-Secret", description="header that the front server sends the secret in"
    )
    required: dict[HeaderName, str] = Field(
        default_factory=dict,
        description="headers that must have exactly these values, such as a certificate's verification",
    )
    parsers: dict[HeaderName, Parser] = Field(
        default_factory=dict,
        description="by header what is made of its text: plain (as it is), json, or {match: …, replace: {…}}",
    )
    keep: tuple[HeaderName, ...] = Field(
        default=(), description="headers whose values are kept, encrypted, in the hub's database"
    )
    environment: dict[Variable, str] = Field(
        default_factory=dict,
        description="variables of the session, each with the kept header or settable value that it gets; "
        "what is no text is JSON",
    )
    groups: HeaderName | Literal[""] = Field(
        default="", description="header with the user's groups, between commas or semicolons, or a JSON list"
    )
    allowed_groups: tuple[str, ...] = Field(
        default=(), description="groups whose members may log in, beside hub.allowed_users"
    )
    addresses: HeaderName | Literal[""] = Field(
        default="", description="header with e-mail addresses that the front server has verified, for rosters"
    )
    contexts: HeaderName | Literal[""] = Field(
        default="", description="header with ids of courses (LTI contexts) that the user comes from"
    )
    settable: tuple[DataName, ...] = Field(
        default=(), description="values that pages may set for their user by POST /hub/set-user-data"
    )
    logout_url: str = Field(
        default="",
        pattern=r"^(https?://[^\s\\]+|/([^\s/\\][^\s\\]*)?)?$",
        description="where the browser goes after it was logged out here: the front server's own logout",
    )

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if not self.trusted_proxies and not self.secret:
            raise ValueError(
                "say who may set the headers: trusted_proxies, a secret, or both; otherwise anybody could be anyone"
            )
        if not self.secret and any(_is_loopback(one) for one in self.trusted_proxies):
            raise ValueError(
                "a front server on this computer needs a secret, too: sessions and other accounts of this computer "
                "have the same address"
            )
        if self.allowed_groups and not self.groups:
            raise ValueError("allowed_groups needs the header that groups come in")
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        kept = {name.lower() for name in self.keep}
        for variable, source in self.environment.items():
            if source.lower() not in kept and source not in self.settable:
                raise ValueError(f"environment.{variable}: {source[:60]!r} is neither kept nor settable")
        read = {self.user, self.groups, self.addresses, self.contexts, *self.keep, *self.required} - {""}
        if self.secret_header.lower() in {name.lower() for name in read}:
            raise ValueError("the secret's header cannot be used for anything else")
        for name in self.parsers:
            if name.lower() not in {one.lower() for one in read}:
                raise ValueError(f"parsers.{name}: this header is not used")
        return self


def _is_loopback(text: str) -> bool:
    network: IPv4Network | IPv6Network = ip_network(text)
    loops = (ip_network("127.0.0.0/8"), ip_network("::1/128"), ip_network("::ffff:127.0.0.0/104"))
    return any(network.version == loop.version and network.overlaps(loop) for loop in loops)


class _ClientSettings(_Part):
    client_id: str = Field(min_length=1, description="the hub's id there")
    client_secret: SecretReference = Field(
        min_length=1, description="reference to the secret that goes with it: file:PATH, env:NAME"
    )
    callback_url: Annotated[str, AfterValidator(lambda value: _https(value) if value else "")] = Field(
        default="",
        description="…/hub/oauth_callback as it is registered there; made of hub.public_url when empty",
    )
    allowed_groups: tuple[str, ...] = Field(
        default=(), description="groups whose members may log in, beside hub.allowed_users"
    )
    admin_groups: tuple[str, ...] = Field(default=(), description="groups whose members administer the hub")


class OIDCSettings(_ClientSettings):
    """Any server that speaks OAuth 2 and OpenID Connect, such as Keycloak."""

    authorize_url: Address = Field(description="where browsers are sent to log in")
    token_url: Address = Field(description="where the hub gets a token for the code that they bring back")
    userdata_url: Address = Field(description="where the token tells who somebody is")
    scope: tuple[str, ...] = Field(default=("openid", "email", "profile"), description="what is asked for")
    username: str = Field(default="preferred_username", description="the claim that is the user's name")
    groups: str = Field(default="", description="the claim with the user's groups; dots lead further down")
    title: str = Field(default="", max_length=60, description="what the button to log in calls it")


class GlobusSettings(_ClientSettings):
    """Globus."""

    identity_provider: str = Field(
        default="", description="domain of the only institution whose accounts may log in, e.g. example.org"
    )


class CILogonSettings(_ClientSettings):
    """CILogon: universities by their own login pages."""

    institutions: dict[Address, str] = Field(
        min_length=1, description="ids of the institutions that may log in, each with the claim of user names"
    )


class LDAPSettings(_Part):
    """Names and passwords, checked by a directory server."""

    server: str = Field(
        min_length=1, pattern=r"^[^\s/:]+$|^\[.+\]$", description="host name of the directory server"
    )
    port: int = Field(default=0, ge=0, le=65535, description="its port; 0: 389, or 636 with tls: on_connect")
    tls: Literal["before_bind", "on_connect", "off"] = Field(
        default="before_bind",
        description="StartTLS, TLS from the beginning, or off: only for a server on this computer",
    )
    certificates: str = Field(
        default="", description="file of certificates to check it by; empty: the system's"
    )
    bind: tuple[str, ...] = Field(
        default=(),
        description="names to try, {username} stands in each: uid={username},ou=people,dc=example,dc=org",
    )
    search_base: str = Field(default="", description="where users are looked up, in place of bind")
    search_attribute: str = Field(default="uid", description="attribute that is the user's name")
    search_user: str = Field(default="", description="name to look users up by; empty: anonymously")
    search_password: SecretReference = Field(
        default="", description="reference to its password: file:PATH, env:NAME"
    )
    allowed_groups: tuple[str, ...] = Field(
        default=(), description="names (DN) of groups whose members may log in, beside hub.allowed_users"
    )
    group_attributes: tuple[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")], ...] = Field(
        default=("member", "uniqueMember", "memberUid"),
        min_length=1,
        description="attributes of a group that name its members; the directory must know all of them",
    )

    @model_validator(mode="after")
    def _finds_users(self) -> Self:
        if bool(self.bind) == bool(self.search_base):
            raise ValueError("give either bind or search_base")
        if any("{username}" not in one for one in self.bind):
            raise ValueError("each name of bind has {username} in it")
        if bool(self.search_user) != bool(self.search_password):
            raise ValueError("search_user and search_password go together")
        if self.tls == "off" and self.server not in ("127.0.0.1", "localhost", "[::1]"):
            raise ValueError("passwords are not sent through a network without TLS")
        return self


class LTISettings(_Part):
    """Courses of a learning platform by LTI 1.3, such as Moodle or Canvas."""

    issuer: Annotated[str, Field(min_length=1)] = Field(description="the platform's id")
    client_id: tuple[str, ...] = Field(min_length=1, description="the hub's ids at the platform")
    authorize_url: Address = Field(description="where browsers are sent to log in")
    keys_url: Address = Field(description="where the platform publishes its keys (JWKS)")
    username: str = Field(default="sub", description="the claim that is the user's name")


class NativeSettings(_Part):
    """Names and passwords that the hub keeps itself; an administrator lets each new account in."""

    least_password: int = Field(default=12, ge=8, le=200, description="characters of a password at least")
    failures: int = Field(
        default=5, ge=1, le=100, description="wrong passwords after which an account pauses"
    )
    pause: int = Field(default=600, ge=1, le=86400, description="seconds of that pause")
    addresses: bool = Field(
        default=False, description="ask new users for an e-mail address; nobody verifies it"
    )


def check_way(authenticator: str, given: Mapping[str, object]) -> None:
    """Raise ValueError unless the sections in ``given`` (by name, None where left out) fit the authenticator."""
    if LETS_ANYBODY_IN.fullmatch(authenticator):
        raise ValueError("this authenticator lets anybody in under any name, so that it is not taken")
    if authenticator in WAYS and authenticator != "native" and given.get(authenticator) is None:
        raise ValueError(f"authenticator {authenticator!r} needs its section {authenticator}")
    for name, section in given.items():
        if section is not None and name != authenticator:
            raise ValueError(f"the section {name} goes with authenticator: {name}")
