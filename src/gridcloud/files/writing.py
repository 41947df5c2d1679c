"""Writing a file of a share: it goes up while it is written, and appears whole when it is closed, or not at all."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

from gridcloud.files.links import Place
from gridcloud.files.wire import Wire, again, heard, refusal

Bytes: TypeAlias = bytes | bytearray | memoryview

__all__ = ["PART", "Writing", "in_folder", "put", "send_file"]

PART = 8 << 20
"""Bytes of one request of a file that is written; up to three are in memory."""

PIECE = 256 << 10
"""Bytes that are handed on at once."""

FAREWELLS = 5
"""How often a server is told, 0.2 s apart, that an upload was given up."""

CLOCKS = 2.0
"""Seconds by which a file's time may differ from the one it was given: servers keep whole ones."""


class Writing:
    """A file that is being written. ``fresh``: there is to be none yet."""

    def __init__(self, wire: Wire, place: Place, *, fresh: bool = False, part: int = PART) -> None:
        self._wire = wire
        self._place = place
        self._fresh = fresh
        self._part = part
        self._token = secrets.token_hex(16)
        self._buffer = bytearray()
        self._filled = 0
        self._spare = bytearray()
        """What was sent: fresh memory costs more than copying into it."""
        self._sent = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        """Bytes that were written."""
        return self._sent + self._filled

    @property
    def shown(self) -> str:
        """How the file is named to people."""
        return self._place.shown

    async def write(self, data: Bytes) -> None:
        """Add bytes. Raises what went wrong with those before, after which nothing helps but `abort`."""
        view = memoryview(data).cast("B")
        while view:
            if self._filled >= self._part:  # never the last: the last request says how long it all is
                await self._settle()
                part, self._buffer, self._spare = self._buffer, self._spare, self._buffer
                self._task = asyncio.create_task(self._send(memoryview(part), self._sent))
                self._task.add_done_callback(heard)
                self._sent += self._part
                self._filled = 0
            taken = min(len(view), self._part - self._filled)
            self._buffer[self._filled : self._filled + taken] = view[:taken]
            self._filled += taken
            view = view[taken:]

    async def finish(self) -> None:
        """Let the file appear. Raises FileExistsError where it is to be new and is not, PermissionError, OSError."""
        await self._settle()
        rest = memoryview(self._buffer)[: self._filled]
        if not self._sent:
            await put(self._wire, self._place, rest, fresh=self._fresh)
        else:
            await self._send(rest, self._sent, self.size)
        self._sent, self._filled = self.size, 0

    async def abort(self) -> None:
        """Forget it. What the server cannot be told of now, it forgets by itself after a day."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self._sent:
            for _ in range(FAREWELLS):  # it may not know yet that the last request was broken off
                with suppress(
                    Exception
                ):  # whatever it is, nobody is to be troubled with what is given up anyway
                    async with self._wire.ask("DELETE", self._place, query=f"upload={self._token}") as answer:
                        if answer.status < 500:
                            break
                await asyncio.sleep(0.2)
        self._sent = self._filled = 0

    async def _settle(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            await task

    async def _send(self, part: memoryview, first: int, size: int | None = None) -> None:
        when = time.time()

        async def work() -> None:
            span = f"bytes {first}-{first + len(part) - 1}/{'*' if size is None else size}"
            headers = (
                {"Content_Range": span, "X_OC_MTime": f"{when:.3f}"} | _condition(self._fresh) | _length(part)
            )
            query = f"upload={self._token}"
            async with self._wire.ask(
                "PUT", self._place, query=query, data=_pieces(part), **headers
            ) as answer:
                if answer.status in (201, 202, 204):
                    return
                offset = answer.headers.get("Upload-Offset", "")
                if answer.status != 409 or not offset:
                    raise await refusal(answer, self._place)
            # What came of an earlier try is less than what went before this part: the file is there, or all is lost.
            if size is None or not await _is_there(self._wire, self._place, size, when):
                raise OSError(errno.EIO, "The server lost what was sent before", self._place.shown)

        await in_folder(self._wire, self._place, lambda: again(work, self._place))


async def put(
    wire: Wire, place: Place, data: Bytes, *, fresh: bool = False, modified: float | None = None
) -> None:
    """Write a whole file by one request. Raises FileExistsError where it is to be new (``fresh``) and is not."""
    headers = _condition(fresh) | _length(data)
    if modified is not None:
        headers["X_OC_MTime"] = f"{modified:.3f}"

    async def work() -> None:
        async with wire.ask("PUT", place, data=_pieces(data) if len(data) else b"", **headers) as answer:
            if answer.status not in (201, 204):
                raise await refusal(answer, place)

    await in_folder(wire, place, lambda: again(work, place))


async def send_file(
    wire: Wire, place: Place, source: str, *, told: Callable[[int], object] = lambda size: None
) -> None:
    """Send a file of this computer; one that was cut off goes on where it was, in another run of the program too.

    ``told``: called with the bytes that are there, as they grow. Raises OSError with ESTALE where the file changes.
    """
    with os.fdopen(os.open(source, os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        size, modified = status.st_size, status.st_mtime
        if size <= PART:
            await put(wire, place, file.read(), modified=modified)
            told(size)
            return
        token = _token(place, status)
        offset = 0
        failed: list[Exception] = []

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal offset
            try:
                while offset < size:
                    data = os.pread(file.fileno(), PIECE, offset)
                    if not data:
                        raise OSError(errno.ESTALE, "It became shorter while it was sent", source)
                    yield data
                    offset += len(data)
                    told(offset)
            except Exception as error:
                # Ours, also what `told` raises to end it: the library would take it for a connection that broke.
                failed.append(error)
                raise

        async def work() -> None:
            nonlocal offset
            offset = await _offset(wire, place, token)
            if offset >= size:
                offset = 0
            if failed:
                raise failed[0]
            headers = {"Content_Range": f"bytes {offset}-{size - 1}/{size}", "X_OC_MTime": f"{modified:.3f}"}
            async with wire.ask(
                "PUT",
                place,
                query=f"upload={token}",
                data=pieces(),
                Content_Length=str(size - offset),
                **headers,
            ) as answer:
                if answer.status not in (201, 204):
                    raise await refusal(answer, place)

        await in_folder(wire, place, lambda: again(work, place, lambda: offset))
        if os.stat(source).st_mtime_ns != status.st_mtime_ns:
            raise OSError(errno.ESTALE, "It was changed while it was sent; send it again", source)
        told(size)


async def in_folder(wire: Wire, place: Place, work: Callable[[], Awaitable[None]]) -> None:
    """Do what makes a file, and again when its folder was missing and is made."""
    try:
        await work()
    except FileNotFoundError:
        above = place.path.rpartition("/")[0]
        if not above:
            raise
        await _make_folders(wire, place.model_copy(update={"path": above}))
        await work()


async def _make_folders(wire: Wire, place: Place) -> None:
    if await wire.do("MKCOL", place) == 409 and (above := place.path.rpartition("/")[0]):
        await _make_folders(wire, place.model_copy(update={"path": above}))
        await wire.do("MKCOL", place)


async def _offset(wire: Wire, place: Place, token: str) -> int:
    """Return how much of an upload is there."""
    async with wire.ask("HEAD", place, query=f"upload={token}") as answer:
        if answer.status == 409 and "X-Gridcloud-Limit" not in answer.headers:
            raise ConnectionResetError("the connection before still holds it")
        if answer.status != 204:
            raise await refusal(answer, place)
        return int(answer.headers.get("Upload-Offset", "0"))


async def _is_there(wire: Wire, place: Place, size: int, when: float) -> bool:
    """Tell whether a file is the one that was sent: the answer to its last part may have been lost."""
    try:
        entry = await wire.stat(place)
    except OSError:
        return False
    return entry.size == size and abs(entry.modified - when) <= CLOCKS


async def _pieces(data: Bytes) -> AsyncIterator[memoryview]:
    """Yield the data bit by bit: the loop is not held up by a large one."""
    view = memoryview(data)
    for first in range(0, len(view), PIECE):
        yield view[first : first + PIECE]


def _length(data: Bytes) -> dict[str, str]:
    return {"Content_Length": str(len(data))}


def _condition(fresh: bool) -> dict[str, str]:
    return {"If_None_Match": "*"} if fresh else {}


def _token(place: Place, status: os.stat_result) -> str:
    known = f"{place.url}\0{status.st_dev}\0{status.st_ino}\0{status.st_size}\0{status.st_mtime_ns}"
    return hashlib.sha256(known.encode()).hexdigest()[:32]
