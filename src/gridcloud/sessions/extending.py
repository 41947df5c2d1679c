"""When a session that its user extends is to end. Pure: no clock, no store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from gridcloud.errors import InvalidRequest
from gridcloud.instances.idleness import idle_end
from gridcloud.instances.model import Instance

__all__ = ["Longer", "check_life", "is_extended", "new_expiry"]

SLOP = timedelta(seconds=1)
"""Ends that are so near to each other are one: they travel through pages."""

LEAST = timedelta(seconds=60)
"""What is less is no extension."""


@dataclass(frozen=True, slots=True)
class Longer:
    """A wish that a session live longer."""

    step: int
    """Seconds beyond its end, where no time is named."""
    time: int | None = None
    """Seconds from now."""
    after: datetime | None = None
    """The end that whoever asks was told of: who asks twice, or from two pages, means one extension."""
    longest: int = 0
    """Seconds that it may live in all; 0: as long as anybody likes."""
    began: datetime | None = None
    """When the session was asked for: its machine may have been there before."""


def is_extended(instance: Instance, after: datetime | None) -> bool:
    """Tell whether an instance does not end any more when somebody was told that it would."""
    if after is None:
        return False
    ends = [end for end in (instance.expires, idle_end(instance)) if end is not None]
    return not ends or min(ends) > after + SLOP


def new_expiry(instance: Instance, wish: Longer, now: datetime) -> datetime | None:
    """Return the expiry that an instance is to get; None: it keeps its own, and only counts as used.

    Raises InvalidRequest where it may live no longer.
    """
    expires = instance.expires
    if expires is None:
        return None
    if wish.time is not None:
        wanted = now + timedelta(seconds=wish.time)
        if wanted <= expires:
            raise InvalidRequest(f"It ends at {_moment(expires)}, which is later anyway.")
        check_life(instance, wanted, wish.longest, wish.began)
        return wanted
    if wish.after is not None and expires > wish.after + SLOP:
        return None  # it would have ended for not being used
    wanted = max(expires, now) + timedelta(seconds=wish.step)
    if wish.longest:
        wanted = min(wanted, _born(instance, wish.began) + timedelta(seconds=wish.longest))
    if wanted < expires + LEAST:
        raise InvalidRequest(
            f"It may live {timedelta(seconds=wish.longest)} in all, until {_moment(expires)}.",
            remedy="Save your work.",
        )
    return wanted


def check_life(instance: Instance, expires: datetime, longest: int, began: datetime | None) -> None:
    """Raise InvalidRequest where a session with this expiry would live longer than so many seconds, if any."""
    last = _born(instance, began) + timedelta(seconds=longest)
    if longest and expires > last:
        raise InvalidRequest(
            f"It may live {timedelta(seconds=longest)} in all, until {_moment(last)}.",
            remedy="Ask for less.",
        )


def _born(instance: Instance, began: datetime | None) -> datetime:
    ready = instance.ready_at or instance.created
    return max(ready, began) if began is not None else ready


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"
