"""Who listens on this machine's ports, as the kernel says.

It travels to machines that have no gridcloud: Python 3.8 and its own library are all there is.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["listening"]

LISTENING = "0A"
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


def listening() -> dict[int, set[int]]:
    """Return the ports that are listened on, each with the numbers of the accounts that do. Nothing elsewhere than on
    Linux."""
    found: dict[int, set[int]] = {}
    for table in TABLES:
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == LISTENING:
                    found.setdefault(int(words[1].rpartition(":")[2], 16), set()).add(int(words[7]))
    return found
