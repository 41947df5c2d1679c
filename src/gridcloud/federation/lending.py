"""The lender's side of a lease: a table, and one function each for what the borrower says, what happens, and the time.

All is pure. The caller stores the lease of a `Step` first, then does and says what it tells; after a crash in between,
`look` tells the same again. Doing is idempotent by the lease's id. Leases are kept by borrower and id together, so that
no institution meets another's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import Field

from gridcloud.errors import Forbidden, InvalidRequest
from gridcloud.federation.leases import Accept, End, Heard, LentState, Offer, Reason, Renew, Status, Terms
from gridcloud.federation.model import Document, Title
from gridcloud.federation.wishes import NOTHING, Capacity, Wish

__all__ = ["ROOMY", "TABLE", "Event", "Judge", "Lent", "Order", "Step", "answer", "happen", "look"]

State = LentState


class Event(StrEnum):
    """What can happen to a lease."""

    STARTED = "started"
    """Its machine runs and can be reached."""
    FAILED = "failed"
    """Its machine could not be had."""
    RENEW = "renew"
    """The borrower still needs it."""
    RECLAIM = "reclaim"
    """The lender wants it back by a deadline."""
    HEARD = "heard"
    """The borrower knows of the deadline."""
    RETURN = "return"
    """The borrower has left."""
    EXPIRE = "expire"
    """Its time is up, or it was not renewed."""
    LOSE = "lose"
    """Its machine died."""
    CLEAR = "clear"
    """Nothing is left of its machine."""
    CHARGE = "charge"
    """It is in the ledger."""


TABLE: dict[tuple[State, Event], State] = {
    (State.STARTING, Event.STARTED): State.HELD,
    (State.STARTING, Event.FAILED): State.ENDING,
    (State.STARTING, Event.RENEW): State.STARTING,
    (State.STARTING, Event.RECLAIM): State.ENDING,
    (State.STARTING, Event.RETURN): State.ENDING,
    (State.STARTING, Event.EXPIRE): State.ENDING,
    (State.STARTING, Event.LOSE): State.ENDING,
    (State.HELD, Event.RENEW): State.HELD,
    (State.HELD, Event.RECLAIM): State.WARNED,
    (State.HELD, Event.RETURN): State.ENDING,
    (State.HELD, Event.EXPIRE): State.ENDING,
    (State.HELD, Event.LOSE): State.ENDING,
    (State.WARNED, Event.RENEW): State.WARNED,
    (State.WARNED, Event.HEARD): State.WARNED,
    (State.WARNED, Event.RETURN): State.ENDING,
    (State.WARNED, Event.EXPIRE): State.ENDING,
    (State.WARNED, Event.LOSE): State.ENDING,
    (State.ENDING, Event.CLEAR): State.ENDED,
    (State.ENDED, Event.CHARGE): State.ENDED,
}

ROOMY = frozenset({State.STARTING, State.HELD, State.WARNED, State.ENDING})
"""States in which a lease takes room."""


class Order(StrEnum):
    """What the caller is to do."""

    START = "start"
    STOP = "stop"
    CHARGE = "charge"


Judge = Callable[[Accept], "str | Offer"]
"""Says why an acceptance is refused, or what is offered where its offer has changed; an empty text where it is
granted."""


class Lent(Document):
    """A lease that was given; or one refused or ended before it began, remembered until it can no longer begin."""

    id: Title
    borrower: Title
    before: int
    wish: Wish | None = None
    offer: Offer | None = None
    """What was accepted; where it had changed, and the lease was refused, what is offered instead."""
    state: State = State.STARTING
    serial: int = 1
    expires: int = 0
    span: int = 0
    """Milliseconds that it is given for, from when it is handed over."""
    until: int = 0
    """The last moment that it can be renewed to; 0: it was not handed over."""
    turn: int = 0
    deadline: int = 0
    heard: bool = False
    began: int = 0
    """When it was handed over; 0: never."""
    ended: int = 0
    charged: bool = False
    reason: Reason = Reason.NONE
    why: Title = ""
    connection: dict[Title, Title] = Field(default_factory=dict)

    @property
    def capacity(self) -> Capacity:
        """What its machine has: what is counted."""
        return self.offer.capacity if self.wish is not None and self.offer is not None else NOTHING

    def status(self) -> Status:
        """Return what the borrower is told."""
        return Status(
            lease=self.id,
            serial=self.serial,
            state=self.state,
            before=self.before,
            expires=self.expires,
            deadline=self.deadline,
            reason=self.reason,
            why=self.why,
            connection=self.connection if self.state in (State.HELD, State.WARNED) else {},
            offer=self.offer if self.reason is Reason.CHANGED else None,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of a lease (None: it is forgotten), what to tell the borrower, and what to do."""

    lease: Lent | None
    say: tuple[Status, ...] = ()
    do: tuple[Order, ...] = ()


