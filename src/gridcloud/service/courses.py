"""Courses as they go on now, over HTTP: for the hub, which knows who teaches them."""

from __future__ import annotations

from datetime import UTC, datetime, time
from decimal import Decimal
from zoneinfo import ZoneInfo

from fastapi import APIRouter

from gridcloud.budgets.judging import limits
from gridcloud.errors import NotFound
from gridcloud.instances.handing import is_waiting, nobody_of
from gridcloud.instances.model import State
from gridcloud.profiles.lectures import lectures_at, next_lecture
from gridcloud.service.access import Admin, TheHouse
from gridcloud.service.course_documents import CoursePot, CourseState, Seat
from gridcloud.service.documents import Event
from gridcloud.sessions.seats import KIND
from gridcloud.settings.profiles import CourseSettings

__all__ = ["router"]

router = APIRouter(tags=["courses"])

SHOWN = 20
"""Events of a course that are told, the latest ones."""


@router.get("/courses/{name}")
async def show(name: str, caller: Admin, house: TheHouse) -> CourseState:
    """Return what goes on in a course now: its sessions, its seats, and what it has cost."""
    settings = house.settings()
    course = settings.courses.get(name)
    if course is None:
        raise NotFound(f"There is no course {name!r}.", remedy="See 'gridcloud course list'.")
    now = house.clock.now()
    sessions = [one for one in await house.sessions.lives.live() if one.course == name]
    machines = [one for one in await house.instances.records.live() if one.seat == name]
    open_now = [one for one in lectures_at(settings, now) if one.course == name]
    coming = next_lecture(course, now)
    events = await house.store.events(subject=name, kind=KIND)
    state = CourseState(
        name=name,
        project=course.project,
        currency=settings.currency,
        sessions=sessions,
        seats=[
            Seat(
                instance=one.id,
                state=one.state,
                owner="" if is_waiting(one) else one.owner,
                ready=is_waiting(one) and not one.claim and one.state is State.READY,
                since=one.created,
                provider=one.offer.source if one.offer else "",
            )
            for one in machines
        ],
        closes=max((one.closes for one in open_now), default=None),
        opens=coming[0] if coming else None,
        events=[
            Event(
                seq=one.seq,
                kind=one.kind,
                subject=one.subject,
                at=one.at,
                type=one.type,
                message=one.message,
                data=one.data,
            )
            for one in events[-SHOWN:]
        ],
    )
    return state.model_copy(update=await _costs(house, name, course)) if course.project else state


async def _costs(house: TheHouse, name: str, course: CourseSettings) -> dict[str, object]:
    """Return what a course's project has cost since the course began, and how what pays for it stands."""
    standings = await house.treasury.standings()
    since = datetime.combine(course.since, time(), ZoneInfo("UTC")) if course.since else None
    entries = list(
        house.treasury.ledger.entries(
            house.clock.now(), since, None, lambda owner, project: project == course.project
        )
    )
    pots = [
        CoursePot(
            name=one.pot.budget.name,
            unit=unit,
            limit=limit,
            spent=_round(of(one.usage.spent)),
            until=one.span.until.astimezone(UTC),
        )
        for one in standings
        if one.pot.budget.project == course.project and not one.pot.user
        for limit, unit, of in limits(one.pot.budget, house.treasury.currency)
    ]
    nobody = nobody_of(name)
    return {
        "spent": _round(sum((one.money or Decimal(0) for one in entries), Decimal(0))),
        "waited": _round(
            sum((one.money or Decimal(0) for one in entries if one.owner == nobody), Decimal(0))
        ),
        "unpriced": sum(one.money is None for one in entries),
        "budgets": pots,
    }


def _round(amount: Decimal) -> Decimal:
    return amount.quantize(Decimal("0.000001"))
