"""The table of an instance's life."""

from __future__ import annotations

import pytest

from gridcloud.instances.lifecycle import DUTIES, TABLE, Duty, Event, diagram, ending, step
from gridcloud.instances.model import FINAL, Reason, State


def test_every_state_but_the_final_ones_has_a_duty() -> None:
    assert set(DUTIES) == set(State) - FINAL


def test_every_state_can_be_stopped() -> None:
    for state in State:
        assert step(state, Event.STOP) is not None


def test_every_state_is_reached_and_every_live_one_leads_to_an_end() -> None:
    reached, frontier = {State.REQUESTED}, {State.REQUESTED}
    while frontier:
        frontier = {after for (state, _), after in TABLE.items() if state in frontier} - reached
        reached |= frontier
    assert reached == set(State)
    for state in set(State) - FINAL:
        seen, now = {state}, {state}
        while now:
            now = {after for (before, _), after in TABLE.items() if before in now} - seen
            seen |= now
        assert seen & FINAL, f"{state} never ends"


def test_nothing_ends_while_a_provider_may_hold_something() -> None:
    for (state, event), after in TABLE.items():
        if after in FINAL and state not in FINAL:
            assert event is Event.REMOVED or state is State.REQUESTED


@pytest.mark.parametrize("state", sorted(FINAL))
def test_the_final_states_are_final(state: State) -> None:
    for event in Event:
        assert step(state, event) in (None, state)


def test_an_event_that_comes_too_late_means_nothing() -> None:
    assert step(State.READY, Event.MADE) is None
    assert step(State.STOPPING, Event.CONFIGURED) is None


def test_what_was_never_ready_is_cancelled() -> None:
    assert ending(State.READY) is Reason.ASKED
    assert ending(State.CREATING) is Reason.CANCELLED


def test_the_diagram_names_every_state() -> None:
    text = diagram()
    assert text.startswith("stateDiagram-v2\n    [*] --> requested\n")
    for state in State:
        assert str(state) in text
    assert all(duty in Duty for duty in DUTIES.values())