def answer(
    lent: Lent | None,
    borrower: str,
    message: Accept | Renew | Heard | End,
    now: int,
    terms: Terms,
    judge: Judge,
) -> Step:
    """Return what follows from a borrower's message about the lease that it has, if any.

    ``judge`` is asked for a new lease only. Raises `Forbidden` for another's
    lease, `InvalidRequest` for one that looks too far ahead.
    """
    if lent is not None and lent.borrower != borrower:
        raise Forbidden(f"lease {message.lease} is not one of {borrower}")
    if lent is None:
        return _answer_new(borrower, message, now, terms, judge)
    match message:
        case Renew() if message.turn > lent.turn:
            last = min(one for one in (now + terms.ttl, lent.until, lent.deadline) if one)
            step = _turn(lent, Event.RENEW, turn=message.turn, expires=max(lent.expires, last))
            return step or Step(lent, (lent.status(),))
        case Heard():
            if message.deadline != lent.deadline or lent.heard:
                return Step(lent)
            step = _turn(lent, Event.HEARD, heard=True, expires=min(lent.expires, lent.deadline))
            # An answer here would be answered by Heard, and so on for ever.
            return Step(step.lease) if step else Step(lent)
        case End():
            step = _end(lent, Event.RETURN, now, Reason.RETURNED)
            return step or Step(lent, (lent.status(),))
    return Step(lent, (lent.status(),))


def _answer_new(
    borrower: str,
    message: Accept | Renew | Heard | End,
    now: int,
    terms: Terms,
    judge: Judge,
) -> Step:
    if isinstance(message, Renew | Heard):
        unknown = Status(
            lease=message.lease,
            serial=0,
            state=State.ENDED,
            before=0,
            reason=Reason.UNKNOWN,
            why="not known here",
        )
        return Step(None, (unknown,))
    before = message.before if isinstance(message, End) else message.offer.before
    if before > now + terms.window + terms.tolerance:
        raise InvalidRequest(
            f"lease {message.lease} may be accepted for {(before - now) // 1000} s, too long to remember it"
        )
    lent = Lent(id=message.lease, borrower=borrower, before=before)
    if isinstance(message, End):
        return _stillborn(lent, Reason.RETURNED, "ended before it began")
    if now > before:
        late = _stillborn(lent, Reason.REFUSED, f"the offer ended {(now - before) // 1000} s ago; ask again")
        return Step(None, late.say)
    verdict = judge(message)
    if isinstance(verdict, Offer):
        changed = lent.model_copy(update={"offer": verdict})
        return _stillborn(changed, Reason.CHANGED, _describe_change(message.offer, verdict))
    if verdict:
        return _stillborn(lent, Reason.REFUSED, verdict)
    span = 1000 * min(message.wish.seconds, message.offer.seconds)
    taken = {"wish": message.wish, "offer": message.offer, "span": span, "expires": now + terms.ttl}
    lent = lent.model_copy(update=taken)
    return Step(lent, (lent.status(),), (Order.START,))


def _stillborn(lent: Lent, reason: Reason, why: str) -> Step:
    ended = lent.model_copy(
        update={"state": State.ENDED, "reason": reason, "why": _line(why), "charged": True}
    )
    return Step(ended, (ended.status(),))


