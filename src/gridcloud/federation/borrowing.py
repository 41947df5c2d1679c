"""The borrower's side of a lease: a table, and one function each for the beginning, the lender's word, time and end.

All is pure. The caller stores the lease of a `Step` first, then does and says what it tells; after a crash in between,
`look` tells the same again. Whether a lease may be used is no state but a question: `usable`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import Field

from gridcloud.errors import Conflict, Forbidden
from gridcloud.federation.leases import Accept, End, Heard, LentState, Message, Reason, Renew, Status, Terms
from gridcloud.federation.model import Document, Title

__all__ = [
    "LIVE",
    "TABLE",
    "Borrowed",
    "BorrowedState",
    "Event",
    "Order",
    "Step",
    "accept",
    "hear",
    "leave",
    "look",
    "usable",
]


class BorrowedState(StrEnum):
    """A lease as the borrower sees it."""

    ACCEPTING = "accepting"
    """Accepted; the lender did not answer yet."""
    WAITING = "waiting"
    """The lender starts its machine."""
    HELD = "held"
    """Handed over."""
    WARNED = "warned"
    """To be given back by its deadline; what is on it is being saved."""
    LEAVING = "leaving"
    """No longer used; the lender did not confirm that yet."""
    OVER = "over"
    """Free at both sides."""


State = BorrowedState


class Event(StrEnum):
    """What can happen to a lease."""

    STARTING = "starting"
    HOLD = "hold"
    """It is handed over."""
    WARN = "warn"
    """The lender wants it back."""
    ENDED = "ended"
    """The lender ended it."""
    LEAVE = "leave"
    """It is no longer needed, or may no longer be used."""
    FREE = "free"
    """The lender must have freed it by now, whatever it heard."""


TABLE: dict[tuple[State, Event], State] = {
    (State.ACCEPTING, Event.STARTING): State.WAITING,
    (State.ACCEPTING, Event.HOLD): State.HELD,
    (State.ACCEPTING, Event.WARN): State.WARNED,
    (State.ACCEPTING, Event.ENDED): State.OVER,
    (State.ACCEPTING, Event.LEAVE): State.LEAVING,
    (State.WAITING, Event.STARTING): State.WAITING,
    (State.WAITING, Event.HOLD): State.HELD,
    (State.WAITING, Event.WARN): State.WARNED,
    (State.WAITING, Event.ENDED): State.OVER,
    (State.WAITING, Event.LEAVE): State.LEAVING,
    (State.HELD, Event.HOLD): State.HELD,
    (State.HELD, Event.WARN): State.WARNED,
    (State.HELD, Event.ENDED): State.OVER,
    (State.HELD, Event.LEAVE): State.LEAVING,
    (State.WARNED, Event.WARN): State.WARNED,
    (State.WARNED, Event.ENDED): State.OVER,
    (State.WARNED, Event.LEAVE): State.LEAVING,
    (State.LEAVING, Event.ENDED): State.OVER,
    (State.LEAVING, Event.FREE): State.OVER,
}

LIVE = frozenset({State.ACCEPTING, State.WAITING, State.HELD, State.WARNED})
"""States of a lease that is used, or may yet be."""


class Order(StrEnum):
    """What the caller is to do."""

    USE = "use"
    SAVE = "save"
    """Save what is on it, then `leave`."""
    CEASE = "cease"
    """Stop using it: its connection is closed here."""


class Borrowed(Document):
    """A lease that was accepted."""

    lender: Title
    accept: Accept
    state: State = State.ACCEPTING
    serial: int = 0
    until: int = 0
    """When it must be left, by the lender's clock; 0: it was not handed over."""
    deadline: int = 0
    turn: int = 0
    began: int = 0
    ended: int = 0
    """By this side's clock, for the ledger; 0: not yet, or never."""
    free: int = 0
    """When the lender has freed it for certain, by this side's clock."""
    reason: Reason = Reason.NONE
    why: Title = ""
    connection: dict[Title, Title] = Field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its id, unique among this borrower's."""
        return self.accept.lease

    def end(self) -> End:
        """Return what tells the lender that it is left."""
        return End(lease=self.id, before=self.accept.offer.before)


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of a lease, what to tell the lender, and what to do."""

    lease: Borrowed | None
    say: tuple[Message, ...] = ()
    do: tuple[Order, ...] = ()


def usable(lease: Borrowed, now: int, terms: Terms) -> bool:
    """Whether it may be used at this moment, by this side's clock."""
    return lease.state in (State.HELD, State.WARNED) and now + terms.tolerance < lease.until


def accept(lender: str, message: Accept, others: Iterable[Borrowed]) -> Step:
    """Return a new lease; raises `Conflict` where the same need has one already among ``others``."""
    for one in others:
        if one.state in LIVE and one.accept.wish.need == message.wish.need:
            raise Conflict(f"{message.wish.need} has lease {one.id} of {one.lender} still; leave that first")
    return Step(Borrowed(lender=lender, accept=message), (message,))


