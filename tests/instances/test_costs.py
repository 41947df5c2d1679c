"""What machines cost, for any span of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from gridcloud.clock import ManualClock
from gridcloud.instances.costs import close_charges, cost, describe_cost, gpu_hours, is_priced
from gridcloud.instances.model import Charge

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

moments = st.integers(-(10**12), 10**12).map(lambda count: NOON + timedelta(microseconds=count))


@st.composite
def charge(draw: st.DrawFn) -> Charge:
    since = draw(moments)
    until = draw(st.none() | st.integers(0, 10**12))
    return Charge(
        provider="cloud",
        price=draw(st.decimals(0, 1000, places=4)),
        gpus=draw(st.integers(0, 8)),
        since=since,
        until=None if until is None else since + timedelta(microseconds=until),
    )


charges = st.lists(charge(), max_size=4)


async def test_a_machine_costs_from_when_it_was_asked_for_until_it_is_gone() -> None:
    clock = ManualClock()
    open_one = Charge(provider="cloud", price=Decimal("0.6"), gpus=2, since=clock.now())
    await clock.advance(1800)
    assert cost([open_one], clock.now()) == Decimal("0.3")
    assert gpu_hours([open_one], clock.now()) == 1
    closed = close_charges([open_one], clock.now())
    await clock.advance(3600)
    assert cost(closed, clock.now()) == Decimal("0.3")
    assert close_charges(closed, clock.now()) == closed


def test_only_the_span_asked_for_counts() -> None:
    one = Charge(provider="cloud", price=Decimal(2), since=NOON, until=NOON + 4 * HOUR)
    later = NOON + 9 * HOUR
    assert cost([one], later, NOON + HOUR, NOON + 2 * HOUR) == 2
    assert cost([one], later, until=NOON + HOUR) == 2
    assert cost([one], later, NOON + 3 * HOUR) == 2
    assert cost([one], later, NOON + 5 * HOUR) == 0
    assert cost([one], later, NOON - 5 * HOUR, NOON) == 0
    assert cost([one], NOON - HOUR) == 0, "a clock that was set back"


@given(charges, moments, moments, moments)
def test_a_span_costs_what_its_parts_cost(
    found: list[Charge], now: datetime, middle: datetime, end: datetime
) -> None:
    middle, end = sorted((middle, end))
    parts = cost(found, now, until=middle) + cost(found, now, middle, end) + cost(found, now, end)
    assert abs(parts - cost(found, now)) < Decimal("1e-12")
    assert cost(found, now, middle, end) >= 0
    hours = gpu_hours(found, now, until=end) + gpu_hours(found, now, end)
    assert abs(hours - gpu_hours(found, now)) < Decimal("1e-12")


@given(charges, moments, st.integers(0, 10**10))
def test_what_was_spent_never_grows_less(found: list[Charge], now: datetime, more: int) -> None:
    assert cost(found, now) <= cost(found, now + timedelta(microseconds=more))


def test_a_price_that_is_not_known_is_never_nothing() -> None:
    paid = Charge(provider="a", price=Decimal("0.42"), since=NOON, until=NOON + HOUR)
    unknown = Charge(provider="b", priced=False, since=NOON, until=NOON + HOUR)
    free = Charge(provider="c", since=NOON, until=NOON + HOUR)
    little = paid.model_copy(update={"price": Decimal("0.001")})
    later = NOON + 2 * HOUR
    assert describe_cost([paid], later, "EUR") == "0.42 EUR"
    assert describe_cost([paid, unknown], later, "EUR") == "0.42 EUR + ?"
    assert describe_cost([unknown], later, "EUR") == "?"
    assert describe_cost([free], later, "EUR") == ""
    assert describe_cost([little], later, "EUR") == "under 0.01 EUR"
    assert not is_priced([paid, unknown])
