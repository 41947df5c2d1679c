"""Kernels that run notebooks: which one a notebook asks for, and one started for it alone.

A kernel is used by one run. `ColdKernels` starts its process when the run begins, `kernels_pool.KernelPool`
had it ready before. Either is reached through sockets in a private folder where the kernel can do that (those
of Python can), for what listens on a port is reached by every account of the computer."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from queue import Empty
from typing import Any, Protocol

from gridcloud.errors import GridcloudError, InvalidRequest, NotFound, TimedOut
from gridcloud.jobs.notebooks import Notebook, language_of

__all__ = [
    "ColdKernels",
    "Kernel",
    "Kernels",
    "await_ready",
    "choose_kernel",
    "describe_ending",
    "private_folder",
    "quiet_end",
    "remove_folder",
]

START = 60.0
"""Seconds that a kernel may take to answer."""
FAREWELL = 20.0
"""Seconds that a kernel may take to end once it is asked to: it writes what it holds of open files.

More than the ten that ipykernel 7 now and then waits for a thread of its own that has ended.
"""
PREFIX = "gcnb-"
YOUNG = 60
"""Seconds after which a folder of sockets has been locked by who made it."""
NATIVE = "python3"
"""The kernel of the Python that runs this, which every Jupyter knows by this name."""


class Kernel(Protocol):
    """One kernel, ready, with nothing run in it yet."""

    client: Any
    """Its `jupyter_client.AsyncKernelClient`, whose channels are open."""
    pid: int
    """Its process; 0 where it has none here."""

    async def is_alive(self) -> bool:
        """Return whether its process runs."""

    async def interrupt(self) -> None:
        """Interrupt what it runs, as the square button does."""

    async def end(self, *, now: bool = False) -> None:
        """End it and whatever it started: asked to first, so that it closes its files, unless `now`. May be
        called twice.
        """

    def ending(self) -> str:
        """Return how its process ended, in words such as `ended by signal 9 (SIGKILL)`; empty where nobody
        knows.
        """


class Kernels(Protocol):
    """Where kernels come from."""

    async def start(self, name: str, *, folder: Path, environment: Mapping[str, str]) -> Kernel:
        """Return a kernel by its name that works in this folder, with these variables added to its
        environment.

        Raises NotFound when no kernel has the name, TimedOut or GridcloudError when it does not start.
        """


class ColdKernels:
    """Kernels whose process is started for the run."""

    async def start(self, name: str, *, folder: Path, environment: Mapping[str, str]) -> Kernel:
        """Start one: half a second for Python's. Raises as `Kernels.start`."""
        from jupyter_client import AsyncKernelManager  # type: ignore[attr-defined]
        from jupyter_client.kernelspec import NoSuchKernel

        sockets = private_folder()
        manager: Any = AsyncKernelManager(kernel_name=name, connection_file=str(sockets / "kernel.json"))
        try:
            try:
                language = str(manager.kernel_spec.language).lower()
            except NoSuchKernel:
                raise _missing(name) from None
            words = []
            if language == "python":
                # Kernels of other languages do not all know how such sockets are called.
                manager.transport = "ipc"
                words = ["--HistoryManager.hist_file=:memory:"]
            variables = {**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1", **environment}
            await manager.start_kernel(cwd=str(folder), env=variables, extra_arguments=words)
            kernel = _ColdKernel(manager, sockets)
        except BaseException:
            remove_folder(sockets)
            raise
        try:
            kernel.client.start_channels()
            await await_ready(kernel, START)
        except BaseException:
            await kernel.end(now=True)
            raise
        return kernel


class _ColdKernel:
    """A kernel under `jupyter_client`'s own manager."""

    def __init__(self, manager: Any, sockets: Path) -> None:
        self.client: Any = manager.client()
        self._manager = manager
        self._sockets = sockets
        self._process: Any = getattr(manager.provisioner, "process", None)
        self.pid: int = getattr(self._process, "pid", None) or 0
        self._group: int | None = getattr(manager.provisioner, "pgid", None)
        self._ended = False

    async def is_alive(self) -> bool:
        return bool(await self._manager.is_alive())

    async def interrupt(self) -> None:
        with contextlib.suppress(RuntimeError):  # it ended meanwhile
            await self._manager.interrupt_kernel()

    async def end(self, *, now: bool = False) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            if await self._manager.is_alive():
                self._manager.shutdown_wait_time = FAREWELL
                await self._manager.shutdown_kernel(now=now)
            await self._manager.cleanup_resources()
        finally:
            self.client.stop_channels()
            if self._group and self._group != os.getpgid(0):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._group, signal.SIGKILL)  # what it started and did not end
            remove_folder(self._sockets)

    def ending(self) -> str:
        return describe_ending(self._process.poll() if self._process else None)


