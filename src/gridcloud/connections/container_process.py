"""A command within a container: an `exec` of the engine, and the stream that belongs to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from gridcloud.connections.driver import Process, TerminalSize
from gridcloud.connections.engine import Engine
from gridcloud.connections.shell import signal_number
from gridcloud.errors import (
    ConnectionLost,
    GridcloudError,
    NotFound,
    TimedOut,
    Transient,
    Unreachable,
)

__all__ = ["ContainerProcess", "Output", "drain"]

BUFFER = 1 << 20
"""Bytes of a stream kept while nobody reads it; then the process waits."""

ROOM = 1 << 16
"""Bytes of input kept before a writer has to wait."""

POLL = 2
"""Seconds, at most, after which a process is asked for, whose streams may be held open by what it left behind."""


class ContainerProcess(Process):
    """A command within a container. ``why_stopped`` says why the container does not run, "" when it does."""

    def __init__(
        self,
        engine: Engine,
        execution: str,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        terminal: bool,
        why_stopped: Callable[[], Awaitable[str]],
    ) -> None:
        self.session = 0
        self.on_close: Callable[[ContainerProcess], None] | None = None
        self.on_end: Callable[[], Awaitable[None]] | None = None
        self.on_signal: Callable[[str], Awaitable[None]] | None = None
        self._engine, self._execution, self._terminal, self._why_stopped = (
            engine,
            execution,
            terminal,
            why_stopped,
        )
        self._reader, self._writer = streams
        self._out, self._err = Output(), Output()
        self._input_closed = False
        self._pumping = asyncio.ensure_future(self._pump())
        self._following = asyncio.ensure_future(self._follow())
        self._following.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def write(self, data: bytes) -> None:
        if self._following.done() or self._input_closed:
            return
        if self._writer.transport.is_closing():
            return
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() < ROOM:
            return
        # An engine may stop reading what is meant for a process that has ended, without closing the stream.
        draining = asyncio.ensure_future(self._writer.drain())
        try:
            await asyncio.wait([draining, self._following], return_when=asyncio.FIRST_COMPLETED)
        finally:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)

    async def close_input(self) -> None:
        if self._input_closed:
            return
        if self._terminal:
            await self.write(b"\x04")  # a terminal has no end; this character says so
        elif not self._writer.is_closing():
            try:
                self._writer.write_eof()
            except OSError:
                pass  # ended already
        self._input_closed = True

    def stdout(self) -> AsyncIterator[bytes]:
        return self._out.chunks()

    def stderr(self) -> AsyncIterator[bytes]:
        return self._err.chunks()

    async def wait(self) -> int:
        return await asyncio.shield(self._following)

    async def signal(self, name: str) -> None:
        number = signal_number(name)
        if self.on_signal is not None and not self._following.done():
            await self.on_signal(number.name.removeprefix("SIG"))

    async def resize(self, size: TerminalSize) -> None:
        """Set the terminal's size."""
        if self._terminal and not self._following.done():
            query = {"h": size.rows, "w": size.columns}
            try:
                await self._engine.call("POST", f"/exec/{self._execution}/resize", query=query)
            except GridcloudError as error:
                if isinstance(error, Transient):
                    raise
                # it has just ended

    async def first_line(self) -> bytes:
        """Return the first line of output, at most 4 KiB, without its end; shorter when the output ended."""
        return (await self._out.line()).rstrip(b"\r\n")

    async def rest(self) -> bytes:
        """Return what else comes on both streams, shortened."""
        parts = await asyncio.gather(drain(self.stdout()), drain(self.stderr()))
        return "".join(parts).encode()

    async def abandon(self) -> None:
        """Let go of the streams; what runs is ended by the keeper."""
        self._following.cancel()
        self._pumping.cancel()
        self._writer.transport.abort()
        await asyncio.gather(self._following, self._pumping, return_exceptions=True)
        if self.on_close is not None:
            self.on_close(self)

    async def _pump(self) -> None:
        """Take apart the engine's stream: frames of stream (1 byte), three zeros, length (4), payload."""
        try:
            while True:
                if self._terminal:
                    data = await self._reader.read(1 << 16)
                    if not data:
                        return
                    await self._out.put(data)
                    continue
                header = await self._reader.readexactly(8)
                left = int.from_bytes(header[4:], "big")
                while left:
                    data = await self._reader.read(min(left, 1 << 16))
                    if not data:
                        return
                    left -= len(data)
                    await (self._err if header[0] == 2 else self._out).put(data)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the stream's end; `_follow` finds out what it means
        finally:
            self._out.end()
            self._err.end()

    async def _follow(self) -> int:
        """Find out how it ended: mostly at the end of its streams, which what it left behind may hold open."""
        waited, pause = 0.1, 0.005
        try:
            while True:
                if not self._pumping.done():
                    await asyncio.wait([self._pumping], timeout=(waited := min(waited * 2, POLL)))
                else:
                    await asyncio.sleep(pause := min(pause * 2, POLL))
                code = await self._exit_code()
                if code is not None:
                    return code
        finally:
            self._input_closed = True
            if self.on_end is not None:
                await self.on_end()
            if self._pumping.done():
                self._writer.transport.abort()
                if self.on_close is not None:
                    self.on_close(self)

    async def _exit_code(self) -> int | None:
        try:
            state = await self._engine.call("GET", f"/exec/{self._execution}/json")
            if state["Running"] or state.get("ExitCode") is None:
                return None
            code = int(state["ExitCode"])
            if code in (137, -1):  # killed: it alone, or its container?
                for pause in (0, 0.1, 0.3):
                    await asyncio.sleep(pause)
                    if why := await self._why_stopped():
                        raise ConnectionLost(why)
            return code
        except TimedOut:
            return None
        except ConnectionLost:
            raise
        except (NotFound, Unreachable) as error:
            raise ConnectionLost(f"A command's container no longer answers: {error}") from error


class Output:
    """One output, between what it comes from and its reader."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Give it to the reader; waits while much is unread."""
        self._chunks.append(data)
        self._size += len(data)
        self._changed.set()
        while self._size > BUFFER:
            self._room.clear()
            await self._room.wait()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._changed.set()

    async def chunk(self) -> bytes:
        """Return the next bytes, b"" at the end."""
        while not self._chunks and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if not self._chunks:
            return b""
        data = self._chunks.popleft()
        self._size -= len(data)
        self._room.set()
        return data

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what comes, until the end."""
        while data := await self.chunk():
            yield data

    async def line(self) -> bytes:
        """Return the next line with its end, or 4 KiB and more without one; shorter at the end."""
        taken = b""
        while b"\n" not in taken and len(taken) < 4096:
            data = await self.chunk()
            if not data:
                return taken
            taken += data
        line, end, rest = taken.partition(b"\n")
        if rest:
            self._chunks.appendleft(rest)
            self._size += len(rest)
        return line + end


async def drain(chunks: AsyncIterator[bytes]) -> str:
    """Read to the end; return the last 4 KiB as text."""
    kept = b""
    async for data in chunks:
        kept = (kept + data)[-4096:]
    return kept.decode(errors="replace")
