"""The program that kernels of Python are forked from: it has imported what they need, and runs nothing
itself.

    python -m gridcloud.jobs.kernels_fork [MODULE …]

One JSON document a line. It reads ``{"connection": FILE}`` and answers ``{"begun": PID, "connection":
FILE}``; when a kernel ends it says ``{"ended": PID, "status": N}``, negative for a signal. ``{"signal": PID,
"number": N}`` sends one, if that kernel still is. When its input ends, it ends its kernels and itself; the
kernels end with it, however it ends. What no two kernels may share is made anew in each: session and process
group, signals, seeds of random numbers."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["main"]

NEEDED = (
    "ipykernel.debugger",
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "ipykernel.zmqshell",
    "IPython.core.completer",
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "matplotlib_inline",
    "pydoc",
    "runpy",
    "sqlite3",
    "tornado.gen",
    "tornado.platform.asyncio",
    "tornado.queues",
)
"""What a kernel imports when it begins, as far as it is there."""
DEBUGGER = "debugpy"
"""Nobody debugs a run, and it takes longer to import than all else; a notebook may still import it itself."""
PARENT_DEATH_SIGNAL = 1
"""``PR_SET_PDEATHSIG`` of ``prctl(2)``."""
ENDING = 5.0
"""Seconds that the thread which was asked to end may take to answer."""
INLINE = "module://matplotlib_inline.backend_inline"


def main(modules: Sequence[str]) -> int:
    """Serve until standard input ends."""
    # Where this was started is not where kernels find modules: each adds its own folder.
    sys.path[:] = [one for one in sys.path if one and Path(one).resolve() != Path.cwd()]
    orders, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    # Matplotlib takes its backend when it is imported, which may be here; a kernel sets it only later.
    os.environ.setdefault("MPLBACKEND", INLINE)
    sys.modules[DEBUGGER] = None  # type: ignore[assignment]
    for name in NEEDED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    del sys.modules[DEBUGGER]
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # a library may raise anything as it is imported; kernels go without it
            print(f"{name} cannot be imported for notebooks: {error}", file=sys.stderr)
    if threading.active_count() > 1:
        names = ", ".join(one.name for one in threading.enumerate()[1:])
        print(
            f"what is imported for notebooks has started threads, which kernels lack: {names}",
            file=sys.stderr,
        )
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: for whom we work, to decide
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    gc.collect()
    gc.freeze()  # pages that the collector does not touch stay shared
    _Server(orders, answers, wake, (nothing, waker)).serve()
    return 0


class _Server:
    def __init__(self, orders: int, answers: int, wake: int, others: Sequence[int]) -> None:
        self._orders = orders
        self._answers = answers
        self._wake = wake
        self._others = others
        self._kernels: set[int] = set()

    def serve(self) -> None:
        waiting = b""
        while True:
            ready, _, _ = select.select([self._orders, self._wake], [], [])
            if self._wake in ready:
                os.read(self._wake, 4096)
                self._reap()
            if self._orders not in ready:
                continue
            data = os.read(self._orders, 65536)
            if not data:
                break
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                if "connection" in order:
                    self._begin(order["connection"])
                elif order["signal"] in self._kernels:
                    _send(order["signal"], order["number"])
        for pid in self._kernels:
            _send(pid, signal.SIGKILL)

    def _begin(self, connection: str) -> None:
        server = os.getpid()
        pid = os.fork()
        if pid:
            self._kernels.add(pid)
            self._say(begun=pid, connection=connection)
            return
        for one in (self._orders, self._answers, self._wake, *self._others):
            os.close(one)
        _become_kernel(connection, server)

    def _reap(self) -> None:
        """Tell of each kernel that ended, and end what it left: before its number may be another's."""
        while self._kernels:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                return
            _send(found.si_pid, signal.SIGKILL)
            _, status = os.waitpid(found.si_pid, 0)
            self._kernels.discard(found.si_pid)
            self._say(ended=found.si_pid, status=os.waitstatus_to_exitcode(status))

    def _say(self, **document: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._answers, json.dumps(document).encode() + b"\n")


def _become_kernel(connection: str, parent: int) -> NoReturn:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before that was asked for
            sys.exit(1)
    _seed()
    from ipykernel.kernelapp import IPKernelApp

    words = ["-f", connection, "--HistoryManager.hist_file=:memory:", f"--IPKernelApp.parent_handle={parent}"]
    sys.argv = ["ipykernel_launcher", "-f", connection]
    app: Any = IPKernelApp.instance()
    app.initialize(words)
    app.start()
    # It still flushes what was printed, through a thread that ends with us: it would wait ten seconds for it.
    app.control_thread.join(ENDING)
    _leave(app)


def _leave(app: Any) -> NoReturn:
    """End as Python ends, but do not take apart what was imported.

    It is shared with all kernels: taking it apart copies most of it, which takes longer than a short
    notebook. What the notebook made is let go of first, so that its objects end as they do elsewhere; files
    that are open yet are flushed.
    """
    shutdown = getattr(threading, "_shutdown", None)
    if shutdown is not None:
        shutdown()  # threads that are waited for, pools of them first
    atexit._run_exitfuncs()
    app.shell.user_ns.clear()
    app.shell.user_ns_hidden.clear()
    sys.last_value = sys.last_traceback = None
    gc.collect()
    for one in gc.get_objects():
        if isinstance(one, io.TextIOWrapper | io.BufferedWriter | io.BufferedRandom):
            with contextlib.suppress(Exception):
                one.flush()
    ctypes.CDLL(None).exit(0)  # what libraries registered with C is done, too
    raise AssertionError


def _seed() -> None:
    """Give what draws random numbers a seed of its own; Python's `random` does so itself after a fork."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.seed()


def _send(pid: int, number: int) -> None:
    """Send a signal to a kernel; one that kills also to what it started. It has no group before it has made
    one.
    """
    for send in (os.kill, os.killpg) if number == signal.SIGKILL else (os.kill,):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
