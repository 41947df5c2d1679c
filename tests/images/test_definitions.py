"""Our own images: each definition reads, is locked, and its texts are programs."""

from __future__ import annotations

import ast
import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from gridcloud.images import images_folder, read_stack
from gridcloud.images.model import Role

STACK = read_stack(images_folder())
SETUP = Path(__file__).parents[2] / "src" / "gridcloud" / "images" / "setup"


def test_there_are_those_that_the_guide_names() -> None:
    assert set(STACK) == {"base", "datascience", "desktop", "hpc", "machine", "ml", "r"}
    assert STACK.sessions() == [name for name in STACK if name != "machine"]
    assert [one.name for one in STACK.chain("hpc")] == ["base", "datascience", "hpc"]


@pytest.mark.parametrize("name", STACK)
def test_each_is_locked(name: str) -> None:
    """A lock is of what the definition asks for now, names everything once, and no place that it comes from."""
    lock = STACK[name].lock("amd64")
    assert lock.of == STACK.packages_digest(name), f"gridcloud image lock {name}"
    *below, image = STACK.chain(name)
    for parent in below:
        assert not lock.python.keys() & parent.lock("amd64").python.keys()
    assert "//" not in (image.folder / "lock.amd64.yaml").read_text(encoding="utf-8")
    locked = {canonicalize_name(one.split("==")[0]): one.split("==")[1] for one in lock.python}
    for line in image.definition.python:
        wanted = Requirement(line)
        version = locked[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version, prereleases=True)
    held = {one.split("=")[0] for one in lock.debian}
    assert set(image.definition.debian) - held <= {"ca-certificates", "e2fsprogs"}, "the base has these"


def test_sessions_have_the_jupyterhub_of_ours() -> None:
    within, ours = STACK["base"].lock("amd64").jupyterhub, metadata.version("jupyterhub")
    assert Version(within).release[:2] == Version(ours).release[:2], "gridcloud image lock base"
    assert "jupyterhub" in {Requirement(line).name for line in STACK["base"].definition.python}


@pytest.mark.parametrize("name", STACK)
def test_its_texts_are_programs(name: str) -> None:
    definition = STACK[name].definition
    for text in (definition.check, definition.caches):
        ast.parse(text, feature_version=(3, 11))
    subprocess.run(["sh", "-n"], input=definition.finish, text=True, check=True)
    if definition.role is Role.SESSION:
        assert "import" in definition.check


@pytest.mark.parametrize("script", sorted(SETUP.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_of_the_plainest_shell(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/bin/sh\n")
    assert re.search(r"^set -eu$", text, re.MULTILINE)
    subprocess.run(["sh", "-n", script], check=True)
