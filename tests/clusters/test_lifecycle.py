"""The table of a cluster's life."""

from __future__ import annotations

from gridcloud.clusters.lifecycle import TABLE, Event, step
from gridcloud.clusters.model import FINAL, State


def test_every_state_is_reached_and_every_live_one_can_be_stopped() -> None:
    reached, frontier = {State.REQUESTED}, {State.REQUESTED}
    while frontier:
        frontier = {after for (state, _), after in TABLE.items() if state in frontier} - reached
        reached |= frontier
    assert reached == set(State)
    for state in set(State) - FINAL - {State.STOPPING, State.FAILING}:
        assert step(state, Event.STOP) in (State.STOPPING, State.STOPPED)


def test_nothing_ends_while_a_provider_may_hold_something() -> None:
    for (state, event), after in TABLE.items():
        assert state not in FINAL
        if after in FINAL:
            assert event is Event.REMOVED or state is State.REQUESTED
