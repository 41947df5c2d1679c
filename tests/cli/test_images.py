"""``gridcloud image``: what people see of the images, and what builds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from gridcloud.errors import InvalidRequest, InvalidSettings, NotFound
from gridcloud.images import images_folder
from tests.cli.conftest import Caller


def test_images_are_listed_and_shown(call: Caller) -> None:
    told = {one["name"]: one for one in json.loads(call("--json", "image", "list"))["images"]}
    assert told["datascience"]["parent"] == "base"
    assert told["base"]["title"] == "JupyterLab"
    shown = call("image", "show", "datascience")
    assert "parent: base" in shown
    assert "\nnumpy==" in shown
    lock = json.loads(call("--json", "image", "show", "base"))["lock"]
    assert lock["architecture"] == "amd64"


def test_what_builds_one_is_written(call: Caller, tmp_path: Path) -> None:
    call("image", "render", "datascience", str(tmp_path / "context"))
    text = (tmp_path / "context" / "Containerfile").read_text()
    assert "\nARG BASE\nFROM ${BASE}\n" in text
    assert " --hash=sha256:" in (tmp_path / "context" / "requirements.txt").read_text()
    told = yaml.safe_load(call("image", "render", "datascience", "-", "--cloud-init"))
    assert [words[-5].split("/")[-2] for words in told["runcmd"]] == ["base", "datascience"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["show", "nobody"], NotFound.exit_code, "no image 'nobody'; there are: base"),
        (["show", "base", "--architecture", "riscv64"], NotFound.exit_code, "no lock for riscv64"),
        (["build", "base", "--base", "debian:bookworm"], InvalidRequest.exit_code, "another image tomorrow"),
        (["build", "--archive", "x.tar"], InvalidRequest.exit_code, "are for one image"),
    ],
)
def test_what_cannot_be_is_said(call: Caller, words: list[str], code: int, said: str) -> None:
    call("image", *words, code=code)
    assert said in call.err


def test_a_lock_of_other_packages_builds_nothing(call: Caller, tmp_path: Path) -> None:
    folder = tmp_path / "images" / "base"
    folder.mkdir(parents=True)
    for file in ("image.yaml", "lock.amd64.yaml"):
        (folder / file).write_text((images_folder() / "base" / file).read_text())
    with (folder / "image.yaml").open("a") as definition:
        definition.write("\n")
    assert "of other packages" not in call("image", "list", "--images", str(tmp_path / "images"))
    text = (folder / "image.yaml").read_text().replace("  - nano\n", "")
    (folder / "image.yaml").write_text(text)
    assert "of other packages: lock it anew" in call("image", "list", "--images", str(tmp_path / "images"))
    words = ["build", "base", "--images", str(tmp_path / "images"), "--architecture", "amd64"]
    call("image", *words, code=InvalidSettings.exit_code)
    assert "Write it anew: gridcloud image lock base" in call.err
