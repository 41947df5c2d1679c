"""What is run again after a run that was not done."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gridcloud.errors import InvalidRequest
from gridcloud.jobs.resuming import plan_resumption, run_record


def notebook(
    *sources: str | list[str], state: str = "", next: int = 0, tagged: int | None = None
) -> dict[str, Any]:
    """A notebook, which a run has left where it has a state."""
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "metadata": {}, "source": source, "outputs": [state] if state else []}
        for source in sources
    ]
    if tagged is not None:
        cells[tagged]["metadata"]["tags"] = ["skip-on-resume"]
    metadata = {"gridcloud": {"run": {"state": state, "next": next}}} if state else {}
    return {"nbformat": 4, "metadata": metadata, "cells": cells}


def test_first_time() -> None:
    plan = plan_resumption(notebook("a", "b"), None)
    assert (plan.failed, plan.done, plan.kept) == (0, False, frozenset())


@pytest.mark.parametrize("state", ["failed", "cancelled", "running"])
def test_failed_cell_and_later_ones_may_change(state: str) -> None:
    before = notebook("a", "b", "c", state=state, next=1)
    plan = plan_resumption(notebook(["a"], "B", tagged=0), before)
    assert (plan.failed, plan.done, plan.kept) == (1, False, frozenset({0}))
    assert plan.notebook["cells"][0]["outputs"] == [state]
    assert plan.notebook["cells"][1] == {"cell_type": "code", "metadata": {}, "source": "B", "outputs": []}
    assert "Cell 2 is the first" in plan.why


def test_earlier_cells_may_not() -> None:
    before = notebook("a", "b", "c", state="failed", next=2)
    plan = plan_resumption(notebook("a", "B", "c", tagged=0), before)
    assert (plan.failed, plan.kept) == (0, frozenset())
    assert "Cell 2 is another" in plan.why
    assert plan_resumption(notebook("a"), before).failed == 0


def test_done_is_done_until_something_changes() -> None:
    before = notebook("a", "b", state="done", next=2)
    assert plan_resumption(notebook("a", "b"), before).done
    assert not plan_resumption(notebook("a", "c"), before).done
    longer = plan_resumption(notebook("a", "b", "c"), before)
    assert (longer.done, longer.failed) == (False, 2)


def test_text_between_is_no_code() -> None:
    before, after = (notebook("# a", "b", state="failed", next=1) for _ in range(2))
    for one, words in ((before, "old"), (after, "new")):
        one["cells"][0] = {"cell_type": "markdown", "metadata": {}, "source": words}
    plan = plan_resumption(after, before)
    assert plan.failed == 1


def test_somebody_elses_file() -> None:
    for record in ({}, {"run": 3}, 3):
        other = copy.deepcopy(notebook("a"))
        other["metadata"] = {"gridcloud": record}
        assert run_record(other) == {}
        with pytest.raises(InvalidRequest, match="would be written over"):
            plan_resumption(notebook("a"), other)
