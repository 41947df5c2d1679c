"""Find what a test left behind: tasks, processes, threads, open files."""

from __future__ import annotations

import asyncio
import asyncio.runners
import gc
import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

__all__ = ["Leftovers"]

MARK = "GRIDCLOUD_TEST_RUN"

# Threads that end with a loop of a wider scope, or belong to the test runner or a library's own pool.
KEPT_THREADS = (
    "asyncio_",
    "AnyIO worker",
    "pytest",
    "execnet",
    "ThreadPoolExecutor",
    "OpenBLAS",
    "IPythonHistory",
    "Tqdm",
)

# Seconds that what is ending may take to end; waited for only when something is still there.
GRACE = 3.0


class Leftovers:
    """What was there when a test began, and what is there beyond it when it ended.

    Processes are found by a mark in their environment, which a child of a child inherits even when its parents are
    gone, so a daemon counts as well. What cleans its environment is not seen.
    """

    def __init__(self) -> None:
        self._run = uuid.uuid4().hex
        self._others = _running()
        """What ran before: none of it is ours, and reading it anew for each test would take longer than many tests."""
        os.environ[MARK] = self._run
        self._tasks: list[str] = []
        self._before: dict[str, dict[Any, str]] | None = None
        self._original: Callable[..., None] = asyncio.runners._cancel_all_tasks  # type: ignore[attr-defined]
        # There is no public hook between the end of a program and the cancelling of what it forgot.
        asyncio.runners._cancel_all_tasks = self._cancel_all_tasks  # type: ignore[attr-defined]

    def begin(self) -> None:
        """Note what is there."""
        self._tasks.clear()
        self._before = self._look()

    def end(self) -> list[str]:
        """Return what is there beyond what was noted, in words; wait a little for what is ending."""
        tasks, self._tasks = self._tasks, []
        before, self._before = self._before, None
        if before is None:
            return tasks
        more = self._beyond(before)
        if more:
            gc.collect()
        until = time.monotonic() + GRACE
        while more and time.monotonic() < until:
            time.sleep(0.02)
            more = self._beyond(before)
        return tasks + more

    def forget(self) -> None:
        """Put back what was changed."""
        asyncio.runners._cancel_all_tasks = self._original  # type: ignore[attr-defined]
        os.environ.pop(MARK, None)

    def _cancel_all_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tasks += [f"task {task.get_coro()!r}" for task in asyncio.all_tasks(loop) if not task.done()]
        self._original(loop)

    def _look(self) -> dict[str, dict[Any, str]]:
        return {"thread": _threads(), "file": _files(), "process": self._processes()}

    def _processes(self) -> dict[Any, str]:
        mark = f"{MARK}={self._run}".encode()
        found: dict[Any, str] = {}
        there = _running()
        self._others &= there
        for entry in there - self._others:
            try:
                with open(f"/proc/{entry}/environ", "rb") as environment:
                    if mark not in environment.read().split(b"\0"):
                        continue
                with open(f"/proc/{entry}/cmdline", "rb") as line:
                    words = line.read().replace(b"\0", b" ").decode(errors="replace").strip()
                found[entry] = f"{entry} ({words[:120]})"
            except OSError:
                continue  # ended meanwhile, or somebody else's
        return found

    def _beyond(self, before: dict[str, dict[Any, str]]) -> list[str]:
        return [
            f"{kind} {name}"
            for kind, now in self._look().items()
            for key, name in now.items()
            if key not in before[kind]
        ]


def _threads() -> dict[Any, str]:
    return {
        thread.ident: thread.name
        for thread in threading.enumerate()
        if thread.is_alive() and not thread.name.startswith(KEPT_THREADS)
    }


def _files() -> dict[Any, str]:
    found: dict[Any, str] = {}
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue  # the listing's own descriptor, or one that closed meanwhile
        if not target.startswith(("/dev/", "/proc/", "/usr/", "/sys/")) and "site-packages" not in target:
            found[(descriptor, target)] = f"{descriptor} ({target})"
    return found


def _running() -> set[str]:
    return {entry for entry in os.listdir("/proc") if entry.isdecimal()} - {str(os.getpid())}
