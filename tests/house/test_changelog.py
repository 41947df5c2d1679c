"""The fragments of the changelog have names that towncrier takes, and say something."""

from __future__ import annotations

import re

from tests.house.source import ROOT


def test_fragments_are_named_and_filled() -> None:
    for path in sorted((ROOT / "changelog.d").glob("*")):
        if path.name != "README.md":
            assert re.fullmatch(r"(\d+|\+[a-z0-9-]+)\.(added|changed|fixed|security)\.md", path.name), (
                path.name
            )
            assert path.read_text(encoding="utf-8").strip().endswith("."), f"{path.name}: write a sentence"
