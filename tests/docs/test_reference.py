"""The generated reference is what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.docs.pages import private_environment
from tests.house.source import ROOT


def test_reference_is_what_the_code_says(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reference.py"), "--check"],
        cwd=tmp_path,
        env=private_environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
