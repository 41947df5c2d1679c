"""Periods through changes of clocks, leap days and turns of years."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcloud.budgets.periods import Period
from gridcloud.settings.budgets import PERIODS

ZONES = (
    "UTC",
    "Europe/Oslo",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Pacific/Auckland",
    "America/Havana",
)
"""Some of them changed their clocks at midnight, one left out a whole day."""

moments = st.datetimes(
    datetime(1999, 1, 1),  # noqa: DTZ001 - the strategy sets the zone
    datetime(2037, 12, 30),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(moments, st.sampled_from(PERIODS), st.sampled_from(ZONES))
def test_every_moment_lies_in_one_span_and_the_next_follows_without_a_gap(
    moment: datetime, name: str, zone: str
) -> None:
    """Budgets, promise B."""
    period = Period(name, zone)
    span = period.at(moment)
    assert span.since <= moment < span.until
    assert period.at(span.since) == span
    assert period.at(span.until - timedelta(microseconds=1)) == span
    following = period.at(span.until)
    assert following.since == span.until < following.until


@pytest.mark.parametrize(
    ("name", "zone", "moment", "hours"),
    [
        ("day", "Europe/Oslo", "2026-03-29T12:00", 23),
        ("day", "Europe/Oslo", "2026-10-25T12:00", 25),
        ("week", "Europe/Oslo", "2026-03-29T12:00", 7 * 24 - 1),
        ("month", "UTC", "2028-02-29T23:59", 29 * 24),
        ("month", "UTC", "2026-02-28T23:59", 28 * 24),
        ("quarter", "UTC", "2026-12-31T23:59", 92 * 24),
        ("year", "UTC", "2028-01-01T00:00", 366 * 24),
        ("2026-09-01..2027-01-31", "Europe/Oslo", "2026-10-01T00:00", 153 * 24 + 1),
        ("2026-09-01..2026-09-01", "UTC", "2020-01-01T00:00", 24),
    ],
)
def test_lengths(name: str, zone: str, moment: str, hours: int) -> None:
    span = Period(name, zone).at(datetime.fromisoformat(moment).replace(tzinfo=UTC))
    assert span.until - span.since == timedelta(hours=hours)


def test_periods_begin_at_midnight_of_their_zone() -> None:
    span = Period("week", "Europe/Oslo").at(datetime(2026, 1, 1, tzinfo=UTC))
    assert span.since.astimezone(ZoneInfo("Europe/Oslo")).isoformat() == "2025-12-29T00:00:00+01:00"