def hear(lease: Borrowed | None, lender: str, status: Status, now: int, terms: Terms) -> Step:
    """Return what follows from a lender's status.

    One of a lease that is not known here (this side's disk was lost) is answered with its end. Raises `Forbidden` where
    somebody else than the lender speaks.
    """
    final = status.state in (LentState.ENDING, LentState.ENDED)
    if lease is None:
        return Step(None, () if final else (End(lease=status.lease, before=status.before),))
    if lease.lender != lender:
        raise Forbidden(f"lease {lease.id} is of {lease.lender}, and {lender} spoke of it")
    if final:
        return _over(lease, status, now)
    again = status.state is LentState.WARNED and lease.state is State.WARNED and status.serial == lease.serial
    if again:  # the lender did not hear that it was heard
        return Step(lease, (Heard(lease=lease.id, deadline=lease.deadline),))
    if lease.state not in LIVE:  # what it heard is older than that, or its disk was lost
        return Step(lease, (lease.end(),))
    if status.serial <= lease.serial:
        return Step(lease)
    limits: dict[str, Any] = {"serial": status.serial, "until": status.expires}
    if status.state is LentState.STARTING:
        return _turn(lease, Event.STARTING, **limits) or Step(lease)
    limits |= {"began": lease.began or now, "connection": status.connection}
    if status.state is LentState.HELD:
        step = _turn(lease, Event.HOLD, **limits)
        return Step(step.lease, (), () if lease.began else (Order.USE,)) if step else Step(lease)
    limits |= {"deadline": status.deadline, "until": min(status.expires, status.deadline), "why": status.why}
    step = _turn(lease, Event.WARN, **limits)
    return (
        Step(step.lease, (Heard(lease=lease.id, deadline=status.deadline),), (Order.SAVE,))
        if step
        else Step(lease)
    )


def _over(lease: Borrowed, status: Status, now: int) -> Step:
    if lease.state is State.LEAVING and status.state is not LentState.ENDED:
        return Step(lease)
    reason = status.reason if lease.reason is Reason.NONE else lease.reason
    step = _turn(lease, Event.ENDED, reason=reason, why=status.why or lease.why, **_ended(lease, now))
    if step is None:
        return Step(lease)
    return Step(step.lease, (), (Order.CEASE,) if lease.state in LIVE else ())


def look(lease: Borrowed, now: int, terms: Terms) -> Step:
    """Return what the time asks for. Called every few seconds and after a restart, it repeats what is to be done."""
    match lease.state:
        case State.ACCEPTING:
            if now > lease.accept.offer.before:
                return leave(lease, now, terms, Reason.UNANSWERED)
            return Step(lease, (lease.accept,))
        case State.LEAVING:
            if now > lease.free:
                return _turn(lease, Event.FREE) or Step(lease)
            return Step(lease, (lease.end(),), (Order.CEASE,))
        case State.WAITING | State.HELD | State.WARNED:
            return _keep(lease, now, terms)
    return Step(lease)


def _keep(lease: Borrowed, now: int, terms: Terms) -> Step:
    if now + terms.tolerance >= lease.until:
        reason = Reason.RECLAIMED if lease.deadline else Reason.EXPIRED
        return leave(lease, now, terms, reason)
    do = {State.HELD: (Order.USE,), State.WARNED: (Order.SAVE,)}.get(lease.state, ())
    # The word that it is handed over may be lost: saying the acceptance again asks for it.
    ask: tuple[Message, ...] = (lease.accept,) if lease.state is State.WAITING else ()
    if lease.until - now >= lease.accept.offer.ttl * 2 // 3 or lease.until == lease.deadline:
        return Step(lease, ask, do)
    lease = lease.model_copy(update={"turn": lease.turn + 1})
    return Step(lease, (*ask, Renew(lease=lease.id, turn=lease.turn)), do)


def leave(lease: Borrowed, now: int, terms: Terms, reason: Reason = Reason.RETURNED) -> Step:
    """Return what follows when it is no longer needed; leaving twice changes nothing."""
    # The lender may yet hear an acceptance or a renewal that is on its way.
    free = now + terms.flight + lease.accept.offer.ttl + 2 * terms.tolerance
    step = _turn(lease, Event.LEAVE, reason=reason, free=free, **_ended(lease, now))
    return Step(step.lease, (lease.end(),), (Order.CEASE,)) if step else Step(lease)


def _ended(lease: Borrowed, now: int) -> dict[str, int]:
    return {"ended": lease.ended or min(now, lease.until)} if lease.began else {}


def _turn(lease: Borrowed, event: Event, **changes: Any) -> Step | None:
    state = TABLE.get((lease.state, event))
    return Step(lease.model_copy(update={"state": state, **changes})) if state else None
