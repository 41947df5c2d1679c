"""When a course's machines are kept ready, and what they are. Pure: no clock, no files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from gridcloud.errors import Forbidden, GridcloudError, InvalidSettings
from gridcloud.instances.model import Request
from gridcloud.profiles.model import Choice, Terms
from gridcloud.profiles.permission import settle
from gridcloud.settings import Settings
from gridcloud.settings.profiles import WEEKDAYS, CourseSettings, SeatSettings

__all__ = ["Lecture", "lecture_at", "lectures_at", "next_lecture"]

AHEAD = 370
"""Days that are looked at for the next lecture."""


@dataclass(frozen=True, slots=True)
class Lecture:
    """One time at which a course's machines are kept ready."""

    course: str
    opens: datetime
    closes: datetime
    """In UTC, as ``opens``."""
    count: int
    request: Request
    configure: tuple[dict[str, Any], ...]
    problem: str = ""
    """Why none can be made, in words."""


def lectures_at(settings: Settings, now: datetime) -> Iterator[Lecture]:
    """Yield what is to be kept ready now."""
    for name, course in settings.courses.items():
        for seat in course.seats:
            span = lecture_at(seat, course, now)
            if span is None:
                continue
            try:
                request, configure = _wish(settings, name, course, seat, now)
                yield Lecture(name, *span, seat.count, request, configure)
            except GridcloudError as error:
                yield Lecture(name, *span, seat.count, Request(), (), str(error))


def lecture_at(seat: SeatSettings, course: CourseSettings, now: datetime) -> tuple[datetime, datetime] | None:
    """Return from when until when (UTC) machines are kept ready, where that is now."""
    span = _span(seat, course, now.astimezone(ZoneInfo(seat.time_zone)).date())
    return span if span and span[0] <= now < span[1] else None


def next_lecture(course: CourseSettings, now: datetime) -> tuple[datetime, SeatSettings] | None:
    """Return when machines are made ready next, within a year, and how."""
    found = []
    for seat in course.seats:
        today = now.astimezone(ZoneInfo(seat.time_zone)).date()
        spans = (_span(seat, course, today + timedelta(days=number)) for number in range(AHEAD))
        if start := next((span[0] for span in spans if span and span[0] > now), None):
            found.append((start, seat))
    return min(found, key=lambda one: one[0], default=None)


def _span(seat: SeatSettings, course: CourseSettings, day: date) -> tuple[datetime, datetime] | None:
    if WEEKDAYS[day.weekday()] not in seat.days and day.isoformat() not in seat.days:
        return None
    if (course.since and day < course.since) or (course.until and day > course.until):
        return None
    zone = ZoneInfo(seat.time_zone)
    opens, closes = (datetime.combine(day, at, zone).astimezone(UTC) for at in (seat.opens, seat.closes))
    return opens, closes


def _wish(
    settings: Settings, name: str, course: CourseSettings, seat: SeatSettings, now: datetime
) -> tuple[Request, tuple[dict[str, Any], ...]]:
    """Return what a member asks for who chooses nothing. Raises GridcloudError where nobody could have that."""
    title = seat.profile or course.profiles[0]
    profile = settings.profiles.get(title)
    if profile is None:
        raise InvalidSettings(f"There is no profile {title!r} for the seats of {name}.")
    if profile.spawner is not None:
        raise Forbidden(f"The profile {title!r} is another spawner's: no seats can be made for it.")
    terms = Terms(course.limits, until=course.until, course=name, project=course.project)
    settled = settle(Choice(title, profile, (terms,)), {}, settings, now)
    return settled.request, (*profile.configure, *settings.session.configure())
