"""Reading a file of a share: ranges at the same time, ahead of who reads one after the other, resumed where cut off."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import AsyncIterator, Callable
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
        self._free: list[bytearray] = []
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

    async def read(self, first: int, count: int) -> bytes | memoryview:
        """Return up to ``count`` bytes from ``first``; fewer only at the end. Raises OSError with ESTALE if changed.

        A view is good until the next call.
        """
        count = max(0, min(count, self.entry.size - first))
        if not count:
            return b""
        if count >= 2 * self._block:
            return await self._whole(first, count)
        found: list[memoryview] = []
        end = first + count
        while first < end:
            at, data = await self.span(first, end - first)
            found.append(memoryview(data)[first - at : end - at])
            first += len(found[-1])
        return found[0] if len(found) == 1 else b"".join(found)

    async def span(self, position: int, wanted: int) -> tuple[int, bytearray]:
        """Return a piece of the file in which ``position`` lies, and where it begins; have what follows come.

        It is good until the next call. ``wanted``: bytes that are needed from there on. Raises what `read` raises.
        """
        sequential = position == self._next
        if (span := self._find(position)) is None:
            self._window = min(self._block, self._window * 2) if sequential else FIRST
            span = self._begin_span(position, min(self._block, max(wanted, self._window)))
        data = await self._await(span)
        if sequential or span.end == self._next:
            self._look_ahead(span)
        self._next = span.end
        return span.first, data

    async def _whole(self, first: int, count: int) -> bytes:
        """Return many blocks, by several requests at the same time."""
        places = list(range(first, first + count, self._block))
        pieces: list[list[bytes]] = [[] for _ in places]
        numbers = iter(range(len(places)))

        async def work() -> None:
            for number in numbers:  # which the workers share
                size = min(self._block, first + count - places[number])
                await self._pull(places[number], size, pieces[number].append)

        async with asyncio.TaskGroup() as group:
            for _ in range(AHEAD):
                group.create_task(work())
        self._next = first + count
        return b"".join(piece for block in pieces for piece in block)

    async def blocks(self, first: int = 0) -> AsyncIterator[bytes | memoryview]:
        """Yield all from ``first`` on, block by block."""
        self._next, self._window = first, self._block // 2
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

    def _find(self, position: int) -> _Span | None:
        return next((one for one in self._spans if one.first <= position < one.end), None)

    def _look_ahead(self, current: _Span) -> None:
        """Have the next spans come, and forget those that lie behind; their memory is used again."""
        keep = [one for one in self._spans if one is current or one.first >= current.end]
        for one in self._spans:
            if one not in keep:
                self._forget(one)
        self._spans = keep
        self._window = min(self._block, self._window * 2)
        end = max(one.end for one in keep)
        limit = current.end + (AHEAD * self._block if self._window == self._block else self._window)
        while end < min(self.entry.size, limit):
            end = self._begin_span(end, self._window).end

    def _begin_span(self, first: int, count: int) -> _Span:
        count = min(count, self.entry.size - first)
        data = self._free.pop() if count == self._block and self._free else bytearray(count)
        span = _Span(first, first + count, asyncio.ensure_future(self._filled(data, first)))
        span.task.add_done_callback(heard)
        for one in self._spans[: -2 * AHEAD]:  # of who jumps about: the last few
            self._forget(one)
        del self._spans[: -2 * AHEAD]
        self._spans.append(span)
        return span

    def _forget(self, span: _Span) -> None:
        if not span.task.done():
            span.task.cancel()
        elif not span.task.cancelled() and span.task.exception() is None:
            data = span.task.result()
            if len(data) == self._block and len(self._free) < AHEAD:
                self._free.append(data)

    async def _await(self, span: _Span) -> bytearray:
        try:
            return await asyncio.shield(span.task)
        except BaseException:
            if span in self._spans:  # the next who asks tries again
                self._spans.remove(span)
            raise

    async def _filled(self, data: bytearray, first: int) -> bytearray:
        view = memoryview(data)
        at = 0

        def take(piece: bytes) -> None:
            nonlocal at
            view[at : at + len(piece)] = piece
            at += len(piece)

        await self._pull(first, len(data), take)
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

    async def _pull(self, first: int, count: int, take: Callable[[bytes], object]) -> None:
        """Hand a range on as it comes, by one request, or more where the connection breaks: each goes on there."""
        done = 0

        async def work() -> None:
            nonlocal done
            if done == count:
                return
            span = f"bytes={first + done}-{first + count - 1}"
            match = {"If_Match": f'"{self.entry.tag}"'} if self.entry.tag else {}
            async with self._wire.ask("GET", self._place, Range=span, **match) as answer:
                if answer.status in (412, 416, 200):
                    raise OSError(
                        errno.ESTALE, "It was changed while it was read; open it again", self._place.shown
                    )
                if answer.status != 206:
                    raise await refusal(answer, self._place)
                async for data in answer.content.iter_any():
                    take(data)
                    done += len(data)
            if done < count:
                raise ConnectionResetError("the answer was short")

        await again(work, self._place, lambda: done)


async def _have(data: bytearray) -> bytearray:
    return data
