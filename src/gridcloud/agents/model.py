"""Machines that dial out, what their owners allow, and what they report: frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from gridcloud.agents.hours import Hours
from gridcloud.instances.model import Text
from gridcloud.settings import Size

__all__ = [
    "AGENT_NAME",
    "RESERVED",
    "Agent",
    "Caps",
    "Labels",
    "Report",
    "State",
    "Terms",
    "lowest",
    "principal_of",
]

AGENT_NAME = r"^[a-z0-9][a-z0-9-]{0,40}$"
RESERVED = frozenset({"authority", "join", "invitations", "streams"})
"""Names that machines cannot have: the service's own addresses."""
PROTOCOL = 1
"""Version of what is spoken between us and a machine."""
_LABELS = 32


class _Record(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Heard(BaseModel):
    """A frozen value that another program sent: what a later version adds is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def _bounded(labels: Mapping[str, str]) -> Mapping[str, str]:
    if len(labels) > _LABELS or any(len(key) > 63 or len(value) > 253 for key, value in labels.items()):
        raise ValueError(f"are {_LABELS} at most, with keys of 63 and values of 253 characters")
    return labels


Labels = Annotated[Mapping[Text, Text], AfterValidator(_bounded)]


def _parse_hours(value: object) -> object:
    return Hours.parse(value) if isinstance(value, str) else value


class State(StrEnum):
    """Where a machine is in its life with us."""

    INVITED = "invited"
    """A token was made for it, and nobody has used it."""
    JOINED = "joined"
    """It may connect and be given work."""
    DRAINING = "draining"
    """It goes on with what it has, and is given nothing new."""
    REMOVED = "removed"
    """It is told to end everything and to leave, as soon as it connects."""


class Caps(_Record):
    """How much of a machine is given at most; what is not said is all that it has."""

    cpus: float | None = Field(default=None, ge=0, description="CPU cores")
    memory: Size | None = Field(default=None, ge=0, description="bytes of memory")
    gpus: int | None = Field(default=None, ge=0, description="GPUs")


class Terms(Caps):
    """What the machine's owner allows; kept and checked on the machine."""

    users: tuple[Text, ...] = Field(default=("*",), description="who may use it, as names or globs")
    hours: Annotated[Hours, BeforeValidator(_parse_hours)] = Field(
        default=Hours(), description="when it may be used, in its own time, e.g. Mon-Fri 18:00-08:00; always"
    )
    containers_only: bool = Field(default=False, description="everything runs in containers")
    image: Text = Field(default="", description="image of containers where none is asked for")
    share: bool = Field(
        default=False, description="several people at once, who can then read each other's files"
    )
    labels: Labels = Field(default_factory=dict, description="what it is, in its owner's words")

    def admits(self, user: str) -> bool:
        """Whether a user may use the machine."""
        return any(fnmatchcase(user, pattern) for pattern in self.users)


class Report(_Heard):
    """What a machine says of itself, every few seconds."""

    protocol: int = PROTOCOL
    version: Text = Field(default="", description="of gridcloud on the machine")
    capacity: Caps = Caps()
    """All that is given, to everybody together."""
    free: Caps = Caps()
    gpu_model: Text = ""
    load: float = Field(default=0, ge=0, description="mean number of processes that want a CPU, of a minute")
    running: tuple[Text, ...] = Field(default=(), max_length=1000, description="ids of instances that it has")
    directory: Text = Field(
        default="", description="where it is one instance itself: the instance's own folder"
    )
    home: Text = Field(default="", description="and where the owner's own files lie")
    open: bool = Field(default=True, description="whether its hours allow it to be used now")
    terms: Text = Field(default="", description="what its owner allows, in words")
    labels: Labels = Field(default_factory=dict)


class Agent(_Record):
    """A machine as we know it."""

    name: str = Field(pattern=AGENT_NAME)
    state: State = State.INVITED
    labels: Labels = Field(default_factory=dict)
    own_labels: Labels = Field(
        default_factory=dict, description="labels that its owner gave, as last reported"
    )
    caps: Caps = Field(default=Caps(), description="limits of its invitation")
    instance_of: str = Field(
        default="",
        description="provider that invited it to be one of its instances; empty: a machine of its own",
    )
    invitation: str = Field(default="", description="id of the token that it was, or is to be, admitted by")
    token_key: str = Field(default="", description="public key of that token, in hexadecimal", repr=False)
    expires: datetime | None = Field(default=None, description="when the token is worth nothing any more")
    addresses: tuple[str, ...] = Field(
        default=(), description="networks (CIDR) it may join from; any when empty"
    )
    host_key: str = Field(default="", description="its public key line, pinned when it joined")
    joined: datetime | None = None
    joined_from: str = Field(default="", description="address that it joined from")
    last_seen: datetime | None = None
    last_from: str = ""

    @property
    def all_labels(self) -> dict[str, str]:
        """Ours, and its owner's as ``owner.KEY``, so that nobody gives a machine a label of ours but us."""
        return {**{f"owner.{key}": value for key, value in self.own_labels.items()}, **self.labels}


def principal_of(name: str) -> str:
    """Return the name in certificates that opens the control connection of a machine."""
    return f"gridcloud-agent-{name}"


def lowest(one: Caps, other: Caps) -> Caps:
    """Return the limits that both allow."""

    def least(first: float | None, second: float | None) -> float | None:
        given = [value for value in (first, second) if value is not None]
        return min(given) if given else None

    return Caps.model_validate(
        {name: least(getattr(one, name), getattr(other, name)) for name in ("cpus", "memory", "gpus")}
    )
