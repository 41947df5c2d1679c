"""What `gridcloud demo` brings along; that it works is tried in `tests/examples`, on every kind of provider."""

from __future__ import annotations

from gridcloud.cli.demo import example_folder


def test_example_is_found_and_whole() -> None:
    folder = example_folder()
    assert {"foam.ipynb", "foam.py"} <= {path.name for path in folder.iterdir()}
