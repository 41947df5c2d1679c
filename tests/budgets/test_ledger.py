"""The ledger's sums: exact, split at the borders of periods, the same however often they are asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from gridcloud.budgets.ledger import Ledger
from gridcloud.budgets.model import Budget, Figures, Pot, Usage
from gridcloud.budgets.periods import Period, Span
from gridcloud.instances.model import Charge, Instance, Request, State

START = datetime(2026, 1, 1, tzinfo=UTC)
POT = Pot(Budget("b", money=Decimal(1)))


def instance(number: int, *charges: Charge, state: State = State.STOPPED, owner: str = "ada") -> Instance:
    return Instance(
        id=f"i-{number:04}",
        owner=owner,
        request=Request(),
        state=state,
        charges=charges,
        created=charges[0].since if charges else START,
        ended_at=charges[-1].until if charges else START,
    )


def charge(begin: float, hours: float | None, price: str = "0.1", gpus: int = 1, **more: object) -> Charge:
    since = START + timedelta(hours=begin)
    until = None if hours is None else since + timedelta(hours=hours)
    return Charge.model_validate(
        {"provider": "p", "price": price, "gpus": gpus, "since": since, "until": until, **more}
    )


def usage(ledger: Ledger, span: Span, hours: float) -> Usage:
    return ledger.usage(POT, span, START + timedelta(hours=hours), lambda *_: True)


charges = st.builds(
    lambda begin, lasted, price, gpus: Charge(
        provider="p",
        price=price,
        gpus=gpus,
        since=START + timedelta(microseconds=begin),
        until=START + timedelta(microseconds=begin + lasted),
    ),
    st.integers(0, 90 * 86400 * 10**6),
    st.integers(0, 90 * 86400 * 10**6),
    st.decimals(0, 1000, places=6),
    st.integers(0, 8),
)


@given(st.lists(charges, max_size=8), st.sampled_from(["day", "week", "month"]))
def test_the_parts_of_all_periods_are_the_whole(found: list[Charge], name: str) -> None:
    """Budgets, promise B: split at borders, nothing lost, nothing twice."""
    ledger = Ledger()
    for number, one in enumerate(found):
        ledger.note(instance(number, one), START)
    end = START + timedelta(days=200)
    whole = ledger.usage(POT, Span(START, end), end, lambda *_: True).spent
    money, hours, moment = Decimal(0), Decimal(0), START
    while moment < end:
        span = Period(name).at(moment)
        part = ledger.usage(POT, span, end, lambda *_: True).spent
        money, hours, moment = money + part.money, hours + part.gpu_hours, span.until
    grain = Decimal("1e-12")
    assert (money - whole.money).quantize(grain) == 0
    assert (hours - whole.gpu_hours).quantize(grain) == 0
    lines = list(ledger.entries(end, START, end))
    assert (sum((line.money or Decimal(0) for line in lines), Decimal(0)) - whole.money).quantize(grain) == 0


def test_a_tenth_ten_times_is_one() -> None:
    ledger = Ledger()
    for number in range(10):
        ledger.note(instance(number, charge(number, 1)), START)
    assert usage(ledger, Span(START, START + timedelta(days=1)), 20).spent.money == 1


def test_what_runs_is_spent_as_time_goes_on_and_committed_to_its_end() -> None:
    ledger = Ledger()
    span = Span(START, START + timedelta(hours=100))
    running = instance(1, charge(0, None), state=State.READY)
    ledger.note(running.model_copy(update={"expires": START + timedelta(hours=5)}), START)
    used = usage(ledger, span, 2)
    assert used.spent == Figures(Decimal("0.2"), Decimal(2))
    assert used.running == Figures(Decimal("0.3"), Decimal(3))
    assert [one.id for one in used.live] == ["i-0001"]
    stopping = running.model_copy(update={"state": State.STOPPING})
    ledger.note(stopping, START)
    used = usage(ledger, span, 3)
    assert used == Usage(Figures(Decimal("0.3"), Decimal(3)))
    gone = instance(1, charge(0, 3.5))
    ledger.note(gone, START)
    ledger.note(gone, START)  # told twice
    assert usage(ledger, span, 50).spent.money == Decimal("0.35")
    assert ledger.live() == []


def test_discarded_attempts_are_counted_and_those_that_were_never_made_are_not() -> None:
    """Budgets, promise G."""
    ledger = Ledger()
    span = Span(START, START + timedelta(hours=100))
    ledger.note(instance(1, charge(0, 1), charge(1, None, "0.4"), state=State.STARTING), START)
    assert usage(ledger, span, 2).spent.money == Decimal("0.5")
    assert len(list(ledger.entries(START + timedelta(hours=2)))) == 2
    ledger.note(instance(1, charge(0, 1), state=State.REQUESTED), START)
    assert usage(ledger, span, 2).spent.money == Decimal("0.1")


def test_what_has_no_known_price_is_told_apart() -> None:
    ledger = Ledger()
    span = Span(START, START + timedelta(hours=100))
    ledger.note(instance(1, charge(0, 1, "0", priced=False)), START)
    ledger.note(instance(2, charge(0, None, "0", priced=False), state=State.READY), START)
    assert usage(ledger, span, 2).unpriced == 2
    assert {line.money for line in ledger.entries(START + timedelta(hours=2))} == {None}


def test_another_payer_or_period_adds_up_anew() -> None:
    ledger = Ledger()
    span = Span(START, START + timedelta(hours=100))
    for number, owner in enumerate(("ada", "bob")):
        ledger.note(instance(number, charge(0, 1), owner=owner), START)
    now = START + timedelta(hours=10)
    assert ledger.usage(POT, span, now, lambda owner, _: owner == "ada").spent.money == Decimal("0.1")
    ledger.forget_sums()
    assert ledger.usage(POT, span, now, lambda *_: True).spent.money == Decimal("0.2")
    assert ledger.usage(
        POT, Span(START, START + timedelta(minutes=30)), now, lambda *_: True
    ).spent.money == (Decimal("0.1"))
    assert ledger.payers() == {("ada", ""), ("bob", "")}
