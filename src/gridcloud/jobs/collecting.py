"""Bring what a job leaves to where it belongs: its values, and the outputs that it was to leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from gridcloud import connections
from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.model import Address
from gridcloud.errors import NotFound, Rejected, Transient
from gridcloud.jobs.driver import JobDriver, Stream
from gridcloud.jobs.frame import LARGEST_RESULT, read_result
from gridcloud.jobs.model import Output

__all__ = ["collect_outputs", "collect_values", "explain_notebook", "matches"]

LAST_WORDS = 64 * 1024
"""Bytes from the end of standard error in which a notebook's run says what failed."""
PATIENCE = 60.0
"""Seconds that listing a job's files may take."""


async def collect_values(driver: JobDriver, handle: str) -> dict[str, Any]:
    """Return the values that a job wrote; none where it wrote none. Raises InvalidRequest where they are no values."""
    try:
        part = await driver.logs(handle, Stream.RESULT, 0, LARGEST_RESULT + 1)
    except NotFound:
        return {}
    return read_result(part.data)


async def collect_outputs(
    driver: JobDriver,
    handle: str,
    outputs: Sequence[Output],
    folder: Path,
    connect: Callable[[Address], Awaitable[Connection]],
) -> list[str]:
    """Copy what matches the outputs into a new folder here, whole or not at all; return the paths in it.

    Raises Rejected where one matches nothing, Transient when the place does not answer.
    """
    if not outputs:
        return []
    place = await driver.place(handle)
    connection = await connect(place.address)
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        listing = await connections.run(
            connection,
            Command(("find", ".", "-type", "f", "-print0"), directory=place.folder),
            timeout=PATIENCE,
        )
        if listing.code:
            raise Transient(f"Its files cannot be listed: {listing.stderr.decode(errors='replace')[:300]}")
        files = sorted(os.fsdecode(one).removeprefix("./") for one in listing.stdout.split(b"\0") if one)
        wanted: dict[str, None] = {}
        for output in outputs:
            found = [path for path in files if matches(path, output.pattern)]
            if not found:
                raise Rejected(f"It left no {output.pattern}.")
            wanted |= dict.fromkeys(found)
        for path in wanted:
            target = fresh / path
            await asyncio.to_thread(target.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
            await connection.get(f"{place.folder}/{path}", target)
        await asyncio.to_thread(_replace, fresh, folder)
        return list(wanted)
    finally:
        await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
        with contextlib.suppress(Transient):
            await connection.close()


async def explain_notebook(driver: JobDriver, handle: str) -> str:
    """Return which cell of a notebook failed, and how, as its run said last; empty where it did not say."""
    try:
        said = (await driver.logs(handle, Stream.ERR, -LAST_WORDS, LAST_WORDS)).data
        found = json.loads(said.strip().rpartition(b"\n")[2])
        cell, name, value = found["cell"], str(found["name"]), str(found["value"])
    except (NotFound, ValueError, KeyError, TypeError):
        return ""
    where = f"Cell {cell + 1}: " if isinstance(cell, int) else ""
    return f"{where}{name}: {value}"[:500]


def matches(path: str, pattern: str) -> bool:
    """Tell whether a path is of a pattern as of a shell: ``*`` within one folder, ``**`` over any; a folder means all
    that is in it."""
    return _expression(pattern).fullmatch(path) is not None


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    parts = []
    for found in re.finditer(r"\*\*/|\*\*|\*|\?|\[!?[^]]+\]|.", pattern, re.DOTALL):
        word = found[0]
        known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        if word in known:
            parts.append(known[word])
        elif len(word) > 1:
            inner = re.escape(word[1:-1].removeprefix("!")).replace(r"\-", "-")
            parts.append(f"[{'^' if word[1] == '!' else ''}{inner}]")
        else:
            parts.append(re.escape(word))
    return re.compile("".join(parts) + "(?:/.*)?", re.DOTALL)


def _replace(fresh: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
