"""What is said when Podman is not there, or a build fails: a program stands in for it that fails as it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridcloud.errors import ConfigurationFailed, DriverUnavailable
from gridcloud.images import Podman

FAILING = """#!/bin/sh
case "$1" in
    image) exit 1 ;;
    build) seq 30; echo "no space left on device" >&2; exit 125 ;;
    *) echo "$@" ;;
esac
"""


async def test_a_missing_program_is_named() -> None:
    with pytest.raises(DriverUnavailable, match="no 'no-such-podman' on this computer"):
        await Podman("no-such-podman").find("x")


async def test_a_build_that_fails_says_its_last_words(tmp_path: Path) -> None:
    program = tmp_path / "podman"
    program.write_text(FAILING)
    program.chmod(0o755)
    podman, told = Podman(str(program)), list[str]()
    assert await podman.find("x") == ""
    with pytest.raises(ConfigurationFailed, match="no space left on device") as caught:
        await podman.build(tmp_path, {}, (), told.append)
    assert "\n29\n" in str(caught.value)
    assert "\n3\n" not in str(caught.value)
    assert told[0] == "1"
    assert await podman.run(["tag", "a", "b; id"], told.append) == "tag a b; id"
