"""Kernels of Python that are ready before a run asks for one.

Another program (`kernels_fork`) has imported what kernels need, and what notebooks usually import; each
kernel is forked from it, asked whether it answers, and kept. A run takes one, and another is made in its
place. No kernel is used twice, so nothing of one run is found by the next but what both find on the disk.
They start as the pool was when it began: the same account, limits and environment, the same versions of what
was imported, and the same seed of Python's hashes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from gridcloud.errors import GridcloudError, TimedOut
from gridcloud.jobs.kernels import (
    FAREWELL,
    NATIVE,
    START,
    ColdKernels,
    Kernel,
    Kernels,
    await_ready,
    describe_ending,
    private_folder,
    quiet_end,
    remove_folder,
)

__all__ = ["KernelPool"]

USUAL = 2
"""Kernels kept ready: each holds about 15 MiB of its own."""


class KernelPool:
    """Kernels kept ready; a context that ends them. One for one account: whoever takes a kernel runs as it.

    ``modules`` are imported once for all: what starts threads when it is imported must not be among them.
    Kernels that are not Python's own here come from ``others``."""

    def __init__(self, size: int = USUAL, modules: Sequence[str] = (), others: Kernels | None = None) -> None:
        self._size = size
        self._modules = tuple(modules)
        self._others = others or ColdKernels()
        self._ready: asyncio.Queue[_WarmKernel | Exception] = asyncio.Queue()
        self._kernels: dict[int, _WarmKernel] = {}
        self._asked: dict[str, asyncio.Future[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._leaving = False

    async def __aenter__(self) -> Self:
        self._folder = private_folder()
        words = [sys.executable, "-m", "gridcloud.jobs.kernels_fork", *self._modules]
        variables = {**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        pipe = subprocess.PIPE
        self._server = await asyncio.create_subprocess_exec(
            *words, stdin=pipe, stdout=pipe, env=variables, cwd=self._folder, start_new_session=True
        )
        self._listening = asyncio.create_task(self._listen())
        for _ in range(self._size):
            self._refill()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leaving = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for kernel in list(self._kernels.values()):
            await kernel.end(now=True)
        if self._server.stdin is not None:
            self._server.stdin.close()
        try:
            async with asyncio.timeout(FAREWELL):
                await self._listening
                await self._server.wait()
        except TimeoutError:
            self._server.kill()
            await self._server.wait()
        self._listening.cancel()
        remove_folder(self._folder)

    async def start(self, name: str, *, folder: Path, environment: Mapping[str, str]) -> Kernel:
        """Take a kernel that is ready, or wait for one; a few milliseconds. Raises as `Kernels.start`."""
        if name != NATIVE:
            return await self._others.start(name, folder=folder, environment=environment)
        while True:
            # Where others are ready the next is made when this one ends: both at once would take longer.
            later = self._ready.qsize() > 1
            if not later:
                self._refill()
            kernel = await self._ready.get()
            if isinstance(kernel, Exception):
                raise kernel
            if await kernel.is_alive():
                kernel.is_replaced = not later
                break
            await kernel.end(now=True)
        async with quiet_end(kernel):
            await kernel.prepare(folder, environment)
        return kernel

    @property
    def pid(self) -> int:
        """The process that kernels are forked from."""
        return self._server.pid

    @property
    def ready(self) -> int:
        """How many kernels wait to be taken."""
        return self._ready.qsize()

    def _refill(self) -> None:
        task = asyncio.create_task(self._make())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make(self) -> None:
        try:
            self._ready.put_nowait(await self._fork())
        except Exception as error:  # whoever waits for a kernel is told
            self._ready.put_nowait(error)

    async def _fork(self) -> _WarmKernel:
        from jupyter_client import AsyncKernelClient  # type: ignore[attr-defined]
        from jupyter_client.connect import write_connection_file

        self._numbers += 1
        file = str(self._folder / f"{self._numbers}.json")
        place, key = file.removesuffix(".json"), secrets.token_hex(32).encode()
        _, connection = write_connection_file(file, transport="ipc", ip=place, key=key)
        begun = self._asked[file] = asyncio.get_running_loop().create_future()
        try:
            self._send(connection=file)
            async with asyncio.timeout(START):
                pid = await begun
        except TimeoutError:
            raise TimedOut(f"No kernel could be forked within {START:g} s.") from None
        finally:
            del self._asked[file]
        client: Any = AsyncKernelClient()
        client.load_connection_info(connection)
        kernel = _WarmKernel(self, pid, client, file)
        self._kernels[pid] = kernel
        async with quiet_end(kernel):
            client.start_channels(hb=False, stdin=False)
            await await_ready(kernel, START)
        return kernel

    async def _listen(self) -> None:
        """Take what the other program says, until it ends."""
        output = self._server.stdout
        while output is not None and (line := await output.readline()):
            told = json.loads(line)
            if "begun" in told:
                asked = self._asked.get(told["connection"])
                if asked is not None and not asked.done():
                    asked.set_result(told["begun"])
            elif (kernel := self._kernels.get(told["ended"])) is not None:
                kernel.note_end(told["status"])
        for kernel in self._kernels.values():
            kernel.note_end(None)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(GridcloudError("The program that kernels are forked from has ended."))

    def _send(self, **order: Any) -> None:
        if self._server.returncode is not None or self._server.stdin is None or self._listening.done():
            raise GridcloudError("The program that kernels are forked from has ended.")
        self._server.stdin.write(json.dumps(order).encode() + b"\n")

    def signal(self, pid: int, number: int) -> None:
        """Send a kernel of this pool a signal, if it still is."""
        with contextlib.suppress(GridcloudError):
            self._send(signal=pid, number=number)

    def forget(self, pid: int, file: str) -> None:
        """Remove what was kept of a kernel that ended, and make another in its place."""
        kernel = self._kernels.pop(pid, None)
        if kernel is not None and not kernel.is_replaced and not self._leaving:
            self._refill()
        stem = Path(file).stem
        for path in (Path(file), *self._folder.glob(f"{stem}-*")):
            path.unlink(missing_ok=True)


class _WarmKernel:
    """A kernel that was forked."""

    def __init__(self, pool: KernelPool, pid: int, client: Any, file: str) -> None:
        self.client = client
        self.pid = pid
        self._pool = pool
        self._file = file
        self.is_replaced = True
        """Whether another was made in its place."""
        self._gone = asyncio.Event()
        self._status: int | None = None
        self._ended = False

    def note_end(self, status: int | None) -> None:
        """Note that its process ended, and how."""
        self._status = status
        self._gone.set()

    async def prepare(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Give it its folder and environment. Raises GridcloudError."""
        code = (
            f"__import__('os').chdir({str(folder)!r}); __import__('os').environ.update({dict(environment)!r})"
        )
        reply = await self.client.execute_interactive(
            code,
            silent=True,
            store_history=False,
            allow_stdin=False,
            timeout=START,
            output_hook=lambda _: None,
        )
        if reply["content"]["status"] != "ok":
            raise GridcloudError(
                f"The folder {folder} cannot be worked in: {reply['content'].get('evalue', '')}"
            )

    async def is_alive(self) -> bool:
        return not self._gone.is_set()

    async def interrupt(self) -> None:
        self._pool.signal(self.pid, signal.SIGINT)

    async def end(self, *, now: bool = False) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            if not now and not self._gone.is_set():
                self.client.shutdown()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._gone.wait(), FAREWELL)
            if not self._gone.is_set():
                self._pool.signal(self.pid, signal.SIGKILL)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._gone.wait(), FAREWELL)
        finally:
            self.client.stop_channels()
            self._pool.forget(self.pid, self._file)

    def ending(self) -> str:
        return describe_ending(self._status)
