"""What a session's JupyterLab is given: an extension that tells in time that the session ends, extends it, and saves.

``gridcloud-notice`` is a federated extension as JupyterLab 4 loads it, written by hand: nothing is built.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["lab_files"]

HERE = Path(__file__).parent

EXTENSION = ("gridcloud-notice/package.json", "gridcloud-notice/static/remoteEntry.3.js")
"""The number in the last name is to change with its text: browsers keep it for long."""


@cache
def lab_files() -> dict[str, str]:
    """Return the extension's files by their paths below a folder for JupyterLab's extensions."""
    return {path: (HERE / path).read_text() for path in EXTENSION}
