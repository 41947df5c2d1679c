"""Run a command to its end, what it is given and what it says being bytes, or files that no memory need hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from gridcloud.connections.driver import Command, Connection
from gridcloud.errors import GridcloudError

__all__ = ["Done", "capture"]

CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Done:
    """What a command said."""

    code: int
    data: bytes
    complaint: str

    @property
    def said(self) -> str:
        """What it said, as text."""
        return self.data.decode(errors="replace")


async def capture(
    connection: Connection, command: Command, input: bytes | Path = b"", output: Path | None = None
) -> Done:
    """Run a command to its end; one that is given up is killed. ``output``: a file for what it says. Raises OSError for
    files here, and what `Connection.start` raises."""
    process = await connection.start(command)

    async def gather(stream: AsyncIterator[bytes]) -> bytes:
        return b"".join([chunk async for chunk in stream])

    async def keep(stream: AsyncIterator[bytes], target: Path) -> bytes:
        with target.open("wb") as file:
            async for chunk in stream:
                await asyncio.to_thread(file.write, chunk)
        return b""

    async def feed() -> None:
        if isinstance(input, Path):
            with input.open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK):
                    await process.write(chunk)
        elif input:
            await process.write(input)
        await process.close_input()

    try:
        saying = gather(process.stdout()) if output is None else keep(process.stdout(), output)
        said, complaint, _ = await asyncio.gather(saying, gather(process.stderr()), feed())
        return Done(await process.wait(), said, complaint.decode(errors="replace"))
    except BaseException:
        with contextlib.suppress(GridcloudError):
            await process.signal("KILL")
        raise
