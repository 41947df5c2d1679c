"""Signed messages from one institution to another: made by `sign`, and accepted only by `Receiver.open`.

What is accepted was written by a known institution with a key that is good now, for us, in this minute, once. Every
other message ends in a subclass of MessageRefused that says who, what and why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from gridcloud.clock import Clock
from gridcloud.errors import (
    ClockSkew,
    Expired,
    InvalidRequest,
    MessageRefused,
    Misdirected,
    Replayed,
    Revoked,
    Throttled,
    TooLongLived,
    UnknownSigner,
)
from gridcloud.federation.encoding import MAXIMUM_BYTES, Json, decode, encode, milliseconds
from gridcloud.federation.keys import KeyList, PrivateKey, check_service_key, require_version, verify
from gridcloud.federation.model import (
    PROTOCOL,
    Document,
    Identifier,
    Institution,
    Key,
    Signature,
    Time,
    Version,
)

__all__ = [
    "CONTEXT",
    "LIFETIME",
    "MAXIMUM_LIFETIME",
    "SKEW",
    "Envelope",
    "Receiver",
    "ReplayCache",
    "Signers",
    "sign",
    "who_and_what",
]

CONTEXT = "envelope"
"""What the signature of a message is made as."""
LIFETIME = timedelta(minutes=2)
"""How long a message is valid unless it says otherwise."""
MAXIMUM_LIFETIME = timedelta(minutes=5)
"""The most that a message may be valid for: so long is its nonce remembered."""
SKEW = timedelta(minutes=1)
"""How far two clocks may be apart."""

Kind = Annotated[str, StringConstraints(pattern=r"^[a-z]+(\.[a-z]+)*$", max_length=64)]


class Envelope(Document):
    """A message: from whom, for whom, what kind, valid when, and its body."""

    version: Version
    kind: Kind
    sender: Institution = Field(alias="from")
    recipient: Institution = Field(alias="to")
    key: Key
    """The service key that signed it."""
    nonce: Identifier
    """Never the same in two messages of one sender within their validity."""
    answers: Annotated[str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9-]{2,63})?$")]
    """The nonce of the message that this one answers; empty when it answers none."""
    issued: Time
    expires: Time
    body: dict[str, Any]
    signature: Signature


@dataclass(frozen=True, slots=True)
class Signers:
    """Whose messages are accepted: the key lists of the members, and who was a member once."""

    keys: Mapping[str, KeyList]
    revoked: Mapping[str, str] = field(default_factory=dict)
    """Why each of these institutions is no longer listened to, in words."""

    def check(self, institution: str, key: str, now: int) -> None:
        """Return when `key` signs for the institution at `now` (milliseconds).

        Raises Revoked for a former member or a revoked key, UnknownSigner for a stranger or a stranger's key, Expired.
        """
        if institution in self.revoked:
            raise Revoked(f"{institution} is no longer a member: {self.revoked[institution]}")
        keys = self.keys.get(institution)
        if keys is None:
            raise UnknownSigner(f"{institution} is not a member of any community of ours")
        check_service_key(keys, key, now)


class ReplayCache:
    """The nonces of accepted messages, until their time is over: a message is accepted once.

    Only true messages of members come in here, so that a stranger fills nothing; a member that sends more than `limit`
    within their validity is Throttled, and what it sent before is still remembered. A cache whose memory was lost
    (a disk, not a restart: store `state()`) takes no message that may have been accepted before.
    """

    def __init__(self, limit: int = 10_000, not_before: int = 0) -> None:
        """`not_before`: milliseconds; what was issued earlier may be known to a memory that is lost."""
        self._limit = limit
        self._not_before = not_before
        self._until: dict[str, dict[str, int]] = {}

    @classmethod
    def lost(cls, now: int, skew: timedelta = SKEW, limit: int = 10_000) -> ReplayCache:
        """Return the cache of a receiver whose state is lost: for `skew` from `now` on it accepts nothing."""
        return cls(limit, now + skew // timedelta(milliseconds=1) + 1)

    @classmethod
    def of(cls, state: Mapping[str, Any], limit: int = 10_000) -> ReplayCache:
        """Return the cache that `state` wrote."""
        cache = cls(limit, int(state["not_before"]))
        cache._until = {sender: dict(nonces) for sender, nonces in state["until"].items()}
        return cache

    def state(self) -> Json:
        """Return what is remembered, as a document to be stored."""
        return {
            "not_before": self._not_before,
            "until": {sender: dict(nonces) for sender, nonces in self._until.items()},
        }

    def add(self, sender: str, nonce: str, issued: int, until: int, now: int) -> None:
        """Remember a message until `until` (milliseconds); raises Replayed when it is known, Throttled when full."""
        if issued < self._not_before:
            raise Replayed(
                f"{nonce} was sent before this service lost its memory of what it accepted",
                remedy="Send it again with a new nonce.",
            )
        nonces = self._until.setdefault(sender, {})
        if nonces.get(nonce, -1) >= now:
            raise Replayed(f"{nonce} was accepted before: a message works once")
        if len(nonces) >= self._limit:
            nonces = self._until[sender] = {one: end for one, end in nonces.items() if end >= now}
        if len(nonces) >= self._limit:
            raise Throttled(f"{sender} sent {self._limit} messages within their validity: too many")
        nonces[nonce] = until

    def forget(self, now: int) -> None:
        """Forget what is over: called from time to time."""
        for sender, nonces in list(self._until.items()):
            kept = {nonce: until for nonce, until in nonces.items() if until >= now}
            if kept:
                self._until[sender] = kept
            else:
                del self._until[sender]

    def __len__(self) -> int:
        return sum(len(nonces) for nonces in self._until.values())


def sign(
    key: PrivateKey,
    clock: Clock,
    *,
    kind: str,
    sender: str,
    recipient: str,
    body: Mapping[str, Any],
    answers: str = "",
    lifetime: timedelta = LIFETIME,
    nonce: str = "",
) -> bytes:
    """Return a message as the bytes that are sent; the nonce is a new one where none is given.

    Raises InvalidRequest when the body cannot be written or the message is larger than a receiver reads.
    """
    issued = milliseconds(clock.now())
    document: Json = {
        "version": PROTOCOL,
        "kind": kind,
        "from": sender,
        "to": recipient,
        "key": key.public,
        "nonce": nonce or clock.new_id("m"),
        "answers": answers,
        "issued": issued,
        "expires": issued + lifetime // timedelta(milliseconds=1),
        "body": dict(body),
    }
    document["signature"] = key.sign(CONTEXT, document)
    data = encode(document)
    if len(data) > MAXIMUM_BYTES:
        raise InvalidRequest(
            f"a {kind} message of {len(data)} bytes is larger than anybody reads: {MAXIMUM_BYTES}"
        )
    Envelope.of(document)
    return data


class Receiver:
    """Opens the messages that come to one institution."""

    def __init__(
        self,
        institution: str,
        clock: Clock,
        replays: ReplayCache,
        *,
        skew: timedelta = SKEW,
        longest: timedelta = MAXIMUM_LIFETIME,
    ) -> None:
        self.institution = institution
        self.replays = replays
        self._clock = clock
        self._skew = skew // timedelta(milliseconds=1)
        self._longest = longest // timedelta(milliseconds=1)

    def open(self, data: bytes, signers: Signers, *, answers: str | None = None) -> Envelope:
        """Return the message in `data`, which is accepted herewith and never again.

        `answers`: the nonce of ours that it must answer; None where any will do. Raises a subclass of MessageRefused
        whose `who`, `what` and `why` belong in the log, or Throttled. The order is: form, version, recipient, times,
        signer, signature, replay; only what passes all of it is remembered.
        """
        document: Json = {}
        try:
            document = decode(data)
            require_version(document)
            envelope = Envelope.of(document)
            self._check_addressed(envelope, answers)
            now = milliseconds(self._clock.now())
            self._check_times(envelope, now)
            signers.check(envelope.sender, envelope.key, now)
            verify(envelope.key, envelope.signature, CONTEXT, document)
            self.replays.add(
                envelope.sender, envelope.nonce, envelope.issued, envelope.expires + self._skew, now
            )
        except (MessageRefused, Throttled) as refusal:
            refusal.details = who_and_what(document) | refusal.details
            raise
        return envelope

    def skew(self, envelope: Envelope) -> timedelta:
        """Return how far the sender's clock seems behind ours, its way here included; negative when it is ahead."""
        return timedelta(milliseconds=milliseconds(self._clock.now()) - envelope.issued)

    def _check_addressed(self, envelope: Envelope, answers: str | None) -> None:
        if envelope.recipient != self.institution:
            raise Misdirected(f"the message is for {envelope.recipient}, and this is {self.institution}")
        if envelope.sender == self.institution:
            raise Misdirected("the message is from ourselves: somebody sends our own back to us")
        if answers is not None and envelope.answers != answers:
            raise Misdirected(f"the message answers {envelope.answers or 'nothing'}, not {answers}")

    def _check_times(self, envelope: Envelope, now: int) -> None:
        if envelope.expires - envelope.issued > self._longest:
            raise TooLongLived(
                f"the message wants to be valid for {(envelope.expires - envelope.issued) // 1000} s, "
                f"and {self._longest // 1000} s is the most"
            )
        if envelope.expires <= envelope.issued:
            raise Expired("the message ends before it begins")
        ahead = envelope.issued - now
        if ahead > self._skew:
            raise ClockSkew(
                f"the clock of {envelope.sender} is {ahead // 1000} s ahead of ours, and {self._skew // 1000} s "
                "are tolerated",
                remedy="Set both clocks by NTP.",
                details={"seconds": ahead // 1000},
            )
        if envelope.expires + self._skew <= now:
            raise Expired(
                f"the message is over since {(now - envelope.expires) // 1000} s: late, sent again by somebody, or the "
                f"clock of {envelope.sender} is {(now - envelope.issued) // 1000} s behind ours",
                details={"seconds": (envelope.issued - now) // 1000},
            )


def who_and_what(document: Json) -> dict[str, str]:
    """Return what a refused message says of itself, for the log: `who` sent it, `what` it is (its kind and nonce).

    Only what has the form of an institution, a kind and a nonce is repeated: no stranger writes our log.
    """
    who, kind, nonce = document.get("from"), document.get("kind"), document.get("nonce")
    fits = isinstance(who, str) and re.fullmatch(r"[0-9a-hjkmnp-tv-z]{32}", who)
    words = [
        str(value)
        for value, pattern in ((kind, r"[a-z.]{1,64}"), (nonce, r"[a-z0-9-]{1,64}"))
        if isinstance(value, str) and re.fullmatch(pattern, value)
    ]
    return {"who": str(who) if fits else "somebody unknown", "what": " ".join(words) or "a message"}
