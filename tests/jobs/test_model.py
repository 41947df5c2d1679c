"""What may be asked of a job, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gridcloud.jobs.model import Cause, Job, Order, Retries, Work

COMMAND = {"kind": "command", "words": ["true"]}


@pytest.mark.parametrize(
    ("work", "place"),
    [
        ({"run": {"kind": "command", "words": []}}, "run.command.words"),
        ({"run": {"kind": "notebook", "path": "../a.ipynb"}}, "run.notebook.path"),
        ({"run": {"kind": "shell", "words": ["true"]}}, "run"),
        ({"run": COMMAND, "inputs": [{"source": "/etc/passwd", "path": "/etc/passwd"}]}, "inputs.0.path"),
        ({"run": COMMAND, "inputs": [{"source": "a", "path": "a/../../b"}]}, "inputs.0.path"),
        ({"run": COMMAND, "inputs": [{"source": "", "path": "a"}]}, "inputs.0.source"),
        ({"run": COMMAND, "inputs": [{"source": "a", "path": "c"}, {"source": "b", "path": "./c"}]}, ""),
        ({"run": COMMAND, "outputs": [{"pattern": "../*"}]}, "outputs.0.pattern"),
        ({"run": COMMAND, "environment": {"A B": "c"}}, ""),
        ({"run": COMMAND, "colour": "red"}, "colour"),
    ],
)
def test_refused(work: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Work.model_validate(work)
    assert [".".join(map(str, fault["loc"])) for fault in refused.value.errors()] == [place]


def test_retries() -> None:
    retries = Retries(exit=1)
    assert retries.left(Cause.EXIT, {})
    assert not retries.left(Cause.EXIT, {Cause.EXIT: 1})
    assert retries.left(Cause.MACHINE, {Cause.MACHINE: 1})
    assert not retries.left(Cause.REFUSED, {})
    assert not retries.left(Cause.NONE, {})


def test_record_comes_back() -> None:
    order = Order.model_validate(
        {"work": {"run": COMMAND}, "retries": {"memory": 3}, "rows": [{"x": 0.1, "b": True}]}
    )
    job = Job.model_validate(
        {
            "id": "j-1",
            "owner": "ada",
            "order": order,
            "spent": {"memory": 1},
            "created": "2026-01-01T00:00:00Z",
        }
    )
    again = Job.model_validate(job.model_dump(mode="json"))
    assert again == job
    assert again.order
    assert again.order.rows == ({"x": 0.1, "b": True},)
    assert again.order.rows[0]["b"] is True
