"""Shares over a store and a folder of a test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from gridcloud.clock import Clock, SystemClock
from gridcloud.data.driver import Storage
from gridcloud.data.model import Share
from gridcloud.data.shares import Made, Shares, Wish
from gridcloud.drivers.storages.local import LocalSettings, LocalStorage
from gridcloud.store import open_store

__all__ = ["make", "open_shares", "run"]


@contextlib.asynccontextmanager
async def open_shares(folder: Path, clock: Clock | None = None) -> AsyncIterator[Shares]:
    """Give shares whose folders are paths of this computer."""
    clock = clock or SystemClock()
    store = await open_store(folder / "store.sqlite", clock)

    async def storage_of(share: Share) -> Storage:
        return LocalStorage(LocalSettings(driver="local", path=Path(share.folder)))

    shares = Shares(store, clock, folder / "shares", storage_of)
    try:
        yield shares
    finally:
        await shares.close()
        await store.close()


async def make(shares: Shares, folder: Path, wish: Wish | None = None) -> Made:
    """Return a share of a folder, made with it where it is missing."""
    folder.mkdir(exist_ok=True)
    return await shares.create("ada", "", str(folder), wish or Wish(), 22)


async def run(*words: str, text: str = "", folder: Path | None = None) -> tuple[int, str]:
    """Run a program; return its exit code and what it said, errors too."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *words, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT, cwd=folder
    )
    try:
        async with asyncio.timeout(20):
            said, _ = await process.communicate(text.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, said.decode("utf-8", "replace")
