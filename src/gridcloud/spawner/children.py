"""Processes that are started again when they die, with their output in log files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from gridcloud.errors import GridcloudError

__all__ = ["Child", "Report"]

Report = Callable[[str], None]

TIED = Path(__file__).with_name("tied.py")
LOG_BYTES = 10 << 20
LOGS = 3
FIRST_PAUSE, LONGEST_PAUSE, LONG_LIFE = 0.2, 30.0, 60.0
"""Seconds before the first restart, at most between two, and of a life after which the count begins anew."""


class Child:
    """One process. `start` returns once it is ready; from then on it is kept alive until `stop`.

    ``again`` is called whenever it had to be started again; it raises GridcloudError where that did not help.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        *,
        log: Path,
        report: Report,
        ready: Callable[[], Awaitable[bool]],
        again: Callable[[], Awaitable[None]] | None = None,
        environment: Mapping[str, str] | None = None,
        patience: float = 60.0,
        grace: float = 10.0,
    ) -> None:
        self.name = name
        self.log = log
        self._words = [sys.executable, "-I", "-S", str(TIED), str(os.getpid()), *words]
        self._report = report
        self._ready = ready
        self._again = again
        self._environment = {**os.environ, **(environment or {})}
        self._patience = patience
        self._grace = grace
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready_again = asyncio.Event()

    @property
    def pid(self) -> int:
        """The process id now; 0 while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    async def start(self) -> None:
        """Start it and return when it is ready. Raises GridcloudError with its last words when it never is."""
        try:
            await self._launch()
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def stop(self) -> None:
        """End it and keep it so. May be called twice."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace):
                    await process.wait()
                return

    async def renew(self) -> None:
        """Have it end in order and be started again; return when it is back. Raises TimeoutError."""
        process = self._process
        self._ready_again.clear()
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(self._grace):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        async with asyncio.timeout(self._patience):
            await self._ready_again.wait()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _launch(self) -> None:
        process = self._process = await self._execute()
        deadline = time.monotonic() + self._patience
        while not await self._ready():
            if process.returncode is not None:
                raise GridcloudError(
                    f"The {self.name} ended as soon as it was started: {self._last_words()}",
                    remedy=f"See {self.log}.",
                )
            if time.monotonic() > deadline:
                raise GridcloudError(
                    f"The {self.name} does not answer after {self._patience:g} s.",
                    remedy=f"See {self.log}; on a computer that is busy, set 'starting' of 'hub' to more.",
                )
            await asyncio.sleep(0.05)
        self._ready_again.set()

    async def _execute(self) -> asyncio.subprocess.Process:
        self._rotate()
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            return await asyncio.create_subprocess_exec(
                *self._words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for us, who end them in order
            )
        finally:
            os.close(descriptor)

    async def _keep(self) -> None:
        pause, born = FIRST_PAUSE, time.monotonic()
        while True:
            process = self._process
            if process is not None:
                await self._watch(process)
                self._report(f"The {self.name} ended ({_how(process.returncode)}); it is started again.")
            if time.monotonic() - born > LONG_LIFE:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause, born = min(pause * 2, LONGEST_PAUSE), time.monotonic()
            try:
                await self._launch()
                if self._again is not None:
                    await self._again()
                self._report(f"The {self.name} is back.")
            except GridcloudError as error:
                self._report(str(error))
                await self._give_up()

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Return when the process has ended; keep its log short meanwhile."""
        while process.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(60):
                    await process.wait()
            self._rotate()

    async def _give_up(self) -> None:
        self.kill()
        if self._process is not None:
            await self._process.wait()

    def _rotate(self) -> None:
        """Put a log that has grown long aside. It is copied and emptied: the process has it open for appending."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size < LOG_BYTES:
                return
            for number in range(LOGS - 1, 0, -1):
                older = self.log.with_name(f"{self.log.name}.{number}")
                if older.exists():
                    older.replace(self.log.with_name(f"{self.log.name}.{number + 1}"))
            shutil.copy2(self.log, self.log.with_name(f"{self.log.name}.1"))
            os.truncate(self.log, 0)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            text = self.log.read_bytes()[-4096:].decode(errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines:
                return lines[-1][:500]
        return "it said nothing."


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
