"""Where Ansible's processes ask for what is to be done on the machine: a Unix socket beside their private files.

Each visit is one order. Both sides send frames: one byte of kind, four of length (big endian), then data.

======  ===========  =====================================================================================
kind    from         data
======  ===========  =====================================================================================
``q``   Ansible      the order as JSON: ``{"do": "run", "line"}``, ``{"do": "put" or "get", "source", "target"}``
``i``   Ansible      standard input
``d``   Ansible      (empty) standard input has ended
``o``   gridcloud    standard output
``e``   gridcloud    standard error
``x``   gridcloud    it is done; the exit code in digits
``u``   gridcloud    the machine cannot be reached, in words
``n``   gridcloud    there is no such file, in words
``f``   gridcloud    it failed for another reason, in words
======  ===========  =====================================================================================

A visitor that hangs up ends its command.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

from gridcloud.configurers.commands import end_process
from gridcloud.connections.driver import Command, Connection, Process
from gridcloud.errors import GridcloudError, NotFound, Unreachable

__all__ = ["Door"]

_FRAME = struct.Struct(">cI")
_LONGEST = 1 << 24


class Door:
    """An open door: an asynchronous context manager. ``lost`` is what cut the connection, if anything did."""

    def __init__(self, connection: Connection, path: Path) -> None:
        self.lost: Unreachable | None = None
        self._connection = connection
        self._path = path
        self._visits: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._welcome, str(self._path))
        self._path.chmod(0o600)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for visit in self._visits:
            visit.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = asyncio.create_task(self._serve(reader, writer), name="ansible: one order")
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            kind, data = await _receive(reader)
            if kind != b"q":
                return
            await self._obey(json.loads(data), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            return  # it hung up, or is no Ansible of ours
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _obey(
        self, order: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            if order["do"] == "run":
                code = await self._run(order["line"], reader, writer)
            elif order["do"] == "put":
                code = await _done(self._connection.put(Path(order["source"]), order["target"]))
            else:
                code = await _done(self._connection.get(order["source"], Path(order["target"])))
        except Unreachable as error:
            self.lost = self.lost or error
            await _send(writer, b"u", str(error).encode())
        except NotFound as error:
            await _send(writer, b"n", str(error).encode())
        except (GridcloudError, OSError) as error:
            await _send(writer, b"f", str(error).encode())
        else:
            await _send(writer, b"x", str(code).encode())

    async def _run(self, line: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        process = await self._connection.start(Command(words=("/bin/sh", "-c", line)))
        listening = asyncio.create_task(_listen(reader, process))
        telling = [
            asyncio.create_task(_tell(process.stdout(), b"o", writer)),
            asyncio.create_task(_tell(process.stderr(), b"e", writer)),
        ]
        ending = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait({ending, listening}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                listening.result()  # it hung up: raises
            code = await ending
            # A service that the command has started may hold the pipes for ever.
            await asyncio.wait(telling, timeout=2)
            if code != 0:
                await self._connection.check()  # what a closing connection has ended did not fail by itself
            return code
        finally:
            await asyncio.shield(_leave(process, [listening, ending, *telling]))


async def _done(work: object) -> int:
    await work  # type: ignore[misc]
    return 0


async def _listen(reader: asyncio.StreamReader, process: Process) -> None:
    """Hand on standard input until the visitor hangs up."""
    while True:
        kind, data = await _receive(reader)
        if kind == b"i":
            await process.write(data)
        elif kind == b"d":
            await process.close_input()


async def _tell(chunks: AsyncIterator[bytes], kind: bytes, writer: asyncio.StreamWriter) -> None:
    async for chunk in chunks:
        await _send(writer, kind, chunk)


async def _leave(process: Process, tasks: list[asyncio.Task[None] | asyncio.Future[int]]) -> None:
    await end_process(process)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _receive(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind, length = _FRAME.unpack(await reader.readexactly(_FRAME.size))
    if length > _LONGEST:
        raise ValueError("a frame that is too long")
    return kind, await reader.readexactly(length)


async def _send(writer: asyncio.StreamWriter, kind: bytes, data: bytes) -> None:
    writer.write(_FRAME.pack(kind, len(data)) + data)
    await writer.drain()
