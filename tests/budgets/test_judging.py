"""Who is paid by what, and which starts are refused: tables and properties."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcloud.budgets.judging import describe_amount, expected, lapsed, may_charge, pots_of, refusal
from gridcloud.budgets.model import Ask, Budget, Figures, People, Pot, Usage, read_budgets
from gridcloud.budgets.periods import Period, Span
from gridcloud.settings.budgets import BudgetSettings

NOW = datetime(2026, 9, 15, 12, tzinfo=UTC)
PEOPLE = People(frozenset({"root"}), {"bob": frozenset({"course-a"}), "eve": frozenset({"course-a", "lab"})})
FIELDS: dict[str, dict[str, Any]] = {
    "all": {"money": 5000},
    "everyone": {"gpu_hours": 10, "each": True},
    "ada": {"user": "ada", "gpu_hours": 100, "period": "2026-09-01..2027-01-31"},
    "course-a": {"group": "course-a", "money": 500},
    "lab": {"group": "lab", "money": 50, "each": True, "exempt_administrators": True},
    "wind": {"project": "wind", "user": ["ada", "root"], "group": "lab", "money": 20},
    "open": {"project": "open", "user": "*", "gpu_hours": 1, "each": True},
}
BUDGETS = read_budgets({name: BudgetSettings.model_validate(fields) for name, fields in FIELDS.items()})


def ask(owner: str = "ada", **more: Any) -> Ask:
    fields: dict[str, Any] = {
        "project": "",
        "price": Decimal(1),
        "priced": True,
        "gpus": 0,
        "seconds": 3600,
    } | more
    return Ask(owner=owner, **fields)


def judge(asked: Ask, *budgets: Budget, usage: Usage = Usage(), now: datetime = NOW) -> str:  # noqa: B008
    def used(pot: Pot, span: Span) -> Usage:
        return usage

    return refusal(budgets or BUDGETS, asked, now, PEOPLE, used, "EUR")


@pytest.mark.parametrize(
    ("owner", "project", "paying"),
    [
        ("ada", "", ["all", "ada"]),
        ("bob", "", ["all", "everyone of bob", "course-a"]),
        ("eve", "", ["all", "everyone of eve", "course-a", "lab of eve"]),
        ("root", "", ["all", "everyone of root"]),
        ("ada", "wind", ["all", "wind"]),
        ("eve", "wind", ["all", "wind"]),
        ("bob", "open", ["all", "open of bob"]),
        ("bob", "just a word", ["all", "everyone of bob", "course-a"]),
    ],
)
def test_what_pays(owner: str, project: str, paying: Sequence[str]) -> None:
    assert [pot.title for pot in pots_of(BUDGETS, owner, project, PEOPLE)] == paying


def test_administrators_are_held_to_budgets_unless_they_are_exempt() -> None:
    """Budgets, promise H."""
    budget = Budget("b", users=frozenset({"root"}), money=Decimal(1))
    assert pots_of([budget], "root", "", PEOPLE)
    exempt = Budget("b", users=frozenset({"root"}), money=Decimal(1), exempt_administrators=True)
    assert not pots_of([exempt], "root", "", PEOPLE)


def test_nobody_charges_anothers_project() -> None:
    """Budgets, promise E."""
    assert may_charge(BUDGETS, "ada", "wind", PEOPLE) == ""
    assert may_charge(BUDGETS, "eve", "wind", PEOPLE) == ""
    assert may_charge(BUDGETS, "bob", "open", PEOPLE) == ""
    assert may_charge(BUDGETS, "bob", "wind", PEOPLE) == (
        "bob may not charge the project 'wind': they may charge open; name one of these, or none"
    )
    assert "no-such" in may_charge(BUDGETS, "ada", "no-such", PEOPLE)
    assert may_charge([Budget("b", money=Decimal(1))], "ada", "a word", PEOPLE) == ""
    assert "may not charge the project 'wind'" in judge(ask("bob", project="wind", price=Decimal(0)))


def test_a_refusal_tells_the_figures() -> None:
    """Budgets, promise C."""
    budget = Budget("course-a", groups=frozenset({"course-a"}), money=Decimal(500))
    used = Usage(Figures(Decimal("480.5")), Figures(Decimal(15)))
    assert judge(ask("bob", seconds=2 * 3600, price=Decimal(2)), budget, usage=used) == ""
    assert judge(ask("bob", seconds=2 * 3600, price=Decimal("2.26")), budget, usage=used) == (
        "The budget course-a is 500.00 EUR until 2026-10-01 00:00 UTC: 480.50 spent, "
        "15.00 committed to what runs, 4.52 asked, 500.02 in all; ask for less time"
    )
    why = judge(ask("bob", seconds=0), budget, usage=Usage(Figures(Decimal(200))))
    assert "372.00 asked" in why
    assert why.endswith("give it a time limit (--time)")


def test_gpu_hours_are_counted_where_nothing_is_paid() -> None:
    free = ask(price=Decimal(0), gpus=2, seconds=3600)
    assert judge(free) == ""
    why = judge(free, usage=Usage(Figures(gpu_hours=Decimal("98.5"))))
    assert "The budget ada is 100.00 GPU-hours" in why
    assert "2.00 asked, 100.50 in all" in why


def test_what_takes_nothing_is_not_refused() -> None:
    used_up = Usage(Figures(Decimal(10**6), Decimal(10**6)))
    assert judge(ask(price=Decimal(0)), usage=used_up) == ""


def test_a_price_that_is_not_known_is_refused_where_money_is_counted() -> None:
    """Budgets, promise F."""
    why = judge(ask("bob", priced=False, price=Decimal(0)))
    assert "Its price is not known" in why
    assert "'prices'" in why
    assert judge(ask(priced=False), BUDGETS[2]) == ""


def test_terms_that_are_over_and_to_come() -> None:
    after, before = datetime(2027, 2, 1, tzinfo=UTC), datetime(2026, 8, 1, tzinfo=UTC)
    assert judge(ask(), BUDGETS[2], now=after) == "The budget ada ended at 2027-02-01 00:00 UTC"
    assert judge(ask(), BUDGETS[2], now=before) == ""
    following = Budget(
        "next", users=frozenset({"ada"}), money=Decimal(9), period=Period("2027-02-01..2027-02-28")
    )
    assert judge(ask(), BUDGETS[2], following, now=after) == ""
    assert lapsed([Pot(BUDGETS[2])], after) == Pot(BUDGETS[2])
    project = Budget(
        "p", users=frozenset({"ada"}), project="p", money=Decimal(9), period=Period("2027-02-01..2027-02-28")
    )
    assert judge(ask(project="p"), project) == "The budget p begins at 2027-02-01 00:00 UTC"


def test_one_without_an_end_counts_to_the_end_of_the_period_and_for_an_hour_at_least() -> None:
    """Budgets, promise D."""
    span = Span(NOW, NOW + timedelta(hours=10))
    price = Decimal("1.5")
    assert expected(NOW, span, price, 2, 0) == Figures(Decimal(15), Decimal(20))
    assert expected(NOW + timedelta(hours=9.5), span, price, 2, 0) == Figures(Decimal("1.5"), Decimal(2))
    assert expected(NOW, span, price, 2, 7200) == Figures(Decimal(3), Decimal(4))
    assert expected(NOW, span, price, 2, 7200, NOW + timedelta(hours=1)).money == price
    assert expected(NOW, span, price, 2, 7200, NOW - timedelta(hours=1)) == Figures()


amounts = st.decimals(0, 10_000, places=4)


@given(amounts, amounts, amounts, amounts, st.integers(1, 20 * 86400))
def test_what_is_allowed_never_passes_the_limit_and_less_is_allowed_too(
    limit: Decimal, spent: Decimal, promised: Decimal, price: Decimal, seconds: int
) -> None:
    """Budgets, promise A: monotony."""
    budget = Budget("b", money=limit)
    used = Usage(Figures(spent), Figures(promised))
    asked = expected(NOW, budget.period.at(NOW), price, 0, seconds).money
    allowed = not judge(ask(price=price, seconds=seconds), budget, usage=used)
    assert allowed == (not asked or spent + promised + asked <= limit)
    if allowed:
        assert not judge(ask(price=price / 2, seconds=seconds), budget, usage=used)
        assert not judge(ask(price=price, seconds=max(1, seconds // 2)), budget, usage=used)
        assert not judge(ask(price=price, seconds=seconds), budget, usage=Usage(Figures(spent / 2)))
        assert not judge(ask(price=price, seconds=seconds), Budget("b", money=limit + 1), usage=used)


def test_amounts_for_people() -> None:
    assert describe_amount(Decimal("12.345"), "EUR") in ("12.34 EUR", "12.35 EUR")
    assert describe_amount(Decimal("0.0001")) == "under 0.01"
    assert describe_amount(Decimal(0), "EUR") == "0.00 EUR"
