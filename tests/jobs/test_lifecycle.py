"""The life of a job."""

from __future__ import annotations

from gridcloud.jobs.lifecycle import TABLE, Event, step
from gridcloud.jobs.model import FINAL, State


def test_every_state_is_reached_and_left() -> None:
    assert {state for state, _ in TABLE} == set(State) - FINAL
    assert set(TABLE.values()) == set(State) - {State.WAITING}


def test_nothing_leaves_an_end() -> None:
    assert all(step(state, event) is None for state in FINAL for event in Event)


def test_whatever_has_not_ended_can_be_cancelled() -> None:
    for state in set(State) - FINAL - {State.ENDING}:
        assert step(state, Event.CANCEL) in (State.ENDING, State.CANCELLED)
    assert step(State.ENDING, Event.CANCEL) is None


def test_what_a_scheduler_may_have_is_taken_from_it_before_it_ends() -> None:
    before = {state for (state, event), after in TABLE.items() if after is State.CANCELLED}
    assert before == {State.WAITING, State.QUEUED, State.ENDING}
    assert {event for (state, event) in TABLE if state is State.ENDING} == {Event.GONE}


def test_a_job_is_done_only_with_its_outputs() -> None:
    assert [state for (state, _), after in TABLE.items() if after is State.DONE] == [State.COLLECTING]


def test_an_end_that_was_seen_before_its_begin() -> None:
    assert step(State.SUBMITTED, Event.WELL) is State.COLLECTING
    assert step(State.RUNNING, Event.BEGUN) is None
