"""Ties between processes that the kernel keeps: who ends with whom, and who gets orphans.

It travels to machines that have no gridcloud: Python 3.8 and its own library are all there is.
"""

from __future__ import annotations

import ctypes
import signal
import sys

__all__ = ["adopt_orphans", "be_killed_with_parent", "be_told_of_parents_end"]

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans() -> None:
    """Become the parent of processes below us whose parents end."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def be_told_of_parents_end() -> None:
    """Get SIGTERM when our parent ends, however it does."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def be_killed_with_parent() -> None:
    """Be killed when our parent ends; to be called in a new process before it becomes its program."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        LIBC.prctl(option, value, 0, 0, 0)


LIBC = ctypes.CDLL(None)
"""Loaded before any process is forked."""
