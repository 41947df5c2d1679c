"""Single values of the configuration's text: changed with every other line and comment left alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml

from gridcloud.errors import InvalidSettings
from gridcloud.settings.entries import read_value, with_value, without_value

TEXT = """\
# the first line
profiles:

  # for lectures
  small:
    title: "Small: the one"  # as it is on the page
    description: |
      Two cores,
      and no more.

    choose: {cpus: [1, 2]}
    limits:
      time: 8h  # a day's work
      sessions: 1
  large: {title: Large}

hub: {port: 8001}
# the last line
"""


@pytest.mark.parametrize(
    ("path", "value", "before", "after"),
    [
        (
            "profiles.small.limits.time",
            "4h",
            "      time: 8h  # a day's work\n",
            "      time: 4h  # a day's work\n",
        ),
        ("profiles.small.limits.cpus", 2, "      sessions: 1\n", "      sessions: 1\n      cpus: 2\n"),
        ("profiles.small.title", "x: #1", 'title: "Small: the one"', "title: 'x: #1'"),
        ("profiles.small.choose", {"cpus": [1]}, "choose: {cpus: [1, 2]}", "choose:\n      cpus:\n      - 1"),
        ("profiles.large", {"title": "L"}, "  large: {title: Large}\n", "  large:\n    title: L\n"),
        ("currency", "NOK", "# the last line", "# the last line\n\ncurrency: NOK"),
        (
            "courses.a.profiles",
            ["small"],
            "last line",
            "last line\n\ncourses:\n  a:\n    profiles:\n    - small",
        ),
    ],
)
def test_one_value_changes(path: str, value: Any, before: str, after: str) -> None:
    assert TEXT.count(before) == 1
    assert with_value(TEXT, tuple(path.split(".")), value) == TEXT.replace(before, after)


def test_of_a_mapping_what_differs_is_written() -> None:
    entry = read_value(TEXT, ("profiles", "small"))
    wanted = {**entry, "limits": {"time": "8h", "cpus": 1}}
    changed = with_value(TEXT, ("profiles", "small"), wanted)
    assert changed == TEXT.replace("sessions: 1", "cpus: 1")
    del wanted["limits"]
    assert "Two cores" in with_value(TEXT, ("profiles", "small"), wanted)


def test_what_stands_in_one_line_is_for_an_editor() -> None:
    for path in (("hub", "port"), ("hub", "bind")):
        with pytest.raises(InvalidSettings, match="editor"):
            with_value(TEXT, path, 1)
    assert with_value(TEXT, ("hub",), {"port": 1}).count("port: 1\n") == 1
    anchored = "profiles:\n  a: &a\n    title: x\n  b: *a\n"
    with pytest.raises((InvalidSettings, yaml.YAMLError)):
        without_value(anchored, ("profiles", "a"))


@pytest.mark.parametrize("seed", range(12))
def test_any_changes_come_out_as_meant(seed: int) -> None:
    """Whatever is set and taken out, the text means that, or it is refused and nothing is written."""
    chance = random.Random(seed)
    text, values = TEXT, yaml.safe_load(TEXT)
    for _ in range(8):
        path = ["profiles", chance.choice(["small", "large", "new", "ü b"])]
        path += chance.sample(["title", "limits", "choose", "description"], chance.randint(0, 1))
        value = chance.choice(
            [
                "a: b #c",
                "two\nlines\n",
                {"time": "1h", "x": {}},
                [1, {"a": [2]}],
                {},
                "",
                "{{7*7}}",
                True,
                "- no",
            ]
        )
        try:
            if chance.random() < 0.3:
                text = without_value(text, tuple(path))
                place = values
                for key in path[:-1]:
                    place = place.get(key) if isinstance(place.get(key), dict) else {}
                place.pop(path[-1], None)
            else:
                text = with_value(text, tuple(path), value)
                place = values
                for key in path[:-1]:
                    if not isinstance(place.get(key), dict):
                        place[key] = {}
                    place = place[key]
                place[path[-1]] = yaml.safe_load(yaml.safe_dump(value))
        except InvalidSettings:
            continue
        assert {**yaml.safe_load(text)} | {"profiles": yaml.safe_load(text).get("profiles") or {}} == values
    assert text.startswith("# the first line\n")
