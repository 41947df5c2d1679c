"""Run a program that ends with the process that started it: ``tied.py PARENT WORDS…``.

It stands alone, and is run as a file, so that it starts at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["main"]

PR_SET_PDEATHSIG = 1


def main(parent: int, words: list[str]) -> None:
    """Become the program; the kernel sends it SIGTERM when ``parent`` dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before
        sys.exit(1)
    os.execv(words[0], words)  # noqa: S606 - no shell


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
