"""What the hook ``ldap`` is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from gridcloud.hooks.driver import HookSettings
from gridcloud.hooks.templates import placeholders

__all__ = ["LDAPSettings", "LookupSettings", "NumberSettings"]

ATTRIBUTE = r"^[A-Za-z][A-Za-z0-9-]*$"

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _as_many(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


def _as_text(given: Any) -> Any:
    return str(given) if isinstance(given, int) and not isinstance(given, bool) else given


def _as_texts(given: Any) -> Any:
    if isinstance(given, list | tuple):
        return tuple(_as_text(one) for one in given)
    return (_as_text(given),)


Many = Annotated[tuple[str, ...], BeforeValidator(_as_many)]
Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_texts)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NumberSettings(_Part):
    """A counter in the directory that numbers are taken from, each once, by however many hubs."""

    entry: str = Field(min_length=1, description="distinguished name of the entry that counts")
    attribute: str = Field(pattern=ATTRIBUTE, description="its attribute that holds the last number taken")
    most: int = Field(default=2**31 - 1, ge=1, description="the last number that may be taken")


class LookupSettings(_Part):
    """An attribute of another entry, such as the number of a group."""

    search: str = Field(min_length=1, description="distinguished name below which the entry lies")
    filter: str = Field(min_length=3, description="filter that finds it and no other, e.g. (cn=students)")
    attribute: str = Field(pattern=ATTRIBUTE, description="its attribute, which has one value")


class LDAPSettings(HookSettings):
    """Find the user's entry in an LDAP directory, or make it; tell the session of it."""

    url: Many = Field(
        min_length=1,
        description="the directory, ldaps://HOST or ldap://HOST; of a list the first that answers",
    )
    certificate: str = Field(
        default="", description="file of the authority that signs its certificate (PEM); empty: the system's"
    )
    plain: bool = Field(
        default=False,
        description="do without STARTTLS on ldap://; on this computer only, where there is a password",
    )
    bind: str = Field(default="", description="distinguished name to log in as; empty: nobody")
    password: str = Field(default="", description="its password: file:PATH, env:NAME or keyring:SERVICE/USER")
    search: str = Field(min_length=1, description="distinguished name below which users lie")
    filter: str = Field(
        default="(uid={JUPYTERHUB_USER})", min_length=3, description="filter that finds a user's entry"
    )
    entry: str = Field(
        default="",
        description="distinguished name of the entry to make for a user who has none; empty: no session then",
    )
    classes: Many = Field(default=(), description="object classes of a new entry")
    attributes: dict[Annotated[str, Field(pattern=ATTRIBUTE)], Texts] = Field(
        default_factory=dict, description="attributes of a new entry, each a text or a list of them"
    )
    numbers: dict[Annotated[str, Field(pattern=ATTRIBUTE)], NumberSettings] = Field(
        default_factory=dict, description="numbers taken for a new entry, by placeholder: {uidNumber: …}"
    )
    lookups: dict[Annotated[str, Field(pattern=ATTRIBUTE)], LookupSettings] = Field(
        default_factory=dict, description="values of other entries, by placeholder: {gidNumber: …}"
    )
    exact: bool = Field(
        default=True, description="refuse an entry whose name differs from the user's in case alone"
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="variables of the session, of the entry: {NB_UID: '{uidNumber}'}"
    )

    @field_validator("url")
    @classmethod
    def _is_a_directory(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            found = urlsplit(url)
            if found.scheme not in ("ldap", "ldaps") or not found.hostname or found.path.strip("/"):
                raise ValueError("write ldaps://HOST or ldap://HOST, and a port where it is another")
            if found.username or found.password or found.query or found.fragment:
                raise ValueError("nothing but scheme, host and port belongs into it")
            _ = found.port  # raises ValueError for what is none
        return urls

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if bool(self.bind) != bool(self.password):
            raise ValueError("bind and password go together")
        if self.plain and self.password:
            far = [url for url in self.url if urlsplit(url).hostname not in LOOPBACK]
            if any(urlsplit(url).scheme == "ldap" for url in far):
                raise ValueError("a password would go through the network for all to read: leave plain out")
        if self.password and not re.match(r"(file:[/~]|env:\w|keyring:.+/)", self.password):
            raise ValueError("password must refer to a secret: file:PATH, env:NAME or keyring:SERVICE/USER")
        if bool(self.entry) != bool(self.classes):
            raise ValueError("entry and classes go together")
        self._check_placeholders()
        return self

    def _check_placeholders(self) -> None:
        asked: Mapping[str, tuple[str, ...]] = {
            "filter": (self.filter,),
            "lookups": tuple(one.filter for one in self.lookups.values()),
            "entry": (self.entry,),
            **{f"attributes.{name}": values for name, values in self.attributes.items()},
        }
        known = {"JUPYTERHUB_USER", "JUPYTERHUB_SERVER_NAME", "JUPYTERHUB_BASE_URL", "JUPYTERHUB_HOST"}
        for place, templates in asked.items():
            if place not in ("filter", "lookups"):
                known |= self.lookups.keys() | self.numbers.keys()
            for name in (name for template in templates for name in placeholders(template)):
                if name not in known and not name.startswith("auth_state."):
                    raise ValueError(
                        f"{place}: nothing is known as {{{name}}}; there are {', '.join(sorted(known))}"
                    )