def happen(
    lent: Lent,
    event: Event,
    now: int,
    *,
    deadline: int = 0,
    why: str = "",
    connection: dict[str, str] | None = None,
) -> Step:
    """Return what follows from what happened here: STARTED, FAILED, LOSE, CLEAR, CHARGE, or RECLAIM by a deadline.

    What means nothing in the lease's state changes nothing. A reclaim without an answer ends with the lease's TTL.
    """
    match event:
        case Event.STARTED:
            until = now + lent.span
            # Nobody uses it yet: its time may be cut here.
            times = {"began": now, "until": until, "expires": min(lent.expires, until)}
            step = _turn(lent, event, **times, connection=connection or {})
        case Event.FAILED:
            step = _end(lent, event, now, Reason.FAILED, why)
        case Event.LOSE:
            step = _end(lent, event, now, Reason.LOST, why)
        case Event.RECLAIM if lent.state is State.HELD:
            step = _turn(lent, event, deadline=min(deadline, lent.until), why=_line(why))
        case Event.RECLAIM:
            step = _end(lent, event, now, Reason.RECLAIMED, why)
        case Event.CLEAR:
            charged = lent.charged or not lent.began
            step = _turn(lent, event, charged=charged)
            if step and not charged:
                step = Step(step.lease, step.say, (Order.CHARGE,))
        case Event.CHARGE:
            step = _turn(lent, event, charged=True)
            step = Step(step.lease) if step else None
        case _:
            raise ValueError(f"{event} is for `answer` or `look`")
    return step or Step(lent)


def look(lent: Lent, now: int, terms: Terms) -> Step:
    """Return what the time asks for. Called every few seconds and after a restart, it repeats what is to be done."""
    if lent.state in (State.STARTING, State.HELD, State.WARNED) and now >= lent.expires:
        reason = Reason.RECLAIMED if lent.deadline else Reason.EXPIRED
        if lent.until and now >= lent.until:
            reason = Reason.FINISHED
        return _end(lent, Event.EXPIRE, now, reason) or Step(lent)
    if lent.state is State.STARTING:
        return Step(lent, (), (Order.START,))
    if lent.state is State.WARNED and not lent.heard:
        return Step(lent, (lent.status(),))
    if lent.state is State.ENDING:
        return Step(lent, (), (Order.STOP,))
    if lent.state is State.ENDED:
        if not lent.charged:
            return Step(lent, (), (Order.CHARGE,))
        if now > lent.before + terms.tolerance:
            return Step(None)
    return Step(lent)


def _turn(lent: Lent, event: Event, **changes: Any) -> Step | None:
    state = TABLE.get((lent.state, event))
    if state is None:
        return None
    lent = lent.model_copy(update={"state": state, "serial": lent.serial + 1, **changes})
    return Step(lent, (lent.status(),))


def _end(lent: Lent, event: Event, now: int, reason: Reason, why: str = "") -> Step | None:
    # Nobody used it after it expired: where this program stood still meanwhile, that is not charged.
    step = _turn(lent, event, ended=min(now, lent.expires), reason=reason, why=_line(why) or lent.why)
    return Step(step.lease, step.say, (Order.STOP,)) if step else None


def _describe_change(former: Offer, now: Offer) -> str:
    return f"the offer has changed: {_describe(former)} before, {_describe(now)} now"


def _describe(offer: Offer) -> str:
    capacity = offer.capacity
    words = [f"{capacity.millicores / 1000:g} cores", f"{capacity.memory} MiB"]
    words += [f"{capacity.gpus} GPUs"] if capacity.gpus else []
    words += [f"{offer.price:.40} an hour"] if offer.price else []
    return f"{offer.shape:.40} ({', '.join(words)})"


def _line(words: str) -> str:
    """Return words of a policy or a provider as one line of a status."""
    return " ".join("".join(one if one.isprintable() else " " for one in words).split())[:200]
