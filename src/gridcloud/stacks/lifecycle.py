"""The life of a stack: a table `(state, event) -> state`."""

from __future__ import annotations

from enum import StrEnum

from gridcloud.stacks.model import State

__all__ = ["TABLE", "Event", "step"]


class Event(StrEnum):
    """What can happen to a stack."""

    DEPLOY = "deploy"
    """Its instances are to be obtained."""
    COMPLETE = "complete"
    """All are ready."""
    INCOMPLETE = "incomplete"
    """Some could not be had, and the others are kept."""
    BROKEN = "broken"
    """Some could not be had, so that none is kept."""
    LOST = "lost"
    """A member's instance has ended."""
    CLEARED = "cleared"
    """What was to end has ended, and no instance is left."""
    REDUCED = "reduced"
    """What was to end has ended, and other instances live on."""
    DESTROY = "destroy"
    """All its instances are to end, and it with them."""


TABLE: dict[tuple[State, Event], State] = {
    (State.DEFINED, Event.DEPLOY): State.DEPLOYING,
    (State.DEFINED, Event.DESTROY): State.GONE,
    (State.DEPLOYING, Event.COMPLETE): State.DEPLOYED,
    (State.DEPLOYING, Event.INCOMPLETE): State.PARTIAL,
    (State.DEPLOYING, Event.BROKEN): State.CLEARING,
    (State.DEPLOYING, Event.DESTROY): State.DESTROYING,
    (State.DEPLOYED, Event.LOST): State.PARTIAL,
    (State.DEPLOYED, Event.DEPLOY): State.DEPLOYING,
    (State.DEPLOYED, Event.DESTROY): State.DESTROYING,
    (State.PARTIAL, Event.LOST): State.PARTIAL,
    (State.PARTIAL, Event.DEPLOY): State.DEPLOYING,
    (State.PARTIAL, Event.DESTROY): State.DESTROYING,
    (State.CLEARING, Event.CLEARED): State.DEFINED,
    (State.CLEARING, Event.REDUCED): State.PARTIAL,
    (State.CLEARING, Event.DESTROY): State.DESTROYING,
    (State.DESTROYING, Event.CLEARED): State.GONE,
}


def step(state: State, event: Event) -> State | None:
    """Return the state that follows, or None where the event means nothing."""
    return TABLE.get((state, event))
