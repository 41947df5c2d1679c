"""The life of an instance: a table `(state, event) -> state`, and what is to be done in each state.

What is to be done follows from the state alone, so a call lost in a crash is made again by whoever comes next.
"""

from __future__ import annotations

from enum import StrEnum

from gridcloud.instances.model import FINAL, Reason, State

__all__ = ["DUTIES", "TABLE", "Duty", "Event", "diagram", "ending", "step"]


class Event(StrEnum):
    """What can happen to an instance."""

    OFFERED = "offered"
    """An offer was chosen."""
    NO_OFFER = "no-offer"
    """No offer is left."""
    MADE = "made"
    """The provider gave a handle."""
    REFUSED = "refused"
    """The provider did not make it, or it never came up: the next offer's turn."""
    RUNNING = "running"
    """It runs and answers."""
    CONFIGURED = "configured"
    """It is as was asked."""
    BROKEN = "broken"
    """It cannot be configured."""
    GONE = "gone"
    """The provider holds it no longer."""
    STOP = "stop"
    """It is to end."""
    REMOVED = "removed"
    """The provider holds nothing of it any more."""


class Duty(StrEnum):
    """What the runner does for an instance in some state."""

    CHOOSE = "choose"
    CREATE = "create"
    AWAIT = "await"
    CONFIGURE = "configure"
    WATCH = "watch"
    DESTROY = "destroy"


DUTIES: dict[State, Duty] = {
    State.REQUESTED: Duty.CHOOSE,
    State.CREATING: Duty.CREATE,
    State.STARTING: Duty.AWAIT,
    State.CONFIGURING: Duty.CONFIGURE,
    State.READY: Duty.WATCH,
    State.DISCARDING: Duty.DESTROY,
    State.STOPPING: Duty.DESTROY,
    State.FAILING: Duty.DESTROY,
}

TABLE: dict[tuple[State, Event], State] = {
    (State.REQUESTED, Event.OFFERED): State.CREATING,
    (State.REQUESTED, Event.NO_OFFER): State.FAILED,
    (State.REQUESTED, Event.STOP): State.STOPPED,
    (State.CREATING, Event.MADE): State.STARTING,
    (State.CREATING, Event.REFUSED): State.DISCARDING,
    (State.CREATING, Event.STOP): State.STOPPING,
    (State.STARTING, Event.RUNNING): State.CONFIGURING,
    (State.STARTING, Event.REFUSED): State.DISCARDING,
    (State.STARTING, Event.GONE): State.DISCARDING,
    (State.STARTING, Event.STOP): State.STOPPING,
    (State.CONFIGURING, Event.CONFIGURED): State.READY,
    (State.CONFIGURING, Event.BROKEN): State.FAILING,
    (State.CONFIGURING, Event.REFUSED): State.DISCARDING,
    (State.CONFIGURING, Event.GONE): State.DISCARDING,
    (State.CONFIGURING, Event.STOP): State.STOPPING,
    (State.READY, Event.GONE): State.FAILING,
    (State.READY, Event.STOP): State.STOPPING,
    (State.DISCARDING, Event.REMOVED): State.REQUESTED,
    (State.DISCARDING, Event.STOP): State.STOPPING,
    (State.STOPPING, Event.REMOVED): State.STOPPED,
    (State.STOPPING, Event.STOP): State.STOPPING,
    (State.FAILING, Event.REMOVED): State.FAILED,
    (State.FAILING, Event.STOP): State.FAILING,
    (State.STOPPED, Event.STOP): State.STOPPED,
    (State.FAILED, Event.STOP): State.FAILED,
}


def step(state: State, event: Event) -> State | None:
    """Return the state that follows, or None where the event means nothing any more (it came too late)."""
    return TABLE.get((state, event))


def ending(state: State) -> Reason:
    """Return why an instance ends that somebody stops in this state: cancelled when it was never ready."""
    return Reason.ASKED if state is State.READY else Reason.CANCELLED


def diagram() -> str:
    """Return the table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.REQUESTED}"]
    lines += [
        f"    {state} --> {after}: {event}" for (state, event), after in TABLE.items() if state is not after
    ]
    lines += [f"    {state} --> [*]" for state in State if state in FINAL]
    return "\n".join(lines) + "\n"
