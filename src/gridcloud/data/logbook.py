"""The log of accesses: gathered for a moment, so that thousands of reads a second are one write to the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from gridcloud.data.model import Door, Share
from gridcloud.errors import GridcloudError
from gridcloud.store import Entry

__all__ = ["LINES", "PAUSE", "Logbook"]

log = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds in which lines are gathered."""

LINES = 500
"""Different lines of one share in one pause; of more only the number is kept."""

_Line = tuple[str, str, str, str]


class Logbook:
    """Writes what visitors do into the story of their share."""

    def __init__(self, write: Callable[[Share, list[Entry]], Awaitable[None]]) -> None:
        self._write = write
        self._shares: dict[str, Share] = {}
        self._lines: dict[str, dict[_Line, list[int]]] = {}
        self._more: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def note(self, share: Share, act: str, door: Door, address: str, path: str, size: int = 0) -> None:
        """Write a line; the same again within a moment is counted on it."""
        lines = self._lines.setdefault(share.id, {})
        self._shares[share.id] = share
        line = (act, str(door), address, path)
        if line in lines:
            lines[line][0] += 1
            lines[line][1] += size
        elif len(lines) < LINES:
            lines[line] = [1, size]
        else:
            self._more[share.id] = self._more.get(share.id, 0) + 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._soon(), name="shares: log")

    async def close(self) -> None:
        """Write what there is."""
        self._closing.set()
        if self._task is not None:
            await self._task
        await self.flush()

    async def flush(self) -> None:
        """Write what was gathered."""
        while self._lines:
            share_id, lines = self._lines.popitem()
            share, more = self._shares.pop(share_id), self._more.pop(share_id, 0)
            entries = [_entry(line, *figures) for line, figures in lines.items()]
            if more:
                entries.append(Entry("more", f"and {more} more within this moment", {"times": more}))
            try:
                await self._write(share, entries)
            except GridcloudError as error:
                log.error("%d lines of the log of %s are lost: %s", len(entries), share_id, error)

    async def _soon(self) -> None:
        while self._lines:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self._closing.wait()
            await self.flush()


def _entry(line: _Line, times: int, size: int) -> Entry:
    act, door, address, path = line
    data: dict[str, Any] = {"door": door, "address": address, "path": path, "bytes": size, "times": times}
    often = f", {times} times" if times > 1 else ""
    moved = f", {size} bytes" if size else ""
    return Entry(act.split()[0], f"{address} by {door}: {act} {path}{moved}{often}", data)
