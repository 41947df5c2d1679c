"""Simulations: the same results each time, sound leases in bad weather, and figures that mean what they say."""

from __future__ import annotations

import random

import pytest

from gridcloud.errors import InvalidSettings
from gridcloud.federation.scenario import Cut, Scenario, draw_arrivals, read_scenario
from gridcloud.federation.simulated_network import Timeline
from gridcloud.federation.simulation import find_fairness, simulate


def test_a_small_grid_with_real_signatures() -> None:
    results = simulate(Scenario(members=6, hours=2, quiet=30, rooms=(2, 5), load=0.9, ttl=300))
    assert results.discovery.complete
    assert results.discovery.seconds < 4
    served = results.lending
    assert served is not None
    assert served.sessions > 20
    assert 0.5 < served.satisfaction <= 1
    assert served.at_peers > 0
    assert served.twice == 0
    assert served.disputed == 0


def test_bad_weather_never_has_two_holders() -> None:
    """Between institutions, promise F."""
    scenario = Scenario(
        members=12,
        signatures="counted",
        hours=5,
        quiet=0,
        rooms=(2, 5),
        load=0.9,
        ttl=300,
        loss=0.1,
        skew=30,
        churn=0.5,
        cuts=(Cut(begins=1, ends=1.05), Cut(begins=2, ends=3, part=0.3)),
    )
    results = simulate(scenario)
    served = results.lending
    assert served is not None
    assert served.twice == 0
    assert served.given_hours > 0
    assert simulate(scenario) == results, "the same scenario has the same results"


def test_counted_costs_are_those_of_real_signatures() -> None:
    real, counted = (
        simulate(Scenario(members=5, signatures=how, hours=0.5, quiet=60, rooms=(1, 2), load=0.9)).lending
        for how in ("real", "counted")
    )
    assert real is not None
    assert counted is not None
    assert real.messages == counted.messages
    assert real.bytes == pytest.approx(counted.bytes, rel=0.02)


def test_lending_serves_more() -> None:
    alone, together = (
        simulate(
            Scenario(members=8, signatures="counted", asked=asked, hours=6, quiet=0, rooms=(2, 8), load=0.7)
        )
        for asked in (0, 4)
    )
    assert alone.lending is not None
    assert together.lending is not None
    assert alone.lending.at_peers == 0
    assert together.lending.satisfaction > alone.lending.satisfaction


def test_discovery_alone() -> None:
    results = simulate(Scenario(members=20, signatures="counted", hours=0, quiet=0))
    assert results.lending is None
    assert results.discovery.complete
    assert results.document()["discovery"]["messages"] > 0


def test_users_come_by_day_and_in_weeks_of_exams() -> None:
    week = Scenario(hours=14 * 24, begins=0, exams=2, rush=2, load=0.5, session=2)
    arrivals = list(draw_arrivals(week, 0, 100, random.Random(1)))
    first = [hour for hour, _ in arrivals if hour < 7 * 24]
    second = [hour for hour, _ in arrivals if hour >= 7 * 24]
    assert len(first) == pytest.approx(2 * len(second), rel=0.1)
    day = sum(12 <= hour % 24 < 18 for hour in first)
    night = sum(hour % 24 < 6 for hour in first)
    assert day > 3 * night
    assert min(length for _, length in arrivals) >= 0.1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("member: 5", "office.yaml:1:1: member: unknown key; did you mean 'members'?"),
        ("members: 5000", "office.yaml:1:1: members: "),
        ("seed: 1\n\nloss: wet", "office.yaml:3:1: loss: .*; found 'wet'"),
        ("- 1", "office.yaml:1:1: expected keys with values, such as 'members: 100'"),
        ("members: [", "office.yaml:1:11: this is no YAML"),
        ("[" * 5000, "office.yaml: this is no YAML"),
        ("members: 5\nmembers: 6", "office.yaml:2:1: members: given twice"),
        ("cuts: [{begins: 1}]", "office.yaml:1:8: cuts.0.ends: this key is missing"),
        ("cuts: [{begins: 1, ends: 2, par: 1}]", "office.yaml:1:29: cuts.0.par: .* did you mean 'part'"),
        ("cuts:\n- {begins: 2, ends: 1}", "office.yaml:2:3: cuts.0: it ends before it begins"),
        ("rooms: [5, 1]", "office.yaml:1:1: rooms: the least comes first"),
        ("rooms: [0, 1]", "office.yaml:1:9: rooms.0: "),
        ("latency: [.inf, .inf]", "office.yaml:1:11: latency.0: "),
        ("hours: .nan", "office.yaml:1:1: hours: "),
        ("policy: favour >> 1", "office.yaml:1:1: policy: "),
        ("policy: True", "office.yaml:1:1: policy: input should be a valid string"),
    ],
)
def test_scenarios_that_are_none(text: str, said: str) -> None:
    with pytest.raises(InvalidSettings, match=said):
        read_scenario(text, "office.yaml")


def test_all_faults_of_a_scenario_are_told_at_once() -> None:
    with pytest.raises(InvalidSettings) as refused:
        read_scenario("members: 1\nloss: 2\n", "office.yaml")
    places = [fault["place"] for fault in refused.value.details["faults"]]
    assert places == ["office.yaml:1:1", "office.yaml:2:1"]


def test_scenarios() -> None:
    found = read_scenario("members: 300\nsignatures: counted\ncuts:\n  - {begins: 1, ends: 2}\n")
    assert found == Scenario(members=300, signatures="counted", cuts=(Cut(begins=1, ends=2),))
    assert read_scenario("") == Scenario()


def test_fairness() -> None:
    assert find_fairness([3, 3, 3]) == 1
    assert find_fairness([1, 0, 0, 0]) == 0.25
    assert find_fairness([]) == 1


def test_a_timeline_keeps_the_order() -> None:
    timeline, seen = Timeline(), []
    start = timeline.now
    timeline.after(20, lambda: seen.append("late"))
    timeline.after(10, lambda: seen.append("first"))
    timeline.after(10, lambda: seen.append("second"))
    timeline.run(start + 15)
    assert seen == ["first", "second"]
    assert timeline.now == start + 15
