"""The life of a session: a table `(state, event) -> state`."""

from __future__ import annotations

from enum import StrEnum

from gridcloud.sessions.model import State

__all__ = ["TABLE", "Event", "step"]


class Event(StrEnum):
    """What can happen to a session."""

    PLACED = "placed"
    """Its instance is ready."""
    UP = "up"
    """The program answers through the tunnel."""
    BROKEN = "broken"
    """The instance could not be had, or ended; or the program did not come up, or ended."""
    MOVED = "moved"
    """Its machine was taken back by its owner: it goes on elsewhere."""
    STOP = "stop"
    """It is to end."""
    CLEARED = "cleared"
    """Its instance has ended."""


TABLE: dict[tuple[State, Event], State] = {
    (State.PLACING, Event.PLACED): State.LAUNCHING,
    (State.PLACING, Event.BROKEN): State.FAILING,
    (State.PLACING, Event.STOP): State.ENDING,
    (State.LAUNCHING, Event.UP): State.RUNNING,
    (State.LAUNCHING, Event.BROKEN): State.FAILING,
    (State.LAUNCHING, Event.STOP): State.ENDING,
    (State.RUNNING, Event.MOVED): State.PLACING,
    (State.RUNNING, Event.BROKEN): State.FAILING,
    (State.RUNNING, Event.STOP): State.ENDING,
    (State.ENDING, Event.CLEARED): State.ENDED,
    (State.FAILING, Event.CLEARED): State.FAILED,
}


def step(state: State, event: Event) -> State | None:
    """Return the state that follows, or None where the event means nothing any more."""
    return TABLE.get((state, event))
