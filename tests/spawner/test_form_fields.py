"""What a form lets one send, and which profile a sent form is of: SWRM-01, SWRM-03, SWRM-04, WRP-03."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridcloud.errors import GridcloudError, InvalidRequest
from gridcloud.instances.model import Request
from gridcloud.profiles import Choice, Terms
from gridcloud.settings import Settings, SettingsFile
from gridcloud.settings.profiles import ChoiceSettings, ProfileLimits, ProfileSettings, SpawnerSettings
from gridcloud.spawner.form_fields import check_fields
from gridcloud.spawner.options import CHOSEN, from_form, read_options

FORM = """
<p>Where <select name="queue"><option value="a">First<option value='b&amp;c' selected>Second<option> Third
 one </select> and <select name="many" multiple><option>x</option><option>y</option></select>
<input type=radio name=size value=small><input type=radio name=size value=large>
<input type="checkbox" name="fast"><input name="free"><textarea name="notes"></textarea>
<input type="file" name="upload"><input id="nameless">
"""


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"queue": ["a"]},
        {"queue": ["b&c"]},
        {"queue": ["Third one"], "size": ["large"]},
        {"many": ["x", "y"]},
        {"fast": ["on"], "free": ["anything; at all"], "notes": ["two\nlines"], "upload_file": ["x"]},
    ],
)
def test_what_a_form_can_send_is_taken(fields: dict[str, list[str]]) -> None:
    check_fields(FORM, fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cmd": ["id"]}, "no field 'cmd'; there are: queue, many, size"),
        ({"queue": ["First"]}, "'queue' cannot be 'First'"),
        ({"queue": ["a", "a"]}, "'queue' was given 2 times"),
        ({"size": ["huge"]}, "there are: large, small"),
        ({"fast": ["yes"]}, "'fast' cannot be 'yes'"),
        ({"free": ["a", "b"]}, "'free' was given 2 times"),
        ({"many": ["x", "z"]}, "'many' cannot be 'z'"),
        ({"upload": ["x"]}, "no field 'upload'"),
        ({"queue": [{"a": 1}]}, "'queue' cannot be {'a': 1}"),
    ],
)
def test_what_it_cannot_send_is_refused(fields: dict[str, list[str]], words: str) -> None:
    with pytest.raises(InvalidRequest, match=r".*") as caught:
        check_fields(FORM, fields)
    assert words in str(caught.value)


def test_a_form_with_a_field_named_as_ours_keeps_it() -> None:
    """KubeSpawner's own form has a field ``profile``."""
    pods = ProfileSettings(spawner=SpawnerSettings(class_="kubespawner.KubeSpawner"))
    choices = {"pods": Choice("pods", pods, ())}
    sent = {CHOSEN: ["pods"], "profile": ["large"], "_xsrf": ["x"]}
    assert from_form(sent, choices) == {"profile": "pods", "fields": {"profile": ["large"]}}
    assert from_form({"profile": ["pods"]}, choices) == {"profile": "pods", "fields": {}}


def images() -> Choice:
    """A profile of sessions in containers with two images to choose from, as SwarmSpawner profiles become."""
    profile = ProfileSettings(
        request=Request(kind="container"), choose={"image": ChoiceSettings.model_validate(["x:1", "y:1"])}
    )
    return Choice("images", profile, (Terms(ProfileLimits()),))


def test_an_image_of_those_offered_is_chosen(tmp_path: Path) -> None:
    asked = read_options({"profile": "images", "image": "y:1"}, settings(tmp_path), {"images": images()})
    assert asked.request.image == "y:1"


@pytest.mark.parametrize(
    "given",
    [
        {"image": "z:1"},
        {"image": ["x:1", "y:1"]},
        {"image": "__import__('os').system('id')"},
        {"container_spec": {"user": "root", "mounts": [{"type": "bind", "source": "/"}]}},
        {"user": "root"},
    ],
)
def test_nothing_else_of_a_container_is(tmp_path: Path, given: dict[str, object]) -> None:
    with pytest.raises(GridcloudError):
        read_options({"profile": "images", **given}, settings(tmp_path), {"images": images()})


def test_two_profiles_with_one_key_are_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("profiles:\n  one: {title: First}\n  one: {title: Second}\n")
    with pytest.raises(GridcloudError) as caught:
        SettingsFile(path).current()
    assert "profiles.one: given twice" in str(caught.value)


def settings(folder: Path) -> Settings:
    """Settings with that profile."""
    path = folder / "config.yaml"
    path.write_text("profiles: {images: {choose: {image: ['x:1', 'y:1']}}}\n")
    return SettingsFile(path).current()[0]
