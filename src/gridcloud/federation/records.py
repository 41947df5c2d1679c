"""What a member tells all others of itself, signed: where it is reached, what it has, on which terms.

A record replaces the one before it by its serial, which is the time it was made (milliseconds; one more where the clock
did not move on), and ends by itself. What a newer version of gridcloud adds to a record is kept and passed on by older
ones, since it is part of what is signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict, StringConstraints, model_validator

from gridcloud.errors import ClockSkew, Expired, InvalidRequest, Malformed, TooLongLived, WrongVersion
from gridcloud.federation.encoding import digest, encode
from gridcloud.federation.envelopes import SKEW, Signers
from gridcloud.federation.keys import PrivateKey, require_version, verify
from gridcloud.federation.model import (
    PROTOCOL,
    Address,
    Count,
    Document,
    Flag,
    Institution,
    Key,
    Signature,
    Time,
    Title,
    Version,
)
from gridcloud.federation.wishes import Capacity

__all__ = [
    "LONGEST",
    "MAXIMUM_RECORD",
    "Price",
    "Profile",
    "Record",
    "Room",
    "make_record",
    "newer_record",
    "next_serial",
    "read_record",
    "spoken_version",
]

MAXIMUM_RECORD = 16_384
"""Bytes of a record."""
LONGEST = timedelta(hours=24)
"""How long a record is valid at most: who is gone is forgotten within a day."""


class Price(Document):
    """What one hour of one thing costs; communities that lend for nothing state none."""

    unit: Literal["core", "gigabyte", "gpu"]
    millionths: Count
    """Of the currency, for one hour."""
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]


class Room(Document):
    """How much of one kind there is, and how much of it is free."""

    kind: Literal["bare_metal", "container", "virtual_machine"]
    total: Capacity
    free: Capacity
    gpu_models: tuple[Title, ...] = Field(default=(), max_length=16)

    @model_validator(mode="after")
    def _is_possible(self) -> Room:
        if not self.free.fits(self.total):
            raise ValueError("more is free than there is")
        return self


class Profile(Document):
    """What an institution says of itself: the part of a record that it chooses."""

    name: Title
    protocols: tuple[Annotated[int, Strict(), Field(ge=1, le=1_000_000)], ...] = Field(
        default=(PROTOCOL,), min_length=1, max_length=16
    )
    """The versions of the protocol that it speaks."""
    addresses: tuple[Address, ...] = Field(default=(), max_length=8)
    """Where it is reached directly; empty behind NAT."""
    relays: tuple[Institution, ...] = Field(default=(), max_length=8)
    """Members through whom it is reached."""
    relays_others: Flag = False
    """Whether it is such a relay itself."""
    location: Title = ""
    rooms: tuple[Room, ...] = Field(default=(), max_length=8)
    images: tuple[Title, ...] = Field(default=(), max_length=64)
    prices: tuple[Price, ...] = Field(default=(), max_length=8)
    policy: Title = ""
    """To whom it lends for what, in words; what counts is what it answers when it is asked."""


class Record(Document):
    """A member's signed record."""

    model_config = ConfigDict(extra="allow")

    version: Version
    type: Literal["record"]
    institution: Institution
    key: Key
    serial: Time
    expires: Time
    profile: dict[str, Any]
    signature: Signature

    def read_profile(self) -> Profile:
        """Return what it says, as far as it is understood here; raises Malformed."""
        return Profile.of(
            {name: value for name, value in self.profile.items() if name in Profile.model_fields}
        )

    def digest(self) -> str:
        """Return the digest of it all."""
        return digest(self.document())


def next_serial(last: int, now: int) -> int:
    """Return the serial of a new record: the time, or one more than the last where that is not later."""
    return max(last + 1, now)


def make_record(
    signing: PrivateKey, institution: str, profile: Profile, serial: int, lifetime: timedelta
) -> Record:
    """Return a signed record; `serial` in milliseconds, see `next_serial`.

    Raises InvalidRequest when it is valid for longer than `LONGEST` or larger than `MAXIMUM_RECORD`.
    """
    document = {
        "version": PROTOCOL,
        "type": "record",
        "institution": institution,
        "key": signing.public,
        "serial": serial,
        "expires": serial + lifetime // timedelta(milliseconds=1),
        "profile": profile.document(),
    }
    found = Record.of(document | {"signature": signing.sign("record", document)})
    if not timedelta(0) < lifetime <= LONGEST:
        raise InvalidRequest(f"a record is valid for up to {LONGEST // timedelta(hours=1)} hours")
    if (size := len(encode(found.document()))) > MAXIMUM_RECORD:
        raise InvalidRequest(f"a record of {size} bytes is too large: {MAXIMUM_RECORD} is the most")
    return found


def read_record(document: Mapping[str, Any], signers: Signers, now: int, skew: timedelta = SKEW) -> Record:
    """Return the record in a document that anybody passed on, once it is true and in force.

    Raises WrongVersion, Malformed, ClockSkew, TooLongLived, Expired, UnknownSigner, Revoked, Forged.
    """
    require_version(document)
    found = Record.of(document)
    if (size := len(encode(document))) > MAXIMUM_RECORD:
        raise Malformed(f"the record has {size} bytes, and {MAXIMUM_RECORD} is the most")
    found.read_profile()
    ahead = found.serial - now
    if ahead > skew // timedelta(milliseconds=1):
        raise ClockSkew(
            f"the record of {found.institution} was made {ahead // 1000} s from now: its clock is ahead, or it wants "
            "to be the newest for ever",
            details={"seconds": ahead // 1000},
        )
    if found.expires - found.serial > LONGEST // timedelta(milliseconds=1):
        raise TooLongLived(f"the record of {found.institution} wants to be valid for more than {LONGEST}")
    if found.expires <= now:
        raise Expired(f"the record of {found.institution} is over since {(now - found.expires) // 1000} s")
    signers.check(found.institution, found.key, now)
    verify(found.key, found.signature, "record", document)
    return found


def newer_record(held: Record | None, offered: Record) -> Record:
    """Return which of two true records of one institution is in force.

    That with the higher serial; of two with one serial that with the larger digest, so that all hold the same one.
    """
    if held is None:
        return offered
    if held.serial != offered.serial:
        return max(held, offered, key=lambda one: one.serial)
    return max(held, offered, key=Record.digest)


def spoken_version(profile: Profile, ours: frozenset[int] = frozenset({PROTOCOL})) -> int:
    """Return the highest version of the protocol that both sides speak; raises WrongVersion when there is none."""
    both = ours & set(profile.protocols)
    if not both:
        theirs = ", ".join(str(one) for one in sorted(profile.protocols))
        raise WrongVersion(
            f"{profile.name} speaks version {theirs} of the protocol, and we {', '.join(map(str, sorted(ours)))}",
            remedy="The one with the lower versions needs a newer gridcloud.",
        )
    return max(both)
