"""What the grid shows: who we are, our communities, what waits to be signed, and the links to other members."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.federation.records import Profile

__all__ = [
    "Community",
    "GivenInvitation",
    "Link",
    "Member",
    "Proposal",
    "Refusal",
    "ServiceKeyState",
    "Standing",
    "Status",
    "Way",
]


class _Shown(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Way(StrEnum):
    """How a member is reached."""

    DIRECT = "direct"
    """At one of its addresses."""
    RELAYED = "relayed"
    """Through another member; the relay sees only TLS."""
    UNREACHABLE = "unreachable"
    """The last try failed, or nobody knows where it is."""
    UNTRIED = "untried"
    """Nobody has tried since this service started."""


class ServiceKeyState(_Shown):
    """A key that we sign with from day to day."""

    key: str
    valid_from: datetime
    valid_until: datetime
    in_use: bool = Field(description="whether this is the one that signs now")


class Standing(_Shown):
    """Who we are to others."""

    institution: str = Field(description="our id, 32 letters and digits")
    name: str = Field(description="what we are called")
    fingerprint: str = Field(description="the id as ten groups of five digits, to be read over the telephone")
    root_here: bool = Field(
        description="whether the root key is on this computer, or must be given for each use"
    )
    keys: tuple[ServiceKeyState, ...] = ()
    revoked: int = Field(default=0, description="service keys that were revoked")


class Member(_Shown):
    """An institution in a community of ours, ourselves too."""

    institution: str
    name: str
    joined: datetime
    left: bool = Field(default=False, description="it said that it leaves, and no list was made since")
    ourselves: bool = False
    profile: Profile | None = Field(
        default=None, description="what its newest record says; none was heard yet"
    )


class Proposal(_Shown):
    """A list of members that waits for signatures."""

    community: str
    name: str = Field(description="of the community")
    number: int
    digest: str
    joining: tuple[str, ...] = Field(default=(), description="names and ids of who would come in")
    leaving: tuple[str, ...] = Field(default=(), description="names and ids of who would go")
    revoking: tuple[str, ...] = Field(
        default=(), description="names and ids of who would be put out, and why"
    )
    threshold: int = Field(description="how many would have to sign the list after this one")
    ends: datetime | None = Field(default=None, description="when the community would end by itself")
    signed: tuple[str, ...] = Field(default=(), description="ids of who signed it")
    needed: int = Field(description="signatures that it takes")
    signed_here: bool = False


class Community(_Shown):
    """A community as we know it."""

    community: str
    name: str
    number: int = Field(description="of the newest list of members")
    threshold: int
    ends: datetime | None = None
    joining: bool = Field(
        default=False, description="we were invited, and are not on the list of members yet"
    )
    leaving: bool = Field(default=False, description="we said that we leave, and nobody heard it yet")
    revoked: str = Field(default="", description="why we were put out; empty: we were not")
    forked: str = Field(default="", description="two true lists contradict each other: who signed both")
    members: tuple[Member, ...] = ()
    proposals: tuple[Proposal, ...] = ()


class GivenInvitation(_Shown):
    """An invitation that we wrote."""

    id: str
    community: str
    guest: str
    expires: datetime
    spent: str = Field(default="", description="what became of it; empty: it is open")


class Link(_Shown):
    """How we stand with another member."""

    institution: str
    name: str
    way: Way = Way.UNTRIED
    address: str = Field(default="", description="where it was last reached, or the relay's id")
    last_heard: datetime | None = Field(default=None, description="its last message that was accepted")
    last_failure: str = Field(
        default="", description="why the last try to reach it failed; empty when it did not"
    )
    skew: float | None = Field(default=None, description="seconds that its clock seems ahead of ours")
    sent: int = 0
    received: int = 0
    refused: int = Field(default=0, description="messages of it that were refused since this service started")


class Refusal(_Shown):
    """A message that was not accepted."""

    when: datetime
    who: str
    what: str
    why: str
    error: str = Field(description="name of the error's class")


class Status(_Shown):
    """All of the grid at one moment."""

    standing: Standing | None = Field(description="none: the grid is not initialised here")
    listening: str = Field(default="", description="HOST:PORT that is listened on; empty: none")
    addresses: tuple[str, ...] = ()
    relays: tuple[str, ...] = Field(default=(), description="members that we are reached through")
    relays_others: bool = False
    communities: tuple[Community, ...] = ()
    links: tuple[Link, ...] = ()
    invitations: tuple[GivenInvitation, ...] = ()
    refusals: tuple[Refusal, ...] = Field(default=(), description="the latest, newest last")
    warnings: tuple[str, ...] = Field(default=(), description="what a person should do something about")
