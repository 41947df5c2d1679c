"""The life of a cluster: a table `(state, event) -> state`."""

from __future__ import annotations

from enum import StrEnum

from gridcloud.clusters.model import State

__all__ = ["TABLE", "Event", "step"]


class Event(StrEnum):
    """What can happen to a cluster."""

    BEGUN = "begun"
    """Its provider is about to be asked."""
    UP = "up"
    """It can be used, with as many nodes as it is to have."""
    SCALE = "scale"
    """It is to have another number of nodes."""
    SCALED = "scaled"
    """It has them, or keeps those it had since the provider refused."""
    BROKEN = "broken"
    """It could not be made, or is there no longer."""
    STOP = "stop"
    """It is to end."""
    REMOVED = "removed"
    """Nothing is left of it."""


TABLE: dict[tuple[State, Event], State] = {
    (State.REQUESTED, Event.BEGUN): State.CREATING,
    (State.REQUESTED, Event.BROKEN): State.FAILED,
    (State.REQUESTED, Event.STOP): State.STOPPED,
    (State.CREATING, Event.UP): State.READY,
    (State.CREATING, Event.BROKEN): State.FAILING,
    (State.CREATING, Event.STOP): State.STOPPING,
    (State.READY, Event.SCALE): State.SCALING,
    (State.READY, Event.BROKEN): State.FAILING,
    (State.READY, Event.STOP): State.STOPPING,
    (State.SCALING, Event.SCALE): State.SCALING,
    (State.SCALING, Event.SCALED): State.READY,
    (State.SCALING, Event.BROKEN): State.FAILING,
    (State.SCALING, Event.STOP): State.STOPPING,
    (State.STOPPING, Event.REMOVED): State.STOPPED,
    (State.FAILING, Event.REMOVED): State.FAILED,
}


def step(state: State, event: Event) -> State | None:
    """Return the state that follows, or None where the event means nothing any more."""
    return TABLE.get((state, event))
