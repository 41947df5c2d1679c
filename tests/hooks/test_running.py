"""Hooks in a row: what they give together, how one stops the rest, what is taken back."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from gridcloud.errors import (
    DriverUnavailable,
    Forbidden,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    TimedOut,
    Unavailable,
)
from gridcloud.hooks.model import Context, Outcome
from gridcloud.hooks.running import load, prepare
from gridcloud.hooks.templates import fill_safely, placeholders
from tests.hooks.try_hook import write_try_hook

ADA = Context("ada", known={"JUPYTERHUB_USER": "ada"}, auth_state={"a": {"b": "deep", "c": 7, "d": True}})


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the hook ``try`` notes what it does."""
    monkeypatch.syspath_prepend(write_try_hook(tmp_path))
    sys.modules.pop("try_hook", None)
    return tmp_path / "noted"


def entry(noted: Path, does: str, name: str = "one", **more: Any) -> dict[str, Any]:
    return {"use": "try", "does": does, "name": name, "noted": str(noted), **more}


async def test_hooks_run_in_order_and_give_together(tried: Path) -> None:
    entries = [entry(tried, "give", "one"), entry(tried, "give", "two")]
    prepared = await prepare(entries, tried.parent, ADA)
    assert prepared.outcome.environment == {"GIVEN": "two to ada", "ONE": "1", "TWO": "1"}
    assert tried.read_text().split() == ["run-one", "run-two"]
    await prepared.undo()
    await prepared.undo()
    assert tried.read_text().split() == ["run-one", "run-two", "undo-two", "undo-one"]


@pytest.mark.parametrize(
    ("does", "kind", "words"),
    [
        ("refuse", Forbidden, "The hook try refused the start: You may not. Ask them."),
        ("crash", Unavailable, "The hook try failed: ZeroDivisionError: division by zero"),
        ("time", Unavailable, "The hook try failed: of its own"),
        ("false", Forbidden, "The hook try refused the start: it returned False."),
        ("none", Forbidden, "it returned None"),
        ("sleep", TimedOut, "did not finish within 1 seconds"),
        ("newline", InvalidSettings, "'A B' is no name for a variable"),
        ("hub", InvalidSettings, "'JUPYTERHUB_API_TOKEN' is no name for a variable"),
    ],
)
async def test_one_that_fails_stops_all_and_what_was_done_is_undone(
    tried: Path, does: str, kind: type[GridcloudError], words: str
) -> None:
    entries = [entry(tried, "give"), entry(tried, does, "bad", limit=1), entry(tried, "give", "never")]
    with pytest.raises(kind) as caught:
        await prepare(entries, tried.parent, ADA)
    assert words in str(caught.value)
    assert tried.read_text().split() == ["run-one", "run-bad", "undo-one"]


async def test_a_cancelled_start_is_undone(tried: Path) -> None:
    task = asyncio.ensure_future(
        prepare([entry(tried, "give"), entry(tried, "sleep", "slow")], tried.parent, ADA)
    )
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if tried.exists() and "slow" in tried.read_text():
            break
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tried.read_text().split()[-1] == "undo-one"


async def test_no_hook_runs_where_one_cannot_be_loaded(tried: Path) -> None:
    for wrong, kind, words in (
        ({"use": "tri"}, DriverUnavailable, "Did you mean 'try'"),
        ({"does": "give"}, InvalidSettings, "names no hook"),
        ({"use": "try", "colour": "red"}, InvalidSettings, "colour: Extra inputs"),
        ({"use": "try", "limit": 0}, InvalidSettings, "limit"),
    ):
        with pytest.raises(kind, match=words):
            await prepare([entry(tried, "give"), wrong], tried.parent, ADA)
        with pytest.raises(kind, match=words):
            load(wrong, tried.parent)
    assert not tried.exists()


def test_placeholders_are_names_and_nothing_else() -> None:
    words = ADA.words()
    assert words == {"auth_state.a.b": "deep", "auth_state.a.c": "7", "JUPYTERHUB_USER": "ada"}
    assert placeholders("{a} {a.b-c} {{x}} {} {a!r} {0} {a[0]}") == ["a", "a.b-c", "x"]
    assert fill_safely("{auth_state.a.b}/{auth_state.a.c} {} {a!r}", words) == "deep/7 {} {a!r}"
    assert fill_safely("{x}", {"x": "{y}", "y": "no"}) == "{y}"
    for value in ("..", ".", "", "a/b", "/"):
        with pytest.raises(InvalidRequest, match="no name for a folder"):
            fill_safely("/home/{x}", {"x": value})
    with pytest.raises(InvalidRequest, match="Mend the configuration"):
        fill_safely("{nothing}", words)
    assert Outcome({"A": "1"}) + Outcome({"A": "2"}) == Outcome({"A": "2"})


def test_what_may_be_secret_is_not_shown() -> None:
    assert "deep" not in repr(ADA)
    assert "hidden" not in repr(Outcome({"A": "hidden"}))
