"""Reading a file of a share: ranges at the same time, ahead of who reads one after the other, resumed where cut off."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from gridcloud.files.links import Place
from gridcloud.files.wire import Entry, Wire, again, entry_of, heard, refusal

__all__ = ["BLOCK", "Reading"]

BLOCK = 4 << 20
"""Bytes of one request."""

FIRST = 128 << 10
"""Bytes that come with opening a file, and with each jump in it; who reads on gets more each time, up to a block."""

AHEAD = 4
"""Blocks that are asked for at the same time."""


@dataclass(slots=True)
class _Span:
    first: int
    end: int
    task: asyncio.Task[bytearray]


class Reading:
    """An open file: its content stays what it was when it was opened, or reading it fails with ESTALE."""

    def __init__(self, wire: Wire, place: Place, block: int = BLOCK) -> None:
        self._wire = wire
        self._place = place
        self._block = block
        self._window = FIRST
        self._spans: list[_Span] = []
        self._next = 0
        self.entry = Entry(False, 0, 0.0, "")

    async def open(self, tag: str = "") -> bool:
        """Ask for the beginning, and so learn how long it is. Return False where it is still what has that ``tag``.

        Raises FileNotFoundError, PermissionError, IsADirectoryError, ConnectionError.
        """
        if not self._place.path:
            raise IsADirectoryError(errno.EISDIR, "That is a folder", self._place.shown)
        begun = await again(lambda: self._begin(tag), self._place)
        if begun:
            self._spans = [_Span(0, len(begun), asyncio.ensure_future(_have(begun)))]
        return begun is not None

    async def read(self, first: int, count: int) -> bytes | bytearray | memoryview:
        """Return up to ``count`` bytes from ``first``; fewer only at the end. Raises OSError with ESTALE if changed."""
        count = max(0, min(count, self.entry.size - first))
        if not count:
            return b""
        if count >= 2 * self._block:
            whole = bytearray(count)
            await self.fill(memoryview(whole), first)
            self._next = first + count
            return whole
        found: list[memoryview] = []
        sequential = first == self._next
        self._window = min(self._block, self._window * 2) if sequential else FIRST
        position = first
        while position < first + count:
            span = self._find(position, first + count - position)
            data = await self._await(span)
            piece = memoryview(data)[position - span.first : first + count - span.first]
            found.append(piece)
            position += len(piece)
        self._next = position
        if sequential:
            self._look_ahead(position)
        return found[0] if len(found) == 1 else b"".join(found)

    async def fill(self, view: memoryview, first: int) -> None:
        """Fill a buffer with what begins at ``first``, by several requests at the same time."""
        places = iter(range(0, len(view), self._block))

        async def work() -> None:
            for offset in places:  # which the workers share
                await self._fetch(view[offset : offset + self._block], first + offset)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AHEAD, -(-len(view) // self._block))):
                group.create_task(work())

    async def blocks(self, first: int = 0) -> AsyncIterator[bytes | bytearray | memoryview]:
        """Yield all from ``first`` on, block by block."""
        self._next, self._window = first, self._block
        while first < self.entry.size:
            data = await self.read(first, self._block)
            yield data
            first += len(data)

    async def close(self) -> None:
        """Give up what was asked for. May be called twice."""
        spans, self._spans = self._spans, []
        for span in spans:
            span.task.cancel()
        if spans:
            await asyncio.wait([span.task for span in spans])

    def _find(self, position: int, wanted: int) -> _Span:
        for span in self._spans:
            if span.first <= position < span.end:
                return span
        return self._begin_span(position, max(wanted, self._window))

    def _look_ahead(self, position: int) -> None:
        """Have the next blocks come, and forget those that lie behind."""
        keep = [one for one in self._spans if one.end > position - self._block]
        for one in self._spans:
            if one not in keep:
                one.task.cancel()
        self._spans = keep
        if self._window < self._block:
            return
        end = max([position, *(one.end for one in keep)])
        while end < min(self.entry.size, position + AHEAD * self._block):
            end = self._begin_span(end, self._block).end

    def _begin_span(self, first: int, count: int) -> _Span:
        count = min(count, self.entry.size - first)
        data = bytearray(count)
        span = _Span(first, first + count, asyncio.ensure_future(self._filled(data, first)))
        span.task.add_done_callback(heard)
        del self._spans[: -2 * AHEAD]  # of who jumps about: the last few
        self._spans.append(span)
        return span

    async def _await(self, span: _Span) -> bytearray:
        try:
            return await asyncio.shield(span.task)
        except BaseException:
            if span in self._spans:  # the next who asks tries again
                self._spans.remove(span)
            raise

    async def _filled(self, data: bytearray, first: int) -> bytearray:
        await self._fetch(memoryview(data), first)
        return data

    async def _begin(self, tag: str) -> bytearray | None:
        known = {"If_None_Match": f'"{tag}"'} if tag else {}
        async with self._wire.ask("GET", self._place, Range=f"bytes=0-{FIRST - 1}", **known) as answer:
            if answer.status == 304:
                return None
            if answer.status == 301:
                raise IsADirectoryError(errno.EISDIR, "That is a folder", self._place.shown)
            size = re.fullmatch(r"bytes [0-9*-]+/(\d+)", answer.headers.get("Content-Range", ""))
            if answer.status not in (200, 206, 416) or (answer.status != 200 and not size):
                raise await refusal(answer, self._place)
            if answer.status == 416:
                self.entry = entry_of(answer.headers, 0)
                return bytearray()
            data = bytearray(await answer.read())
            self.entry = entry_of(answer.headers, int(size[1]) if size else len(data))
            return data

    async def _fetch(self, view: memoryview, first: int) -> None:
        """Fill a buffer by one request, or by more where the connection breaks: each goes on where the last ended."""
        done = 0

        async def work() -> None:
            nonlocal done
            if done == len(view):
                return
            span = f"bytes={first + done}-{first + len(view) - 1}"
            match = {"If_Match": f'"{self.entry.tag}"'} if self.entry.tag else {}
            async with self._wire.ask("GET", self._place, Range=span, **match) as answer:
                if answer.status in (412, 416, 200):
                    raise OSError(
                        errno.ESTALE, "It was changed while it was read; open it again", self._place.shown
                    )
                if answer.status != 206:
                    raise await refusal(answer, self._place)
                async for data in answer.content.iter_any():
                    view[done : done + len(data)] = data
                    done += len(data)
            if done < len(view):
                raise ConnectionResetError("the answer was short")

        await again(work, self._place, lambda: done)


async def _have(data: bytearray) -> bytearray:
    return data
