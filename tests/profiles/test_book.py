"""All that a hub offers now: files that change, that are half-written, and that are gone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gridcloud.errors import InvalidSettings
from gridcloud.profiles import Book, Person
from gridcloud.settings import SettingsFile

TEMPLATE = {
    "name": "T",
    "resource_type": "bare_metal",
    "providers": ["local"],
    "class": "jupyterhub.spawner.SimpleLocalProcessSpawner",
}
NOW = datetime(2026, 10, 1, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t.json").write_text(json.dumps([TEMPLATE]))
    (tmp_path / "d.json").write_text('{"bare_metal": [{"name": "one"}]}')
    return tmp_path


def book(folder: Path, text: str, **environment: str) -> Book:
    (folder / "config.yaml").write_text(text)
    return Book(SettingsFile(folder / "config.yaml", {}), environment)


HUB = "hub: {templates: t.json, deployments: d.json}\n"


def test_profiles_of_both_kinds_are_there_and_ours_go_before(folder: Path) -> None:
    both = book(folder, HUB + "profiles: {mine: {}, t-local-one: {title: Ours}}")
    settings, problems = both.current()
    assert not problems
    assert {name: profile.title for name, profile in settings.profiles.items()} == {
        "t-local-one": "Ours",
        "mine": "",
    }


def test_the_environment_names_files_as_it_did_for_the_prototype(folder: Path) -> None:
    named = {
        "MULTIPLE_SPAWNER_TEMPLATE_FILE": str(folder / "t.json"),
        "MULTIPLE_SPAWNER_DEPLOYMENT_FILE": str(folder / "d.json"),
    }
    assert list(book(folder, "", **named).choices(Person("ada"), NOW)) == ["t-local-one"]


def test_a_half_written_file_changes_nothing_until_it_is_whole(folder: Path) -> None:
    live = book(folder, HUB)
    assert list(live.current()[0].profiles) == ["t-local-one"]
    (folder / "t.json").write_text(json.dumps([TEMPLATE])[:40])
    settings, problems = live.current()
    assert list(settings.profiles) == ["t-local-one"]
    assert "t.json" in str(problems[0])
    (folder / "t.json").write_text(json.dumps([TEMPLATE | {"name": "New"}]))
    settings, problems = live.current()
    assert (list(settings.profiles), problems) == (["new-local-one"], [])


def test_a_changed_configuration_counts_at_once(folder: Path) -> None:
    live = book(folder, "profiles: {a: {}}")
    assert list(live.choices(Person("ada"), NOW)) == ["a"]
    (folder / "config.yaml").write_text("profiles: {a: {}, other: {offered: {until: 2026-09-30}}, b: {}}")
    assert list(live.choices(Person("ada"), NOW)) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hub: {templates: t.json}", "only one is named"),
        ("hub: {templates: t.json, deployments: gone.json}", "gone.json cannot be read"),
    ],
)
def test_what_is_missing_is_told(folder: Path, text: str, words: str) -> None:
    (problem,) = book(folder, text).current()[1]
    assert isinstance(problem, InvalidSettings)
    assert words in str(problem)


def test_rosters_that_cannot_be_read_are_problems(folder: Path) -> None:
    live = book(folder, "courses: {c: {roster: {file: gone.txt}}}")
    live.rosters.read_all(live.current()[0].courses)
    (problem,) = live.current()[1]
    assert "The roster of the course 'c' cannot be read" in str(problem)
