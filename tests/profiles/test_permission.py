"""Who may use which profile on a day, and what a wish within it comes to."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from gridcloud.errors import Forbidden, InvalidRequest, InvalidSettings
from gridcloud.profiles import Choice, Person, choices_of, settle
from gridcloud.settings import Settings, parse_settings

NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)
TODAY = NOW.date()

CONFIGURATION = """
defaults: {cpus: 2, memory: 3GiB}
profiles:
  open:
    choose: {cpus: {least: 1, most: 4}, memory: any, image: [first, second], time: {most: 4h}}
  staff:
    title: For staff
    request: {cpus: 8, on: cloud}
    offered: {groups: staff}
    limits: {time: 8h, sessions: 1}
  seldom:
    offered: {users: [ada], since: 2026-09-01, until: 2026-10-31}
  lecture:
    choose: {gpus: {most: 2}, memory: any}
    offered: []
courses:
  physics:
    roster: {users: [bob], groups: [physicists]}
    teachers: ann
    profiles: [lecture]
    since: 2026-09-01
    until: 2026-10-02
    limits: {gpus: 1, memory: 4GiB}
    project: physics-101
  mathematics:
    roster: {users: [bob]}
    profiles: lecture
    limits: {gpus: 0, memory: 64GiB}
"""


@pytest.fixture(scope="module")
def settings() -> Settings:
    return parse_settings(CONFIGURATION, "test.yaml", {})


def choices(
    settings: Settings, name: str, *groups: str, today: date = TODAY, courses: tuple[str, ...] = ()
) -> dict[str, Choice]:
    person = Person(name, frozenset(groups))
    return choices_of(settings, person, today, lambda course, _: course in courses)


def settled(settings: Settings, name: str, wish: dict[str, Any], running: int = 0, **words: Any) -> Any:
    person = words.pop("person", "eve")
    groups = words.pop("groups", ())
    choice = choices(settings, person, *groups, **words)[name]
    return settle(choice, wish, settings, NOW, running)


def test_everybody_has_what_is_offered_to_all(settings: Settings) -> None:
    assert list(choices(settings, "eve")) == ["open"]


def test_groups_users_and_days_decide(settings: Settings) -> None:
    assert list(choices(settings, "eve", "staff")) == ["open", "staff"]
    assert list(choices(settings, "ada")) == ["open", "seldom"]
    for outside in (date(2026, 8, 31), date(2026, 11, 1)):
        assert list(choices(settings, "ada", today=outside)) == ["open"]
    for inside in (date(2026, 9, 1), date(2026, 10, 31)):
        assert list(choices(settings, "ada", today=inside)) == ["open", "seldom"]


def test_a_course_gives_its_profiles_to_students_and_teachers_while_it_lasts(settings: Settings) -> None:
    assert "lecture" in choices(settings, "bob", courses=("physics",))
    assert "lecture" in choices(settings, "ann")
    assert "lecture" not in choices(settings, "ann", today=date(2026, 10, 3))
    assert "lecture" not in choices(settings, "eve")


def test_what_is_not_chosen_is_set_or_the_first_or_the_default(settings: Settings) -> None:
    request = settled(settings, "open", {}).request
    assert (request.cpus, request.memory, request.image) == (1, 3 * 1024**3, "first")
    assert settled(settings, "staff", {}, groups=("staff",)).request.on == "cloud"


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"cpus": "5"}, "cpus '5.0' is more than the 4 of 'open'"),
        ({"cpus": "0.5"}, "cpus '0.5' is less than the 1"),
        ({"cpus": "many"}, "'cpus'"),
        ({"image": "third"}, "image 'third' is none of what 'open' has: first, second"),
        ({"on": "elsewhere"}, "on is not for you to choose in 'open'"),
        ({"time": "0"}, "time '0' is more than the 4h"),
        ({"time": "5h"}, "more than the 4h"),
        ({"mounts": "/"}, "There is no option 'mounts'"),
        ({"cpu": "1"}, "did you mean cpus?"),
    ],
)
def test_what_may_not_be_chosen_is_refused(settings: Settings, wish: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        settled(settings, "open", wish)
    assert words in str(caught.value)


def test_what_the_profile_sets_may_be_repeated_but_not_changed(settings: Settings) -> None:
    assert settled(settings, "staff", {"cpus": "8"}, groups=("staff",)).request.cpus == 8
    with pytest.raises(InvalidRequest, match="there is nothing"):
        settled(settings, "staff", {"cpus": "9"}, groups=("staff",))


def test_limits_fill_in_the_time_and_count_sessions(settings: Settings) -> None:
    assert settled(settings, "staff", {}, groups=("staff",)).request.time == 8 * 3600
    with pytest.raises(Forbidden, match="1 of 1 sessions are running"):
        settled(settings, "staff", {}, running=1, groups=("staff",))


def test_a_wish_has_to_keep_to_one_of_the_terms_as_a_whole(settings: Settings) -> None:
    bob: dict[str, Any] = {"person": "bob", "courses": ("physics", "mathematics")}
    assert settled(settings, "lecture", {"gpus": "1"}, **bob).terms.course == "physics"
    assert settled(settings, "lecture", {"memory": "32GiB"}, **bob).terms.course == "mathematics"
    with pytest.raises(Forbidden) as caught:
        settled(settings, "lecture", {"gpus": "1", "memory": "32GiB"}, **bob)
    assert "memory 32GiB is more than 4GiB in the course physics" in str(caught.value)
    assert "gpus 1 is more than 0 in the course mathematics" in str(caught.value)


def test_a_session_ends_with_its_course_and_is_charged_to_it(settings: Settings) -> None:
    request = settled(settings, "lecture", {}, person="ann").request
    assert request.project == "physics-101"
    assert request.time == 36 * 3600


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("profiles: {a: {request: {cpu: 1}}}", "t:1:26", "did you mean 'cpus'"),
        ("profiles: {a: {choose: {colour: any}}}", "t:1:16", "there is no field 'colour'"),
        ("profiles: {a: {choose: {memory: [1GiB, much]}}}", "t:1:16", "'much' is not a size"),
        ("profiles: {a: {choose: {cpus: {least: 4, most: 2}}}}", "t:1:16", "at least 4 and at most 2"),
        ("profiles: {a: {choose: {image: {least: a}}}}", "t:1:16", "image has no least and most"),
        ("profiles: {a: {request: {cpus: 3}, choose: {cpus: [1, 2]}}}", "t:1:12", "none of those"),
        ("profiles: {a: {spawner: {class: 'x; y'}}}", "t:1:26", "pattern"),
        ("profiles: {a: {offered: {since: 2026-02-01, until: 2026-01-01}}}", "t:1:16", "before it begins"),
        ("courses: {c: {profiles: [nothing]}}", "t:1:15", "there is no profile 'nothing'"),
    ],
)
def test_a_bad_profile_or_course_is_told_with_its_place(text: str, place: str, words: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        parse_settings(text, "t", {})
    assert str(caught.value).startswith(f"{place}: "), str(caught.value)
    assert words in str(caught.value)
