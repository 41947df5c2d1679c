"""What `gridcloud budget` and `gridcloud offers` say of money."""

from __future__ import annotations

import csv
import getpass
import io
from typing import Any

import pytest

from tests.cli.conftest import Caller

ME = getpass.getuser()
CLOUD: dict[str, Any] = {
    "cloud": {
        "driver": "fake",
        "shapes": [
            {"name": "small", "cpus": 2, "memory": "4GiB", "price": 0.5},
            {"name": "odd", "cpus": 4, "memory": "4GiB", "priced": False},
        ],
    }
}
BUDGETS: list[dict[str, Any]] = [
    {"name": "house", "money": 10, "gpu_hours": 3, "period": "year"},
    {"user": ME, "money": 5},
    {"name": "none", "group": "nobody", "money": 1},
]


@pytest.fixture
def spent(call: Caller) -> Caller:
    """A computer on which something was spent."""
    call.program.configure(CLOUD, budgets=BUDGETS)
    call("run", "--time", "1h", "--", "true")
    return call


def test_a_budget_for_people(spent: Caller) -> None:
    lines = spent("budget", "list").splitlines()
    assert lines[0].split() == ["NAME", "WHOSE", "PERIOD", "LIMIT", "SPENT", "COMMITTED", "LEFT", "USED"]
    assert lines[1].split()[:6] == ["house", "everybody", "year", "10.00", "EUR", "under"]
    assert lines[2].split() == ["3.00", "GPU-hours", "0.00", "0.00", "3.00", "0", "%"]
    assert lines[3].split()[0] == ME
    assert lines[4].split()[:3] == ["none", "group", "nobody"]
    shown = spent("budget", "show", ME)
    assert "limit      5.00 EUR" in shown
    assert "cloud" in shown
    assert "small" in shown


def test_a_budget_for_scripts(spent: Caller) -> None:
    document = spent.json("budget", "list")
    assert document["currency"] == "EUR"
    (house, mine, _) = document["budgets"]
    assert (house["limits"][0]["limit"], house["limits"][0]["unit"], house["current"]) == ("10", "EUR", True)
    assert 0 < float(mine["limits"][0]["spent"]) < 0.01
    assert not mine["instances"]
    (shown,) = spent.json("budget", "show", ME)["budgets"]
    (entry,) = shown["instances"]
    assert (entry["owner"], entry["provider"], entry["price"]) == (ME, "cloud", "0.5")
    assert [part["provider"] for part in shown["providers"]] == ["cloud"]


def test_the_ledger(spent: Caller) -> None:
    out = spent("budget", "ledger")
    assert "In all under 0.01 EUR, 0.00 GPU-hours." in out
    (row,) = csv.DictReader(io.StringIO(spent("budget", "ledger", "--csv")))
    assert (row["owner"], row["provider"], row["price"], row["gpus"]) == (ME, "cloud", "0.5", "0")
    assert 0 < float(row["money"]) < 0.01
    assert row["until"]
    today = row["since"][:10]
    assert len(spent.json("budget", "ledger", "--from", today, "--until", today)["entries"]) == 1
    assert not spent.json("budget", "ledger", "--until", "2020-01-01")["entries"]
    assert not spent.json("budget", "ledger", "--provider", "elsewhere")["entries"]
    assert not spent.json("budget", "ledger", "--user", "nobody", "--project", "x")["entries"]


def test_what_names_hold_cannot_become_a_formula(call: Caller) -> None:
    call.program.configure(CLOUD)
    call("instance", "start", "--name", "=1+2", "--time", "1h")
    (row,) = csv.DictReader(io.StringIO(call("budget", "ledger", "--csv")))
    assert row["name"] == "'=1+2"
    call("instance", "stop", "--all")


def test_offers_say_what_a_budget_forbids(call: Caller) -> None:
    call.program.configure(CLOUD, budgets=BUDGETS)
    out = call("offers", "--time", "1h")
    small, odd = out.splitlines()[1:]
    assert "0.5 EUR" in small
    assert small.rstrip().endswith("free")
    assert " ? " in odd
    assert "Its price is not known, and the budget house counts money" in odd
    out = call("offers", "--time", "11h", code=5)
    assert f"The budget {ME} is 5.00 EUR until" in out
    assert "5.50 asked, 5.50 in all; ask for less time" in " ".join(out.split()), "over several lines"
    out = call("run", "--time", "11h", "--", "true", code=5)
    assert "5.50 asked, 5.50 in all; ask for less time" in call.err


def test_a_check_tells_which_prices_are_missing(call: Caller) -> None:
    call.program.configure(CLOUD)
    out = call("provider", "check", "cloud")
    assert "?      prices: The price of odd is not known." in out
    assert "'*' for all" in out
    call.program.configure(CLOUD, budgets=BUDGETS)
    out = call("provider", "check", "cloud", code=1)
    assert "wrong  prices: The price of odd is not known; budgets in money refuse it." in out
    assert "'*' for all" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["budget", "show", "no-such"], 3, "There is no budget 'no-such'"),
        (["budget", "ledger", "--from", "yesterday"], 2, "--from: 'yesterday' is no date"),
        (["budget", "list", "no"], 2, "unexpected"),
    ],
)
def test_mistakes(call: Caller, words: list[str], code: int, said: str) -> None:
    assert call(*words, code=code) == ""
    assert said in call.err
