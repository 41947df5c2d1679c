"""Files behind SFTP: many requests on their way at once, and its few error codes told apart."""

from __future__ import annotations

import asyncio
import os
import posixpath
import stat
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import asyncssh

from gridcloud.connections.files import Entry, Report
from gridcloud.connections.local_files import LocalSide, explain
from gridcloud.errors import (
    ConnectionLost,
    Forbidden,
    GridcloudError,
    NotFound,
    Rejected,
    StorageFull,
    TimedOut,
)

__all__ = ["SFTPSide", "download", "upload"]

T = TypeVar("T")

_IN_FLIGHT = 32  # requests per file under way
_BLOCK = 255 << 10  # OpenSSH's server takes and gives at most 255 KiB a request


class SFTPSide:
    """The files of an SFTP server."""

    def __init__(self, client: asyncssh.SFTPClient) -> None:
        self.client = client
        limits = client.limits
        self.read_block = min(_BLOCK, limits.max_read_len or _BLOCK)
        self.write_block = min(_BLOCK, limits.max_write_len or _BLOCK)

    async def look(self, path: str, *, follow: bool) -> Entry | None:
        try:
            attributes = await self._ask(path, self.client.stat(path) if follow else self.client.lstat(path))
        except NotFound:
            return None
        return _entry(attributes)

    async def children(self, path: str) -> list[tuple[str, Entry]]:
        names = await self._ask(path, self.client.readdir(path))
        return [
            (str(item.filename), _entry(item.attrs)) for item in names if item.filename not in (".", "..")
        ]

    async def make_folder(self, path: str) -> None:
        await self._ask(path, self.client.mkdir(path, asyncssh.SFTPAttrs(permissions=0o700)), growing=True)

    async def read_link(self, path: str) -> str:
        return str(await self._ask(path, self.client.readlink(path)))

    async def make_link(self, path: str, to: str) -> None:
        await self._ask(path, self.client.symlink(to, path), growing=True)

    async def rename(self, old: str, new: str) -> None:
        await self._ask(new, self.client.posix_rename(old, new), growing=True)

    async def change_mode(self, path: str, mode: int) -> None:
        await self._ask(path, self.client.setstat(path, asyncssh.SFTPAttrs(permissions=mode)))

    async def remove(self, path: str) -> None:
        entry = await self.look(path, follow=False)
        if entry is None:
            return
        if entry.kind != "folder":
            await self._ask(path, self.client.remove(path))
            return
        for name, _ in await self.children(path):
            if name and "/" not in name:
                await self.remove(posixpath.join(path, name))
        await self._ask(path, self.client.rmdir(path))

    async def is_full(self, path: str, needed: int) -> bool:
        """Tell whether the file system of ``path`` lacks room for that many bytes more (0: for a single block)."""
        try:
            room = await self.client.statvfs(posixpath.dirname(path) or ".")
        except asyncssh.SFTPError:
            return False
        return room.favail == 0 or room.bavail * room.frsize < max(needed, 4096)

    async def explain(self, path: str, error: Exception, needed: int = -1) -> GridcloudError:
        """Return the error of ours. ``needed`` bytes more were to be written there; -1: nothing was."""
        if isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError)):
            return explain(error)
        if isinstance(error, TimeoutError):
            return TimedOut(f"The other side did not answer for {path!r}.")
        if isinstance(error, (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)):
            return NotFound(f"There is no {path!r}.", remedy="Check the path.")
        if isinstance(error, (asyncssh.SFTPPermissionDenied, asyncssh.SFTPWriteProtect)):
            return Forbidden(
                f"{path!r}: not permitted there.", remedy="Choose a place that this user may use."
            )
        lost = (
            asyncssh.SFTPConnectionLost,
            asyncssh.SFTPNoConnection,
            asyncssh.DisconnectError,
            ConnectionError,
        )
        if isinstance(error, lost):
            return ConnectionLost(f"The connection was lost while {path!r} was copied.")
        full = (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded)
        # SFTP version 3 knows no code for a full disk, only "failure": ask how much room is left.
        if isinstance(error, full) or (needed >= 0 and await self.is_full(path, needed)):
            return StorageFull(f"No space is left there for {path!r}.", remedy="Remove files there.")
        return Rejected(f"{path!r}: the other side answered {str(error) or type(error).__name__!r}.")

    async def _ask(self, path: str, request: Awaitable[T], *, growing: bool = False) -> T:
        try:
            return await request
        except (asyncssh.Error, OSError) as error:
            raise await self.explain(path, error, 0 if growing else -1) from error


async def upload(side: SFTPSide, ours: LocalSide, path: str, to: str, entry: Entry, report: Report) -> None:
    """Write a file of ours to a new file there."""
    written = 0
    reading = await ours.open_to_read(path)
    try:
        try:
            flags = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
            attributes = asyncssh.SFTPAttrs(permissions=0o600)
            async with await side.client.open(to, flags, attributes, encoding=None, block_size=0) as file:

                async def send(offset: int) -> int:
                    nonlocal written
                    block = os.pread(
                        reading, side.write_block, offset
                    )  # from the page cache: no thread is quicker
                    if block:
                        await file.write(block, offset)
                        written += len(block)
                        report(len(block))
                    return len(block)

                await _pipeline(send, side.write_block, entry.size)
                await file.setstat(asyncssh.SFTPAttrs(permissions=entry.mode))
        except (asyncssh.Error, OSError) as error:
            raise await side.explain(to, error, max(entry.size - written, 0)) from error
    finally:
        os.close(reading)


async def download(side: SFTPSide, ours: LocalSide, path: str, to: str, entry: Entry, report: Report) -> None:
    """Write a file there to a new file of ours."""
    writing = await ours.open_to_write(to)
    try:
        try:
            async with await side.client.open(path, asyncssh.FXF_READ, encoding=None, block_size=0) as file:

                async def fetch(offset: int) -> int:
                    got = 0
                    while got < side.read_block:
                        block = cast(bytes, await file.read(side.read_block - got, offset + got))
                        if not block:
                            break
                        _write_all(writing, block, offset + got)
                        got += len(block)
                        report(len(block))
                    return got

                await _pipeline(fetch, side.read_block, entry.size)
            os.fchmod(writing, entry.mode)
        except (asyncssh.Error, OSError) as error:
            raise await side.explain(path, error) from error
    finally:
        os.close(writing)


async def _pipeline(carry: Callable[[int], Awaitable[int]], block: int, size: int) -> None:
    """Carry a file in blocks, many at once; then go on until it ends, for it may have grown."""
    offsets = iter(range(0, size, block))
    short = False

    async def work() -> None:
        nonlocal short
        for offset in offsets:
            if short:
                return
            short = await carry(offset) < min(block, size - offset)

    workers = [asyncio.ensure_future(work()) for _ in range(min(_IN_FLIGHT, -(-size // block)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _write_all(descriptor: int, block: bytes, offset: int) -> None:
    left = memoryview(block)
    while left:
        count = os.pwrite(descriptor, left, offset)
        left, offset = left[count:], offset + count


def _entry(attributes: asyncssh.SFTPAttrs) -> Entry:
    mode = attributes.permissions or 0
    if stat.S_ISREG(mode):
        return Entry("file", mode & 0o777, attributes.size or 0)
    if stat.S_ISDIR(mode):
        return Entry("folder", mode & 0o777, 0)
    if stat.S_ISLNK(mode):
        return Entry("link", 0o777, 0)
    return Entry("other", mode & 0o777, 0)
