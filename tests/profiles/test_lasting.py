"""How long a session of a profile may live in all."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gridcloud.errors import Forbidden
from gridcloud.instances.model import Request
from gridcloud.profiles import Choice, Person, choices_of
from gridcloud.profiles.lasting import longest_life
from gridcloud.settings import parse_settings

NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)
HOUR = 3600

CONFIGURATION = """
profiles:
  any: {}
  fixed: {request: {time: 2h}}
  fixed-and-longer: {request: {time: 2h}, limits: {time: 8h}}
  chosen: {choose: {time: [1h, 4h]}}
  ranging: {choose: {time: {least: 1h, most: 6h}}}
  as-long-as-one-likes: {choose: {time: any}}
  shared:
    offered: {users: ada, limits: {time: 3h, cpus: 2}}
courses:
  physics: {roster: {users: [ada]}, profiles: shared, until: 2026-10-01, limits: {cpus: 8}}
"""

SETTINGS = parse_settings(CONFIGURATION, "test.yaml", {})


def choice(name: str) -> Choice:
    return choices_of(SETTINGS, Person("ada"), NOON.date(), lambda *_: True)[name]


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        ("any", 0),
        ("fixed", 2),
        ("fixed-and-longer", 8),
        ("chosen", 4),
        ("ranging", 6),
        ("as-long-as-one-likes", 0),
    ],
)
def test_it_lives_as_long_as_it_could_have_been_asked_for(name: str, hours: int) -> None:
    assert longest_life(choice(name), Request(), "", NOON) == hours * HOUR


def test_it_is_held_to_the_terms_that_it_was_started_under() -> None:
    shared = choice("shared")
    assert longest_life(shared, Request(cpus=1), "physics", NOON) == 12 * HOUR, "the course ends at midnight"
    assert longest_life(shared, Request(cpus=4), "", NOON) == 12 * HOUR, "the others do not allow it"
    with pytest.raises(Forbidden, match="does not allow it any more"):
        longest_life(shared, Request(cpus=16), "physics", NOON)
    with pytest.raises(Forbidden):
        longest_life(shared, Request(), "a course that is gone", NOON)
