"""What storages share that keep a file on this computer until it is whole: its part, and the words of the kernel."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from gridcloud.data.driver import Writer
from gridcloud.data.paths import Names, show
from gridcloud.errors import (
    Conflict,
    Forbidden,
    GridcloudError,
    InvalidRequest,
    NotFound,
    StorageFull,
    Unreachable,
)

__all__ = ["PartWriter", "Threads", "lock_part", "part_name", "told"]

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """Threads of a storage's own: a disk that hangs must not hold up what has nothing to do with it."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, name)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a call that blocks returns."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: work(*args, **kwargs))


class PartWriter(Writer):
    """A file that is written behind a descriptor of this computer. Left to its storage: how it appears, and its end."""

    def __init__(self, path: Names, descriptor: int, threads: Threads) -> None:
        self._path = path
        self._descriptor = descriptor
        self._threads = threads
        self.size = os.fstat(descriptor).st_size

    async def write(self, offset: int, data: bytes) -> None:
        await self._threads.run(self._put, offset, data)
        self.size = max(self.size, offset + len(data))

    async def read(self, offset: int, size: int) -> bytes:
        return await self._threads.run(os.pread, self._descriptor, size, offset)

    async def truncate(self, size: int) -> None:
        with told(self._path):
            await self._threads.run(os.ftruncate, self._descriptor, size)
        self.size = size

    def rename(self, path: Names) -> None:
        self._path = path

    async def leave(self) -> None:
        self._close()

    async def abort(self) -> None:
        if self._descriptor >= 0:
            await self._threads.run(self._forget)
            self._close()

    def _forget(self) -> None:
        """Remove the part. Blocks."""
        raise NotImplementedError

    def _put(self, offset: int, data: bytes) -> None:
        with told(self._path):
            view = memoryview(data)
            while view:
                done = os.pwrite(self._descriptor, view, offset)
                view, offset = view[done:], offset + done

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def part_name(place: bytes, token: str) -> str:
    """Return what the part of an upload with a token is called, the same each time it is taken up."""
    return hashlib.sha256(place + b"\0" + token.encode()).hexdigest()[:32]


def lock_part(descriptor: int, path: Names) -> None:
    """Have a part for oneself. Raises Conflict where somebody else has it, or has just ended it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Conflict(
            f"{show(path)} is being uploaded by somebody with the same token.",
            details={"status": 503, "seconds": 1},  # who was cut off, and comes again before we know
        ) from error
    if not os.fstat(descriptor).st_nlink:
        raise Conflict(f"The upload of {show(path)} with this token has just ended.")


@contextmanager
def told(path: Names) -> Iterator[None]:
    """Have what the system says of a path said in the words of `gridcloud.errors`."""
    try:
        yield
    except OSError as error:
        number = error.errno or next((code for kind, code in _BARE if isinstance(error, kind)), 0)
        kind, text = _KINDS.get(number, (Unreachable, "The storage of {path} does not answer: {why}."))
        raise kind(text.format(path=show(path), why=error.strerror or error)) from error


_KINDS: dict[int, tuple[type[GridcloudError], str]] = {
    errno.ENOENT: (NotFound, "There is no {path}."),
    errno.ENOTDIR: (NotFound, "There is no {path}: what stands before it is no folder."),
    errno.ELOOP: (InvalidRequest, "{path} is a link, or lies behind one; links are not followed."),
    errno.EEXIST: (Conflict, "There is already something at {path}."),
    errno.ENOTEMPTY: (Conflict, "{path} is a folder that is not empty."),
    errno.EISDIR: (InvalidRequest, "{path} is a folder."),
    errno.ENXIO: (InvalidRequest, "{path} is neither a file nor a folder."),
    errno.EINVAL: (InvalidRequest, "{path} cannot be used so."),
    errno.EXDEV: (InvalidRequest, "{path} lies on another file system than the rest of its storage."),
    errno.ENAMETOOLONG: (InvalidRequest, "The name of {path} is longer than its file system allows."),
    errno.EILSEQ: (InvalidRequest, "The file system does not take the name of {path}."),
    errno.EACCES: (Forbidden, "The storage does not let us at {path}."),
    errno.EPERM: (Forbidden, "The storage does not let us change {path}."),
    errno.EROFS: (Forbidden, "The storage of {path} can only be read."),
    errno.ENOSPC: (StorageFull, "No space is left for {path}."),
    errno.EDQUOT: (StorageFull, "The quota leaves no space for {path}."),
    errno.EFBIG: (StorageFull, "{path} would be larger than its file system allows."),
}
"""What the kernel says, as errors; the rest is a storage that does not work: Unreachable."""

_BARE: tuple[tuple[type[OSError], int], ...] = (
    (FileNotFoundError, errno.ENOENT),
    (FileExistsError, errno.EEXIST),
    (IsADirectoryError, errno.EISDIR),
    (NotADirectoryError, errno.ENOTDIR),
    (PermissionError, errno.EACCES),
)
"""What libraries raise without a number."""
