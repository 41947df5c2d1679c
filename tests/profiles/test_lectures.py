"""When a course's machines are kept ready, by the clock of where it is taught; and where its folders may lie."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from gridcloud.profiles.folders import folders_of
from gridcloud.profiles.lectures import lecture_at, lectures_at, next_lecture
from gridcloud.settings import Settings
from gridcloud.settings.profiles import CourseSettings, SeatSettings

OSLO: dict[str, Any] = {
    "days": ["tuesday", "2026-12-24"], "opens": "08:50", "closes": "11:00", "time_zone": "Europe/Oslo", "count": 3,
}  # fmt: skip


def course(**more: Any) -> CourseSettings:
    return CourseSettings.model_validate({"profiles": "lab", "seats": OSLO, **more})


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-09-01T06:49", ""),  # a Tuesday in summer: 08:49 there
        ("2026-09-01T06:50", "2026-09-01T06:50"),
        ("2026-09-01T08:59", "2026-09-01T06:50"),
        ("2026-09-01T09:00", ""),
        ("2026-12-01T06:50", ""),  # in winter an hour later
        ("2026-12-01T07:50", "2026-12-01T07:50"),
        ("2026-09-02T07:00", ""),
        ("2026-12-24T08:00", "2026-12-24T07:50"),  # a Thursday, by its date
    ],
)
def test_seats_are_open_by_the_clock_of_their_place(now: str, opens: str) -> None:
    span = lecture_at(course().seats[0], course(), utc(now))
    assert (span[0] if span else None) == (utc(opens) if opens else None)


def test_the_days_of_the_course_count() -> None:
    short = course(since=date(2026, 9, 8), until=date(2026, 9, 14))
    assert lecture_at(short.seats[0], short, utc("2026-09-01T07:00")) is None
    assert lecture_at(short.seats[0], short, utc("2026-09-08T07:00")) is not None
    found = next_lecture(short, utc("2026-09-01T07:00"))
    assert found is not None
    assert found[0] == utc("2026-09-08T06:50")
    assert next_lecture(short, utc("2026-09-08T07:00")) is None
    assert next_lecture(course(seats=[]), utc("2026-09-08T07:00")) is None


def test_what_is_kept_ready_is_what_a_member_gets_who_chooses_nothing() -> None:
    text = """
profiles:
  lab: {request: {cpus: 1}, choose: {memory: [2GiB, 4GiB]}, limits: {time: 2h}, configure: [{use: script, text: id}]}
  far: {spawner: {class: other.Spawner}}
courses:
  one: {profiles: lab, project: p, seats: {days: tuesday, opens: "8:50", closes: "11:00", time_zone: UTC, count: 1}}
  two:
    profiles: [lab, far]
    seats: [{days: tuesday, opens: "8:50", closes: "11:00", time_zone: UTC, count: 1, profile: far}]
  three: {profiles: nothing, seats: {days: tuesday, opens: "8:50", closes: "11:00", time_zone: UTC, count: 1}}
"""
    settings = Settings.model_validate(yaml.safe_load(text))
    one, two, three = lectures_at(settings, utc("2026-09-01T09:00"))
    assert (one.request.cpus, one.request.memory, one.request.project) == (1, 2 << 30, "p")
    assert one.configure == ({"use": "script", "text": "id"},)
    assert one.problem == ""
    assert "another spawner's" in two.problem
    assert "There is no profile 'nothing'" in three.problem


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"days": "freitag"}, "no day such as"),
        ({"days": []}, "at least 1"),
        ({"opens": "25:00"}, "no time of the day"),
        ({"opens": 1700}, "no time of the day"),
        ({"closes": "08:50"}, "they close"),
        ({"time_zone": "Oslo"}, "no time zone"),
        ({"count": 0}, "greater than or equal to 1"),
    ],
)
def test_impossible_seats_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SeatSettings.model_validate({**OSLO, **change})


def test_yaml_reads_some_times_as_numbers() -> None:
    seat = SeatSettings.model_validate(OSLO | yaml.safe_load("{opens: 9:10, closes: 10:50}"))
    assert (f"{seat.opens:%H:%M}", f"{seat.closes:%H:%M}") == ("09:10", "10:50")


def test_seats_are_of_one_of_the_courses_profiles() -> None:
    with pytest.raises(ValidationError, match="its seats need one of its profiles: lab"):
        course(seats={**OSLO, "profile": "other"})
    with pytest.raises(ValidationError, match="it has none"):
        course(profiles=[])


@pytest.mark.parametrize(
    "name",
    ["/etc", "../up", "a/../../b", "a//b", ".hidden", "a/.ssh", "a\0b", "a:b", "-x", "a/", "~/a", "a\n"],
)
def test_folders_of_courses_are_plain_names(name: str) -> None:
    for kind in ("handout", "shared"):
        with pytest.raises(ValidationError):
            course(**{kind: name})


def test_what_is_shared_does_not_lie_in_the_hand_out() -> None:
    for handout, shared in (("a", "a"), ("a", "a/b"), ("a/b", "a")):
        with pytest.raises(ValidationError, match="would lie in the hand-out"):
            course(handout=handout, shared=shared)
    course(handout="a/b", shared="a/bc")


def test_no_folder_leads_out_of_the_base(tmp_path: Path) -> None:
    base = tmp_path / "courses"
    (base / "physics" / "handout").mkdir(parents=True)
    (base / "physics" / "out").symlink_to("/etc")
    (base / "loop").symlink_to(base / "physics")
    (base / "file").write_text("")

    def given(name: str, where: str = str(base)) -> Settings:
        return Settings.model_validate(
            {"hub": {"course_folders": where}, "courses": {"c": {"handout": name}, "d": {}}}
        )

    (folder,) = folders_of(given("physics/handout"), "c")
    assert (folder.source, folder.at, folder.read_only) == (
        str(base / "physics" / "handout"),
        "c/handout",
        True,
    )
    assert folders_of(given("physics/handout"), "d") == folders_of(given("physics"), "none") == ()
    for name, words in (
        ("physics/out", "symbolic link"),
        ("physics/out/ssh", "symbolic link"),
        ("loop/handout", "symbolic link"),
        ("file", "no folder"),
        ("missing", "no folder"),
    ):
        (refused,) = folders_of(given(name), "c")
        assert words in refused.problem
        assert refused.source == ""
    assert "Set hub.course_folders" in folders_of(given("physics", ""), "c")[0].problem
    # The base itself may be a link: the administrator made it.
    (tmp_path / "link").symlink_to(base)
    assert folders_of(given("physics/handout", str(tmp_path / "link")), "c")[0].source == folder.source
