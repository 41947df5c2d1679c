"""What the API takes and tells of the grid of institutions, beside the documents of `grid.model` and `grid.reports`."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from gridcloud.federation.communities import MAXIMUM_MEMBERS
from gridcloud.federation.model import Digest, Key
from gridcloud.grid.model import Community, GivenInvitation, Proposal
from gridcloud.grid.reports import Record
from gridcloud.settings import Duration

__all__ = [
    "Branch",
    "ChangeOrder",
    "Communities",
    "CommunityWish",
    "Guest",
    "InitOrder",
    "InvitationGiven",
    "JoinOrder",
    "KeyOrder",
    "Lease",
    "Leases",
    "LeaveOutcome",
    "Outcome",
    "ReclaimOrder",
    "Records",
    "RevocationOrder",
    "RootKey",
    "RootOrder",
    "SignOrder",
]


def _one_line(text: str) -> str:
    """Return words for people, as documents between institutions hold them."""
    if any(unicodedata.category(one)[0] == "C" or unicodedata.category(one) in ("Zl", "Zp") for one in text):
        raise ValueError("it is not one line of plain words")
    return text


# `federation.model.Title` in words that the description of an API can hold: its pattern is of another kind.
Line = Annotated[str, StringConstraints(max_length=200), AfterValidator(_one_line)]
Name = Annotated[Line, StringConstraints(min_length=1)]
Words = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""An id, a fingerprint in digits, or a name."""


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class RootOrder(_Order):
    """What needs the root key: it is given in PEM where it is kept elsewhere."""

    root: str = Field(default="", max_length=4096, repr=False, description="PEM; empty: the one that is here")


class InitOrder(_Order):
    """Make our keys."""

    name: Name = Field(description="what others are to call us")


class CommunityWish(RootOrder):
    """Begin a community."""

    name: Name
    ends: datetime | None = Field(default=None, description="when it ends by itself; null: never")


class Guest(_Order):
    """Who is invited."""

    guest: Words = Field(description="the guest's id, or its fingerprint in digits, as it was heard")
    time: Duration = Field(
        default=7 * 86400, ge=60, le=30 * 86400, description="how long it is valid, e.g. 7d"
    )


class InvitationGiven(BaseModel):
    """An invitation that was written."""

    invitation: GivenInvitation
    document: dict[str, Any] = Field(description="to be given to the guest, by any way: it is no secret")


class JoinOrder(_Order):
    """Answer an invitation."""

    invitation: dict[str, Any]
    inviter: Words = Field(description="the inviter's id, or its fingerprint in digits, as it was heard")


class SignOrder(RootOrder):
    """Sign what waits in a community."""

    digest: Digest | Literal[""] = Field(
        default="", description="of the list that was looked at; no other is signed"
    )


class Branch(_Order):
    """The lists of members that one of them remembers, oldest first."""

    lists: list[dict[str, Any]] = Field(min_length=1)


class ChangeOrder(RootOrder):
    """Change how a community works."""

    threshold: int | None = Field(
        default=None, ge=1, le=MAXIMUM_MEMBERS, description="how many members sign a list from then on"
    )
    ends: datetime | None = Field(default=None, description="when it ends by itself")


class RevocationOrder(RootOrder):
    """Put a member out, for good."""

    institution: Words
    why: Name


class KeyOrder(RootOrder):
    """Revoke a service key of ours."""

    key: Key


class RootKey(_Order):
    """The root key."""

    root: str = Field(min_length=1, max_length=4096, repr=False, description="PEM")


class Outcome(BaseModel):
    """What became of a new list of members."""

    proposal: Proposal | None = Field(
        description="null: the list is in force; else it waits for others' signatures"
    )


class LeaveOutcome(BaseModel):
    """What became of leaving."""

    heard: bool = Field(description="whether another member knows; else it is told when one is reached")


class Lease(BaseModel):
    """A lease that we gave or took."""

    lease: str
    way: Literal["lent", "borrowed"]
    institution: str = Field(description="the other side's id")
    name: str = Field(default="", description="what the other side calls itself")
    user: str = Field(description="for whom, as the borrower knows them")
    purpose: str = ""
    state: str
    reason: str = Field(default="", description="why it ended")
    why: str = Field(default="", description="the reason in words")
    cpus: float
    memory: int = Field(description="bytes")
    gpus: int
    began: datetime | None = None
    until: datetime | None = Field(default=None, description="when it is free unless it is renewed")
    deadline: datetime | None = Field(
        default=None, description="when it is to be given back, where it is asked back"
    )
    instance: str = Field(default="", description="id of the instance here")


class Leases(BaseModel):
    """Leases, the oldest first."""

    leases: list[Lease]
    drained: str = Field(default="", description="why nothing new is lent; empty: something may be")


class ReclaimOrder(_Order):
    """Ask for lent machines back."""

    why: Line = Field(default="", description="the reason, which the borrower's user sees")
    time: Duration | None = Field(
        default=None, ge=0, le=30 * 86400, description="time until then; null: the usual"
    )


class Communities(BaseModel):
    """Communities of ours."""

    communities: list[Community]


class Records(BaseModel):
    """Entries of the ledger, the oldest first."""

    records: list[Record]
