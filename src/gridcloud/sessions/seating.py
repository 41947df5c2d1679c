"""Seat a session of a course on a machine that waits for it: claim one, wait until it is ready, have it handed over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gridcloud.errors import GridcloudError
from gridcloud.instances.handing import is_waiting, nobody_of
from gridcloud.instances.model import FINAL, Instance, Request, State
from gridcloud.instances.runner import Runner
from gridcloud.sessions.model import Session

__all__ = ["are_alike", "take_seat"]

THEIRS = frozenset({"time", "idle", "project"})
"""Fields of a request that say nothing of the machine."""


async def take_seat(machines: Runner, session: Session, before_end: Sequence[str] = ()) -> Instance | None:
    """Return the ready seat that is the session's now; None where there is none for it, which says why where one was
    tried. A session that is carried on goes on with the seat that it has claimed. ``before_end``: the command that is
    run on it before its end."""
    seat = await machines.handing.claimed(session.id)
    if seat is None:
        seat = await machines.handing.claim(await _fitting(machines, session), session.id)
    if seat is None:
        return None
    try:
        seat = await machines.wait(seat.id)
        if not is_waiting(seat):
            return seat
        seconds = int(session.request.time or machines.timing.longest_life)
        return await machines.handing.give(
            seat.id,
            session.owner,
            session.name,
            session.request,
            seconds,
            machines.timing.create,
            before_end,
        )
    except (GridcloudError, TimeoutError) as error:
        await machines.handing.release(seat.id, str(error) or "its provider did not answer in time")
        return None


def are_alike(seat: Instance, request: Request, configure: tuple[dict[str, Any], ...]) -> bool:
    """Tell whether a machine is one that a request asks for, made fit in the same way."""
    return (
        seat.request.model_dump(exclude=set(THEIRS)) == request.model_dump(exclude=set(THEIRS))
        and seat.configure == configure
    )


async def _fitting(machines: Runner, session: Session) -> list[Instance]:
    """Return the seats that nobody has claimed, the ready ones first, those that have waited longest before others."""
    seats = [
        one
        for one in await machines.records.live(nobody_of(session.course))
        if not one.claim
        and one.state not in (State.STOPPING, State.FAILING, *FINAL)
        and are_alike(one, session.request, session.configure)
        and machines.records.keeps(one)
    ]
    return sorted(seats, key=lambda one: (one.state is not State.READY, one.ready_at or one.created))
