"""Who is in a course, by name, group, context of LTI, and lists in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridcloud.profiles import Person, Rosters
from gridcloud.profiles.rosters import read_roster
from gridcloud.settings.profiles import CourseSettings, RosterSettings


def courses(**roster: object) -> dict[str, CourseSettings]:
    return {"c": CourseSettings(roster=RosterSettings.model_validate(roster))}


def test_names_groups_and_contexts_count(tmp_path: Path) -> None:
    rosters = Rosters(tmp_path)
    of = courses(users=["ada"], groups=["staff"], lti=["course-7"])
    assert rosters.is_in(of, "c", Person("ada"))
    assert rosters.is_in(of, "c", Person("bob", groups=frozenset({"staff"})))
    assert rosters.is_in(of, "c", Person("bob", contexts=frozenset({"course-7"})))
    assert not rosters.is_in(of, "c", Person("bob"))
    assert not rosters.is_in(of, "other", Person("ada"))


def test_a_list_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    rosters, of = Rosters(tmp_path), courses(file="list.txt")
    path = tmp_path / "list.txt"
    path.write_text("ada\n")
    assert rosters.is_in(of, "c", Person("ada"))
    path.write_text("bob\ncleo\n")
    assert not rosters.is_in(of, "c", Person("ada"))
    assert rosters.is_in(of, "c", Person("bob"))


def test_a_list_that_cannot_be_read_keeps_what_it_said(tmp_path: Path) -> None:
    rosters, of = Rosters(tmp_path), courses(file="list.txt")
    assert not rosters.is_in(of, "c", Person("ada"))
    assert "cannot be read" in str(rosters.faults["c"])
    path = tmp_path / "list.txt"
    path.write_text("ada\n")
    assert rosters.is_in(of, "c", Person("ada"))
    assert not rosters.faults
    path.unlink()
    assert rosters.is_in(of, "c", Person("ada"))
    assert "list.txt" in str(rosters.faults["c"])


def test_a_verified_address_counts_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("Name,Email\nAda Lovelace,Ada@Example.org\n")
    rosters, of = Rosters(tmp_path), courses(file="list.csv")
    assert rosters.is_in(of, "c", Person("u17", addresses=frozenset({"ada@example.ORG"})))
    assert not rosters.is_in(of, "c", Person("u18"))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", set()),
        ("# nobody yet\n", set()),
        ("ada\n bob  # the second\n\n", {"ada", "bob"}),
        ("Ada;Lovelace\n", {"ada"}),
        ('username,email\nada,ada@x\n"bob",\n', {"ada", "ada@x", "bob"}),
        ("Name;E-Mail\nAda;ada@x\n", {"ada@x"}),
        ("ada@x\nbob@y\n", {"ada@x", "bob@y"}),
    ],
)
def test_lists_are_read_as_people_write_them(text: str, names: set[str]) -> None:
    assert read_roster(text) == names
