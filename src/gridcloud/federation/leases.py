"""Leases between institutions: their words, their messages, and who may use one now.

Every answer of a lender is a whole `Status` with a serial that grows: a later one replaces an earlier one, so that
loss, copies and changed order of messages need no cases of their own. Times are milliseconds since 1970 by the
*lender's* clock, durations are milliseconds where they are not called seconds.

Nobody uses a lease twice, by three rules. The lender gives its room to somebody else only after `Status.expires` by
its clock, or after the borrower said that it left. The borrower stops `Terms.tolerance` before that by its own. A
lender shortens a lease only after the borrower agreed (`Heard`), and a borrower accepts elsewhere only after it left.
Where a machine dies there is nothing left to hold, and its room is free at once.
See `lending` and `borrowing` for the two sides, and ``docs/design/federation.md`` for why.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from gridcloud.errors import Malformed
from gridcloud.federation.encoding import Json
from gridcloud.federation.model import Count, Document, Identifier, Time, Title
from gridcloud.federation.wishes import Capacity, Wish

__all__ = [
    "MESSAGES",
    "Accept",
    "Ask",
    "End",
    "Heard",
    "LentState",
    "Message",
    "Offer",
    "Offers",
    "Reason",
    "Renew",
    "Status",
    "Terms",
    "read_message",
    "write_message",
]

Duration = Annotated[int, Field(strict=True, ge=0, le=366 * 86_400_000)]


class Terms(Document):
    """How long things last, in milliseconds; a lender's own, told in its record."""

    ttl: Duration = 300_000
    """A lease that is not renewed for so long is free again at both sides."""
    tolerance: Duration = 60_000
    """How far two clocks may differ; envelopes of a clock that is further off are refused."""
    window: Duration = 300_000
    """The longest time between an offer and its acceptance."""
    flight: Duration = 360_000
    """The longest that an envelope may take on its way."""
    grace: Duration = 300_000
    """Between the warning of a reclaim and the end."""


class Reason(StrEnum):
    """Why a lease ended."""

    NONE = ""
    RETURNED = "returned"
    """The borrower no longer needs it."""
    FINISHED = "finished"
    """Its time is up."""
    EXPIRED = "expired"
    """It was not renewed."""
    RECLAIMED = "reclaimed"
    """The lender needs it for its own users, or goes down for maintenance."""
    REFUSED = "refused"
    """The lender's rules or room do not allow it."""
    CHANGED = "changed"
    """The machine that was offered is no longer to be had as it was; another may be offered instead."""
    FAILED = "failed"
    """It could not be started."""
    LOST = "lost"
    """Its machine died."""
    UNKNOWN = "unknown"
    """The lender does not know it (any more)."""
    UNANSWERED = "unanswered"
    """The lender did not answer in time."""


class LentState(StrEnum):
    """A lease as the lender sees it."""

    STARTING = "starting"
    """Its machine is being made; its room is taken."""
    HELD = "held"
    """Handed over."""
    WARNED = "warned"
    """To be given back by its deadline."""
    ENDING = "ending"
    """Its machine is being ended; its room is still taken."""
    ENDED = "ended"
    """Nothing is left of it, and its room is free."""


class Ask(Document):
    """Borrower: what could you give?"""

    kind: ClassVar[str] = "lease.ask"
    wish: Wish


class Offer(Document):
    """What a lender would give for a wish. It holds nothing: the acceptance is judged again."""

    shape: Title = ""
    capacity: Capacity
    """What the machine has, which may be more than was wished: limits and claims count it."""
    ttl: Duration
    seconds: int = Field(strict=True, gt=0, le=366 * 86400)
    """The longest that it is given for."""
    price: Title = ""
    """Per hour, with its currency; empty: no money."""
    before: Time
    """Until when it may be accepted."""

    def same(self, other: Offer) -> bool:
        """Whether another offers the same machine at the same price; how long and until when may differ."""
        return (self.shape, self.capacity, self.price) == (other.shape, other.capacity, other.price)


class Offers(Document):
    """Lender: what it would give, or why nothing."""

    kind: ClassVar[str] = "lease.offers"
    need: Title
    offers: tuple[Offer, ...] = Field(default=(), max_length=64)
    refusal: Title = ""


class Accept(Document):
    """Borrower: give me this. Said as often as needed: the id makes it one lease."""

    kind: ClassVar[str] = "lease.accept"
    lease: Identifier
    """The borrower's choice; the lender knows it as this one of this borrower."""
    wish: Wish
    offer: Offer


class Renew(Document):
    """Borrower: it is still needed."""

    kind: ClassVar[str] = "lease.renew"
    lease: Identifier
    turn: Count
    """Grows by one with each renewal: a copy that comes late renews nothing."""


class Heard(Document):
    """Borrower: it knows of the deadline, and will not use the lease after it."""

    kind: ClassVar[str] = "lease.heard"
    lease: Identifier
    deadline: Time


class End(Document):
    """Borrower: it has left, and does not come back."""

    kind: ClassVar[str] = "lease.end"
    lease: Identifier
    before: Time
    """As in the offer: until then the lender remembers not to begin this lease."""


class Status(Document):
    """Lender: all there is to say of a lease."""

    kind: ClassVar[str] = "lease.status"
    lease: Identifier
    serial: Count
    state: LentState
    before: Time
    expires: Time = 0
    deadline: Time = 0
    """When it is to be given back, where the borrower is warned; 0: it is not."""
    reason: Reason = Reason.NONE
    why: Title = ""
    """The reason in words."""
    connection: dict[Title, Title] = Field(default_factory=dict, max_length=32)
    """How to reach it through the lender's broker."""
    offer: Offer | None = None
    """What is offered instead, where the reason is `changed`."""


Message = Ask | Offers | Accept | Renew | Heard | End | Status

MESSAGES: dict[str, type[Message]] = {
    one.kind: one for one in (Ask, Offers, Accept, Renew, Heard, End, Status)
}


def write_message(message: Message) -> tuple[str, Json]:
    """Return the kind and the body that an envelope takes."""
    return message.kind, message.document()


def read_message(kind: str, body: Json) -> Message:
    """Return the message of an opened envelope; raises `Malformed` where it is none."""
    if (form := MESSAGES.get(kind)) is None:
        raise Malformed(f"{ascii(kind)[1:-1]:.60} is no message about leases")
    return form.of(body)
