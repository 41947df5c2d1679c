"""Institutions with fixed keys, and what they write to each other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from gridcloud.clock import ManualClock
from gridcloud.federation.communities import Member, MemberList, draft_first, sign_list
from gridcloud.federation.encoding import milliseconds
from gridcloud.federation.envelopes import Receiver, ReplayCache, Signers, sign
from gridcloud.federation.keys import KeyList, PrivateKey, ServiceKey, institution_of, make_key_list

__all__ = ["MINUTE", "YEAR", "Place", "community", "key", "signers"]

MINUTE = 60_000
YEAR = 365 * 24 * 60 * MINUTE


def key(name: str) -> PrivateKey:
    """Return the key of a name: the same one in every run."""
    return PrivateKey(hashlib.sha256(b"gridcloud test key\n" + name.encode()).digest())


@dataclass
class Place:
    """An institution: a root key, a service key that is valid for a year, a clock."""

    name: str
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.root = key(f"{self.name} root")
        self.service = key(f"{self.name} service")
        self.institution = institution_of(self.root.public)
        self.keys = self.key_list()
        self.receiver = Receiver(self.institution, self.clock, ReplayCache())

    @property
    def now(self) -> int:
        return milliseconds(self.clock.now())

    def key_list(self, serial: int = 1) -> KeyList:
        span = ServiceKey(key=self.service.public, valid_from=self.now, valid_until=self.now + YEAR)
        return make_key_list(self.root, serial, self.now, (span,))

    def member(self) -> Member:
        return Member(root=self.root.public, name=self.name, joined=self.now)

    def write(self, to: Place, body: dict[str, Any] | None = None, **changes: Any) -> bytes:
        told: dict[str, Any] = {
            "kind": "test.hello",
            "sender": self.institution,
            "recipient": to.institution,
            "body": body or {"words": "good morning"},
            "lifetime": timedelta(minutes=2),
        } | changes
        signing = told.pop("signing", self.service)
        return sign(signing, self.clock, **told)


def signers(*places: Place) -> Signers:
    return Signers({place.institution: place.keys for place in places})


def community(*places: Place, threshold: int = 2, ends: int = 0) -> MemberList:
    """Return the first list of a community, signed by all its founders."""
    found = draft_first("Foam project", [place.member() for place in places], threshold, places[0].now, ends)
    for place in places:
        found = sign_list(found, place.root)
    return found
