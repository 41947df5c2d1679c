"""The table of bad days names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tests_of_bad_days_exist() -> None:
    text = (ROOT / "docs" / "design" / "bad-days.md").read_text()
    named = set(re.findall(r"\btest_\w+", text))
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")))
    files = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    tests = set(re.findall(r"def (test_\w+)\(", sources))
    assert len(named) > 20
    assert not named - tests - files
