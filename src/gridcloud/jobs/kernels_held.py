"""Kernels that are kept after a cell failed, so that a later run on the same computer goes on in them.

Who holds one writes how it is reached into a folder that only this account enters, under a name made from the
output's path: what an output says of itself is never followed, for it may come from anybody. Who goes on
locks that file meanwhile. The holder stays the kernel's parent: it ends it when its time is over, unless
somebody is in it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gridcloud.errors import GridcloudError
from gridcloud.jobs.kernels import FAREWELL, Kernel, await_ready

__all__ = ["announce_kernel", "take_kernel"]

ANSWER = 10.0
"""Seconds that a held kernel may take to answer."""


@contextlib.contextmanager
def announce_kernel(kernel: Kernel, output: Path) -> Iterator[Callable[[], bool]]:
    """Let others find the kernel that an output was made with; gives what says whether one has taken it."""
    file = _place(output)
    connection = kernel.client.get_connection_info()
    connection["key"] = bytes(connection["key"]).decode()
    document = {"connection": connection, "pid": kernel.pid, "began": _began(kernel.pid)}
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, json.dumps(document).encode())
        yield lambda: _is_locked(descriptor)
    finally:
        os.close(descriptor)
        file.unlink(missing_ok=True)


async def take_kernel(output: Path) -> Kernel | None:
    """Return the kernel that an output was made with where one is held and nobody else is in it; else
    None.
    """
    from jupyter_client import AsyncKernelClient  # type: ignore[attr-defined]

    try:
        descriptor = os.open(_place(output), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        document = json.loads(os.read(descriptor, 1 << 16))
        client: Any = AsyncKernelClient()
        connection = document["connection"]
        client.load_connection_info({**connection, "key": connection["key"].encode()})
        kernel = _HeldKernel(client, int(document["pid"]), document["began"], descriptor)
    except (OSError, ValueError, KeyError, TypeError):
        os.close(descriptor)
        return None
    try:
        if not await kernel.is_alive():
            raise GridcloudError("It ended.")
        client.start_channels(hb=False)
        await await_ready(kernel, ANSWER)
    except GridcloudError:
        await kernel.end(now=True)
        return None
    except BaseException:
        await kernel.end(now=True)
        raise
    return kernel


class _HeldKernel:
    """A kernel whose process is another's child: ended when all is done, left to who holds it when not."""

    def __init__(self, client: Any, pid: int, began: float, lock: int) -> None:
        self.client = client
        self.pid = pid
        self._began = began
        self._lock = lock
        self._left = False

    async def is_alive(self) -> bool:
        return self.pid > 0 and _began(self.pid) == self._began

    async def interrupt(self) -> None:
        import signal

        if await self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGINT)

    async def end(self, *, now: bool = False) -> None:
        import asyncio

        if self._left:
            return
        self._left = True
        try:
            if now:
                await self.interrupt()
            else:
                self.client.shutdown()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FAREWELL):
                        while await self.is_alive():  # noqa: ASYNC110 - it is nobody's child here
                            await asyncio.sleep(0.05)
        finally:
            self.client.stop_channels()
            os.close(self._lock)

    def ending(self) -> str:
        return ""


def _place(output: Path) -> Path:
    """The file for an output, in a folder of this account's."""
    from platformdirs import user_runtime_path

    folder = user_runtime_path("gridcloud") / "notebooks"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise GridcloudError(
            f"The folder {folder} can be entered by others.", remedy=f"Run: chmod 700 {folder}"
        )
    return folder / f"{hashlib.sha256(os.path.realpath(output).encode()).hexdigest()[:32]}.json"


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _began(pid: int) -> float:
    """When a process began, as the system counts; 0 where there is none, or it ended and is only
    remembered.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return 0.0
