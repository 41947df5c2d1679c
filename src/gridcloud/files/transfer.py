"""Fetching a file of a share to this computer: whole or not at all, and on from where an earlier try ended."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from typing import Any

from gridcloud.files.links import Place
from gridcloud.files.reading import Reading
from gridcloud.files.wire import Entry, Wire

__all__ = ["fetch_file"]


async def fetch_file(
    wire: Wire,
    place: Place,
    target: Any,
    *,
    sized: Callable[[int], object] = lambda size: None,
    told: Callable[[int], object] = lambda size: None,
) -> Entry:
    """Write a share's file to a path, or to a file that is open for writing; return what it was there.

    What came of it lies beside it until it is whole, and an earlier try's part is gone on with if the file is the same.
    ``sized`` and ``told`` are called with its size and with the bytes that are here. Raises IsADirectoryError, OSError.
    """
    reading = Reading(wire, place)
    try:
        await reading.open()
        sized(reading.entry.size)
        if hasattr(target, "write"):
            async for block in reading.blocks():
                target.write(block)
                told(target.tell())
        else:
            await _fetch(reading, os.fspath(target), told)
    finally:
        await reading.close()
    return reading.entry


async def _fetch(reading: Reading, target: str, told: Callable[[int], object]) -> None:
    folder, name = os.path.split(target)
    mark = hashlib.sha256(f"{name}\0{reading.entry.tag}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    part = os.path.join(folder, f".gridcloud-{mark}.part")
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(part, flags, 0o666), "r+b") as file:
        done = file.seek(0, os.SEEK_END)
        if done > reading.entry.size:
            file.truncate(0)
            done = file.seek(0)
        async for block in reading.blocks(done):
            await asyncio.to_thread(file.write, block)
            done += len(block)
            told(done)
    os.replace(part, target)
    told(done)