def choose_kernel(notebook: Notebook, name: str = "") -> str:
    """Return the name of the kernel that runs a notebook: the one given, that of its metadata, or one of its
    language.

    A notebook that names a kernel which is not installed here is refused, and not run by another that happens
    to be of the same language: what it imports would be missing, or another version. Raises NotFound, naming
    those there are."""
    from jupyter_client.kernelspec import KernelSpecManager

    wanted = name or str(notebook.get("metadata", {}).get("kernelspec", {}).get("name") or "")
    if wanted == NATIVE:
        return NATIVE
    manager = KernelSpecManager()
    installed: dict[str, str] = manager.find_kernel_specs()
    if wanted:
        if wanted.lower() not in {one.lower() for one in installed}:
            raise _missing(wanted, installed)
        return wanted
    language = language_of(notebook)
    if language == "python":
        return NATIVE
    for one in sorted(installed):
        if str(manager.get_kernel_spec(one).language).lower() == language:
            return one
    raise _missing(language, installed)


async def await_ready(kernel: Kernel, seconds: float) -> None:
    """Return once a kernel answers and what it prints arrives here. Raises TimedOut, or GridcloudError when
    it ended.

    `jupyter_client` waits until nothing has come for 0.2 s, which is longer than a short notebook takes; here
    the kernel's own word that it is idle is waited for."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        asked = kernel.client.kernel_info()
        with contextlib.suppress(Empty):
            await _answer(kernel.client.get_shell_msg, asked, "kernel_info_reply", 1.0)
            await _answer(kernel.client.get_iopub_msg, asked, "status", 0.2)
            return
        if not await kernel.is_alive():
            raise GridcloudError(f"The kernel did not start: its process {kernel.ending() or 'ended'}.")
    raise TimedOut(f"The kernel did not answer within {seconds:g} s.")


def describe_ending(returned: int | None) -> str:
    """Return a process's exit code, as `subprocess` has it, in words; empty where there is none."""
    if returned is None:
        return ""
    if returned >= 0:
        return f"ended with exit status {returned}"
    try:
        return f"ended by signal {-returned} ({signal.Signals(-returned).name})"
    except ValueError:
        return f"ended by signal {-returned}"


def private_folder() -> Path:
    """Return a new folder for sockets that only this account enters; a socket's path has 107 bytes at most.

    It is locked as long as this process lives. Those that nobody locks are of processes that were killed, and
    are removed."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    fits = runtime and len(runtime.encode()) < 60 and os.access(runtime, os.W_OK)
    base = Path(runtime if fits else tempfile.gettempdir())
    for path in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if found.st_uid == os.getuid() and time.time() - found.st_ctime > YOUNG:
                os.close(_lock(path))
                shutil.rmtree(path, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    _locks[made] = _lock(made)
    return made


def remove_folder(folder: Path) -> None:
    """Remove a folder that `private_folder` made."""
    shutil.rmtree(folder, ignore_errors=True)
    if (lock := _locks.pop(folder, None)) is not None:
        os.close(lock)


@contextlib.asynccontextmanager
async def quiet_end(kernel: Kernel) -> AsyncIterator[None]:
    """Kill the kernel when what is done within fails or is cancelled."""
    try:
        yield
    except BaseException:
        await kernel.end(now=True)
        raise


_locks: dict[Path, int] = {}


def _lock(folder: Path) -> int:
    """Lock a folder until what is returned is closed. Raises BlockingIOError when another process has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


async def _answer(get: Any, asked: str, kind: str, seconds: float) -> None:
    """Wait for a message of a kind that answers what was asked; of a status, for `idle`. Raises
    `queue.Empty`.
    """
    while True:
        message = await get(timeout=seconds)
        if message["parent_header"].get("msg_id") != asked or message["msg_type"] != kind:
            continue
        if kind != "status" or message["content"].get("execution_state") == "idle":
            return


def _missing(name: str, installed: Mapping[str, str] | None = None) -> NotFound:
    if installed is None:
        from jupyter_client.kernelspec import KernelSpecManager

        installed = KernelSpecManager().find_kernel_specs()
    return NotFound(
        f"No kernel {name[:100]!r} is installed here.",
        remedy=f"There are: {', '.join(sorted(installed)) or 'none'}; choose one with --kernel NAME.",
    )


if not sys.platform.startswith(
    ("linux", "darwin")
):  # pragma: no cover - said at import, not in the middle of a run
    raise InvalidRequest("Notebooks are run on Unix only.")
