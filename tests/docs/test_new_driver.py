"""The driver that the guide shows keeps the contract of instance providers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import blocks, private_environment
from tests.house.source import ROOT

PAGE = ROOT / "docs" / "guide" / "new-driver.md"


@pytest.mark.timeout(180)
def test_shown_driver_keeps_the_contract(tmp_path: Path) -> None:
    program = "\n\n".join("\n".join(block.lines) for block in blocks(PAGE) if block.language == "python")
    (tmp_path / "test_folders.py").write_text(program, encoding="utf-8")
    run = subprocess.run(
        [
            sys.executable,
            *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"),
            *("-c", os.devnull, "--rootdir", str(tmp_path), "test_folders.py"),
        ],
        cwd=tmp_path,
        env=private_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout, run.stdout
