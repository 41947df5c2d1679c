"""The life of a job: a table `(state, event) -> state`."""

from __future__ import annotations

from enum import StrEnum

from gridcloud.jobs.model import State

__all__ = ["TABLE", "Event", "step"]


class Event(StrEnum):
    """What can happen to a job."""

    FREED = "freed"
    """All that it waited for has ended as it had to."""
    UNFULFILLED = "unfulfilled"
    """Something that it waited for has not."""
    REUSED = "reused"
    """The same was done before."""
    TAKEN = "taken"
    """A scheduler was chosen."""
    STAGED = "staged"
    """Its inputs are there, and it was handed over."""
    BEGUN = "begun"
    """It runs."""
    WELL = "well"
    """Its program ended with 0."""
    BROKEN = "broken"
    """It ended otherwise, and is not tried again."""
    AGAIN = "again"
    """It ended otherwise, and is tried again."""
    COLLECTED = "collected"
    """Its outputs are where they belong."""
    CANCEL = "cancel"
    """It is to end."""
    GONE = "gone"
    """Its scheduler has it no longer."""


_HELD = (State.STAGING, State.SUBMITTED, State.RUNNING)
"""States in which a scheduler may have it: what was handed over may have begun, or ended, unseen."""

TABLE: dict[tuple[State, Event], State] = {
    (State.WAITING, Event.FREED): State.QUEUED,
    (State.WAITING, Event.UNFULFILLED): State.SKIPPED,
    (State.WAITING, Event.CANCEL): State.CANCELLED,
    (State.QUEUED, Event.REUSED): State.SKIPPED,
    (State.QUEUED, Event.TAKEN): State.STAGING,
    (State.QUEUED, Event.BROKEN): State.FAILED,
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
    (State.STAGING, Event.STAGED): State.SUBMITTED,
    (State.SUBMITTED, Event.BEGUN): State.RUNNING,
    **{(state, Event.WELL): State.COLLECTING for state in (State.SUBMITTED, State.RUNNING)},
    **{(state, Event.BROKEN): State.FAILED for state in _HELD},
    **{(state, Event.AGAIN): State.QUEUED for state in _HELD},
    **{(state, Event.CANCEL): State.ENDING for state in _HELD},
    (State.COLLECTING, Event.COLLECTED): State.DONE,
    (State.COLLECTING, Event.BROKEN): State.FAILED,
    (State.COLLECTING, Event.CANCEL): State.ENDING,
    (State.ENDING, Event.GONE): State.CANCELLED,
}


def step(state: State, event: Event) -> State | None:
    """Return the state that follows, or None where the event means nothing any more (it came too late)."""
    return TABLE.get((state, event))
