"""Days, weeks, months, quarters, years and terms as spans of time in a time zone: pure functions.

A period begins at midnight of its time zone. Where the clocks skip that midnight it begins when they do; where they
show it twice, at the first. So the spans of a period follow each other without a gap, through every change of clocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from gridcloud.settings.budgets import parse_term

__all__ = ["Period", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """From ``since`` to just before ``until``, both in UTC."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Period:
    """What a budget is for: a period that begins anew, or one term."""

    text: str = "month"
    """day, week, month, quarter, year, or the first and last day of a term: ``2026-09-01..2027-01-31``."""
    zone: str = "UTC"

    def at(self, moment: datetime) -> Span:
        """Return the span that a moment lies in; of a term the only one there is, whether it lies in it or not."""
        zone = _zone(self.zone)
        term = parse_term(self.text)
        if term is not None:
            first, after = term[0], term[1] + timedelta(days=1)
        else:
            first, after = _borders(self.text, moment.astimezone(zone).date())
        return Span(_midnight(first, zone), _midnight(after, zone))

    @property
    def is_term(self) -> bool:
        """Whether it comes once only."""
        return parse_term(self.text) is not None


def _borders(name: str, day: date) -> tuple[date, date]:
    """Return the first day of the period that a day lies in, and that of the next."""
    if name == "day":
        return day, day + timedelta(days=1)
    if name == "week":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    months = {"month": 1, "quarter": 3, "year": 12}[name]
    first = (day.month - 1) // months * months
    years, month = divmod(first + months, 12)
    return date(day.year, first + 1, 1), date(day.year + years, month + 1, 1)


def _midnight(day: date, zone: tzinfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)
