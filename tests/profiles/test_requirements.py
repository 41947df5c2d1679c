"""The packages that users add to a session: what is taken, and what is refused before any machine is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from gridcloud.errors import Forbidden, GridcloudError, InvalidRequest, InvalidSettings
from gridcloud.profiles import Choice, Terms
from gridcloud.profiles.requirements import LARGEST, MOST, read_requirements
from gridcloud.settings import Settings, parse_settings
from gridcloud.settings.profiles import ProfileLimits, ProfileSettings
from gridcloud.spawner.options import from_form, read_options

ANY = ProfileSettings.model_validate({"requirements": "*"})
SOME = ProfileSettings.model_validate({"requirements": ["numpy", "Scikit_*"]})

TEXT = """
# for the lecture
scipy>=1.11  # newest
Toy.Foam[plots]==1.0 ; python_version < "4"

numpy<3,>=1.26
"""


def test_a_text_comes_to_its_packages_in_one_order() -> None:
    found = read_requirements(TEXT, ANY, "Open")
    assert found == ("numpy<3,>=1.26", "scipy>=1.11", 'Toy.Foam[plots]==1.0; python_version < "4"')
    assert read_requirements(list(reversed(TEXT.splitlines())), ANY, "Open") == found
    wishes: tuple[Any, ...] = ("", [], (), " \n# only words\n")
    for nothing in wishes:
        assert read_requirements(nothing, ANY, "Open") == ()


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://elsewhere.example/simple",
        "-i https://elsewhere.example/simple",
        "--extra-index-url=https://elsewhere.example/simple",
        "--find-links /tmp",
        "--trusted-host elsewhere.example",
        "-e .",
        "-e git+https://elsewhere.example/x",
        "-r /etc/passwd",
        "-c limits.txt",
        "--config-settings=x",
        "\u2010r /etc/passwd",
        "x @ file:///etc/passwd",
        "x @ https://elsewhere.example/x.whl",
        "x @ git+ssh://elsewhere.example/x",
        "git+https://elsewhere.example/x",
        "https://elsewhere.example/x.whl",
        "./x",
        "/opt/x.whl",
        "../x",
        "x --hash=sha256:00",
        "x --global-option=build",
        "x; rm -rf ~",
        "x && id",
        "x | id",
        "x $(id)",
        "x`id`",
        "x==${SECRET}",
        'x; python_version < "$HOME"',
        "x \\",
        "x\x00y",
        "x\x1b[31m",
        "x\u202ey",
        "nump\u0443",
        "x == 1 == 2",
        "=1",
        "<script>",
    ],
)
def test_hostile_lines_are_refused(line: str) -> None:
    for given in (line, ["numpy", line], f"numpy\n{line}\nscipy"):
        with pytest.raises(InvalidRequest):
            read_requirements(given, ANY, "Open")


def test_a_line_that_is_hidden_in_a_list_is_none() -> None:
    with pytest.raises(InvalidRequest):
        read_requirements(["numpy\n--index-url=https://elsewhere.example"], ANY, "Open")


@pytest.mark.parametrize("given", [7, {"numpy": "1"}, [1], [["numpy"]], None, True, b"numpy"])
def test_only_texts_are_read(given: Any) -> None:
    with pytest.raises(InvalidRequest, match="a text, or a list of texts"):
        read_requirements(given, ANY, "Open")


def test_there_is_an_end_to_it() -> None:
    with pytest.raises(InvalidRequest, match=f"more than {LARGEST} characters"):
        read_requirements("numpy" + " " * LARGEST, ANY, "Open")
    with pytest.raises(InvalidRequest, match="more than the 50"):
        read_requirements([f"x{number}" for number in range(MOST + 1)], ANY, "Open")


def test_a_package_is_named_once() -> None:
    with pytest.raises(InvalidRequest, match="'toy-foam' is named twice: 'toy-foam==1' and 'Toy_Foam==2'"):
        read_requirements("toy-foam==1\nToy_Foam==2", ANY, "Open")


def test_a_profile_says_which() -> None:
    assert read_requirements("Scikit.Image\nnumpy", SOME, "Some") == ("numpy", "Scikit.Image")
    with pytest.raises(
        Forbidden, match=r"'torch' is not for you to add in 'Some'; you may add numpy, Scikit_\*"
    ):
        read_requirements("torch", SOME, "Some")
    with pytest.raises(Forbidden, match="not for you to add in 'None'"):
        read_requirements("numpy", ProfileSettings(), "None")
    with pytest.raises(InvalidSettings, match="another spawner"):
        parse_settings("profiles: {x: {requirements: '*', spawner: {class: a.B}}}", "test.yaml", {})


def asked(options: dict[str, Any], profile: ProfileSettings) -> Any:
    settings = Settings(profiles={"lab": profile})
    choices = {"lab": Choice("lab", profile, (Terms(ProfileLimits()),))}
    return read_options(options, settings, choices)


def test_form_and_program_ask_for_the_same() -> None:
    choices = {"lab": Choice("lab", ANY, (Terms(ProfileLimits()),))}
    sent = from_form({"gridcloud_profile": ["lab"], "requirements": ["scipy\r\nnumpy\r\n"]}, choices)
    entry = {"use": "packages", "requirements": ["numpy", "scipy"], "overlay": True}
    assert (
        asked(sent, ANY).added
        == asked({"profile": "lab", "requirements": ["numpy", "scipy"]}, ANY).added
        == [entry]
    )
    assert asked({"profile": "lab"}, ANY).added == []


def test_without_a_profile_nothing_is_added() -> None:
    with pytest.raises(GridcloudError, match="requirements"):
        read_options({"requirements": "numpy"}, Settings(), {})
