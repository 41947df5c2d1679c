"""A command within a pod: the near end of what `relay_commands` runs."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

from gridcloud.connections.container_ports import Relaying
from gridcloud.connections.driver import Command, Process, TerminalSize
from gridcloud.connections.multiplexer import Streams
from gridcloud.connections.shell import signal_number
from gridcloud.errors import ConnectionLost, NotFound

__all__ = ["PodProcess"]

BLOCK = 1 << 16
_EXIT_CODE = re.compile(rb"[0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]")
_keys = itertools.count()


class PodProcess(Process):
    """A command. `start` makes it; ``lost`` is what to say when the connection ends first."""

    def __init__(self, control: Streams, output: Streams, error: Streams, terminal: bool, lost: str) -> None:
        self._control, self._output, self._error = control, output, error
        self._terminal, self._lost = terminal, lost
        self.on_close: Callable[[PodProcess], None] | None = None
        self._input_closed = False
        self._reading = 2
        self._following = asyncio.ensure_future(self._follow())
        self._following.add_done_callback(lambda task: task.cancelled() or task.exception())

    @classmethod
    async def start(cls, relaying: Relaying, command: Command, directory: str, lost: str) -> PodProcess:
        """Start a command. Raises NotFound without its working directory, ConnectionLost."""
        key = str(next(_keys))
        size = [command.terminal.columns, command.terminal.rows] if command.terminal else None
        wanted = {
            "words": command.words, "environment": dict(command.environment), "directory": directory, "terminal": size,
            "raw": command.raw,
        }  # fmt: skip
        opened: list[Streams] = []
        try:
            control = await relaying.dial({"channel": "control", "command": key})
            opened.append(control)
            text = json.dumps(wanted).encode()
            control[1].write(f"{len(text):08d}".encode() + text)
            said = (await control[0].readline()).strip()
            if said == b"no-directory":
                raise NotFound(f"There is no folder {directory!r} to work in.", remedy="Make it first.")
            if said != b"started":
                raise ConnectionLost(lost)
            output = await relaying.dial({"channel": "output", "command": key})
            opened.append(output)
            error = await relaying.dial({"channel": "error", "command": key})
            return cls(control, output, error, command.terminal is not None, lost)
        except (OSError, ValueError) as cut:  # a line without an end is a ValueError
            _close(opened)
            raise ConnectionLost(lost) from cut
        except BaseException:
            _close(opened)
            raise

    async def write(self, data: bytes) -> None:
        writer = self._output[1]
        if self._following.done() or self._input_closed or writer.transport.is_closing():
            return
        writer.write(data)
        draining = asyncio.ensure_future(writer.drain())
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
        else:
            _end(self._output[1])
        self._input_closed = True

    def stdout(self) -> AsyncIterator[bytes]:
        return self._chunks(self._output[0])

    def stderr(self) -> AsyncIterator[bytes]:
        return self._chunks(self._error[0])

    async def wait(self) -> int:
        return await asyncio.shield(self._following)

    async def signal(self, name: str) -> None:
        number = signal_number(name)
        await self._order(f"signal {number.name.removeprefix('SIG')}\n")

    async def resize(self, size: TerminalSize) -> None:
        """Set the terminal's size."""
        if self._terminal:
            await self._order(f"resize {size.columns} {size.rows}\n")

    async def abandon(self) -> None:
        """Let go of the streams; what runs is ended by the far end."""
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        self._close()

    async def _order(self, line: str) -> None:
        writer = self._control[1]
        if self._following.done() or writer.transport.is_closing():
            return
        try:
            writer.write(line.encode())
            await writer.drain()
        except OSError:
            return  # it has just ended

    async def _follow(self) -> int:
        try:
            words = (await self._control[0].readline()).split()
        except (OSError, ValueError):
            words = []
        # Whoever runs there may have replaced the relay: what no process ends with is not believed.
        if len(words) != 2 or words[0] != b"exit" or not _EXIT_CODE.fullmatch(words[1]):
            raise ConnectionLost(self._lost)
        self._control[1].close()
        if not self._terminal:
            _end(self._output[1])  # its input; nobody reads that any more
        self._input_closed = True
        return int(words[1])

    async def _chunks(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        try:
            while data := await reader.read(BLOCK):
                yield data
        except OSError:
            return  # cut; `wait` tells of it
        finally:
            self._reading -= 1
            if (
                self._reading == 0
            ):  # read to the end or given up: nothing is kept open for it once it has ended
                self._following.add_done_callback(lambda _: self._close())

    def _close(self) -> None:
        _close([self._control, self._output, self._error])
        if self.on_close is not None:
            self.on_close(self)


def _end(writer: Any) -> None:
    try:
        if writer.can_write_eof() and not writer.is_closing():
            writer.write_eof()
    except OSError:
        return  # it has ended already


def _close(opened: list[Streams]) -> None:
    for _, writer in opened:
        writer.close()
