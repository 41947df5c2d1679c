"""What the API says and takes, as typed documents: shared by the service and its clients."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, field_serializer

from gridcloud.instances.model import Finding, Instance, Offer, Request, Text
from gridcloud.sessions.model import Plan, Session
from gridcloud.settings import Duration

__all__ = [
    "WINDOW",
    "Event",
    "Extension",
    "Findings",
    "ForgetOrder",
    "ForgottenProvider",
    "Health",
    "InstanceWish",
    "Instances",
    "Offers",
    "Order",
    "Provider",
    "ProviderEntry",
    "Providers",
    "SessionExtension",
    "SessionWish",
    "Sessions",
    "Size",
    "Trouble",
    "Version",
    "no_nul",
]


Held = TypeVar("Held")


def no_nul(value: str) -> str:
    """Return the text. Raises ValueError for one that no path, argument or variable can be."""
    if "\0" in value:
        raise ValueError("a NUL character can be in no path, argument or variable")
    return _writable(value)


def _variable(value: str) -> str:
    if not value or "=" in value or "\0" in value:
        raise ValueError("this is no name of an environment variable")
    return value


def _writable(value: Held) -> Held:
    """Refuse what JSON lets through and UTF-8 cannot hold: halves of a pair of UTF-16."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise ValueError("this is no text that can be written") from None
    return value


Entries = Annotated[list[dict[str, Any]], AfterValidator(_writable)]
Word = Annotated[str, AfterValidator(no_nul)]
Variable = Annotated[str, AfterValidator(_variable)]


class Event(BaseModel):
    """One line of a story."""

    seq: int
    kind: str
    subject: str
    at: datetime
    type: str
    message: str
    data: dict[str, Any] = Field(default_factory=dict)


class Offers(BaseModel):
    """Ranked offers, best first, and in words why none of them will do, if so."""

    offers: list[Offer]
    problem: str = ""
    currency: str = Field(default="", description="of all prices (ISO 4217)")


class Version(BaseModel):
    """Who answers."""

    version: str
    installation: str
    user: str
    admin: bool
    currency: str = Field(default="", description="of all prices (ISO 4217)")


class InstanceWish(BaseModel):
    """A wish for an instance."""

    model_config = ConfigDict(extra="forbid")

    request: Request = Field(default_factory=Request)
    name: Text = ""
    owner: Text | None = Field(default=None, description="for whom; administrators only")
    configure: Entries = Field(default_factory=list, description="configurers to run, in order")
    before_end: list[Word] = Field(
        default_factory=list, description="command that is run there before it ends: its words"
    )
    avoid: list[str] = Field(
        default_factory=list,
        max_length=100,
        description="instances whose offers are to be taken last: they were lost",
    )


class Extension(BaseModel):
    """A new expiry: a time, or seconds from now."""

    model_config = ConfigDict(extra="forbid")

    expires: datetime | None = None
    time: Duration | None = None


class SessionExtension(BaseModel):
    """How much longer a session is to live: seconds from now, or by as much as the configuration says."""

    model_config = ConfigDict(extra="forbid")

    time: Duration | None = Field(default=None, description="from now")
    after: AwareDatetime | None = Field(
        default=None,
        description="the end that whoever asks was told of: where it is later by now, nothing is changed",
    )
    longest: Duration | None = Field(
        default=None,
        description="how long it may live in all, 0: as long as anybody's; administrators only, for its user",
    )


class Instances(BaseModel):
    """Instances, oldest first."""

    instances: list[Instance]


class SessionWish(BaseModel):
    """A wish for a session."""

    model_config = ConfigDict(extra="forbid")

    request: Request = Field(default_factory=Request)
    plan: Plan
    name: Text = ""
    profile: Text = ""
    owner: Text | None = Field(default=None, description="for whom; administrators only")
    configure: Entries = Field(default_factory=list)
    longest: Duration = Field(
        default=0, description="how long it may live in all, extended; 0: as long as anybody's"
    )
    course: str = Field(default="", max_length=63, description="that it is for, by name")
    environment: dict[Variable, SecretStr] = Field(
        default_factory=dict,
        description="may hold secrets: kept in memory until the program has it, never stored",
    )

    @field_serializer("environment", when_used="json")
    def _tell(self, value: dict[str, SecretStr]) -> dict[str, str]:
        return {name: secret.get_secret_value() for name, secret in value.items()}


class Sessions(BaseModel):
    """Sessions, oldest first."""

    sessions: list[Session]


class Size(BaseModel):
    """A terminal's size in characters."""

    columns: int = Field(default=80, ge=1, le=10_000)
    rows: int = Field(default=24, ge=1, le=10_000)


WINDOW = 1 << 20
"""Bytes of standard input that may be on their way to a command before it takes any."""


class Order(BaseModel):
    """The first message of a command's websocket."""

    model_config = ConfigDict(extra="forbid")

    words: list[Word] = Field(min_length=1)
    environment: dict[Variable, Word] = Field(default_factory=dict)
    directory: Word = ""
    terminal: Size | None = None


class Provider(BaseModel):
    """One configured provider."""

    name: str
    driver: str
    location: str = ""
    price: str = "0"
    problem: str = ""
    images: list[str] = Field(default_factory=list)


class Providers(BaseModel):
    """The configured providers, and the drivers that are installed."""

    providers: list[Provider]
    drivers: dict[str, str]


class Findings(BaseModel):
    """What checking a provider found."""

    findings: list[Finding]


class ProviderEntry(BaseModel):
    """A provider's entry in the configuration."""

    model_config = ConfigDict(extra="forbid")

    name: str
    entry: dict[str, Any]


class ForgetOrder(BaseModel):
    """How a provider that left the configuration is forgotten."""

    model_config = ConfigDict(extra="forbid")

    give_up: bool = Field(default=False, description="also what may be left there, seen or not")


class ForgottenProvider(BaseModel):
    """A provider that is not asked any more."""

    provider: str
    given_up: list[str] = Field(default_factory=list, description="what may be left there, in words")


class Trouble(BaseModel):
    """One thing that doctor found."""

    provider: str
    subject: str
    message: str
    remedy: str
    mended: bool = False
    extra: bool = Field(default=False, description="something held that should not be: mending removes it")


class Health(BaseModel):
    """What doctor found."""

    troubles: list[Trouble]
