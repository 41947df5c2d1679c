"""Open files of shares, for programs that wait and for those in a loop."""

from __future__ import annotations

import io
import os
import warnings
from typing import Any

from fsspec.asyn import sync

from gridcloud.files.reading import Reading
from gridcloud.files.writing import Writing

__all__ = ["AsyncReader", "AsyncWriter", "ShareReader", "ShareWriter"]

BUFFER = 64 << 10
"""Bytes that are kept here, so that small reads need not ask the loop."""


class ShareReader(io.BufferedReader):
    """A file that is read: as one of this computer, with `size` and `path`."""

    def __init__(self, files: Any, path: str, reading: Reading) -> None:
        super().__init__(_Raw(files, reading), BUFFER)
        self.fs = files
        self.path = path
        self.size = reading.entry.size
        self.details = {"name": path, "size": self.size, "type": "file", "etag": reading.entry.tag}


class _Raw(io.RawIOBase):
    def __init__(self, files: Any, reading: Reading) -> None:
        super().__init__()
        self._files = files
        self._reading = reading
        self._at = 0
        self._first = 0
        self._span = bytearray()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._reading.entry.size}[whence]
        if base + offset < 0:
            raise ValueError("That lies before the beginning of the file.")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if not len(view) or self._at >= self._reading.entry.size:
            return 0
        if not self._first <= self._at < self._first + len(self._span):
            self._first, self._span = sync(self._files.loop, self._reading.span, self._at, len(view))
        # What is here already needs no loop to be asked; a reader asks again for what is missing.
        data = memoryview(self._span)[self._at - self._first : self._at - self._first + len(view)]
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        data = sync(self._files.loop, self._reading.read, self._at, self._reading.entry.size)
        self._at += len(data)
        self._first, self._span = 0, bytearray()  # its memory may be used again
        return bytes(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            if self._files.loop.is_running():
                sync(self._files.loop, self._reading.close)


class ShareWriter(io.BufferedIOBase):
    """A file that is written: it appears whole when it is closed, and not when an error ends the ``with`` around it."""

    def __init__(self, files: Any, path: str, writing: Writing, *, autocommit: bool = True) -> None:
        super().__init__()
        self.fs = files
        self.path = path
        self._writing = writing
        self._autocommit = autocommit

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._writing.size

    def write(self, data: Any) -> int:
        if self.closed:
            raise ValueError("The file is closed.")
        view = memoryview(data).cast("B")
        sync(self.fs.loop, self._writing.write, view)
        return len(view)

    def commit(self) -> None:
        """Let the file appear, where that was not left to `close`."""
        sync(self.fs.loop, self._writing.finish)

    def discard(self) -> None:
        """Forget what was written."""
        sync(self.fs.loop, self._writing.abort)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        if self._autocommit:
            self.commit()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None and not self.closed:
            super().close()
            self.discard()
        self.close()

    def __del__(self) -> None:
        if not self.closed:
            warnings.warn(
                f"{self._writing.shown} was never closed: it is not there.", ResourceWarning, stacklevel=1
            )
            super().close()


class AsyncReader:
    """A file that is read in a loop."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._at = 0
        self.size = reading.entry.size

    async def read(self, count: int = -1) -> bytes:
        """Return up to ``count`` bytes, all where it is negative; none at the end."""
        data = await self._reading.read(self._at, self.size if count < 0 else count)
        self._at += len(data)
        return bytes(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go somewhere else, and return where that is."""
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence] + offset
        return self._at

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._at

    async def close(self) -> None:
        """Let go of it. May be called twice."""
        await self._reading.close()

    async def __aenter__(self) -> AsyncReader:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


class AsyncWriter:
    """A file that is written in a loop; it appears whole when it is closed, and not when an error ends its ``with``."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._open = True

    async def write(self, data: bytes) -> int:
        """Add bytes."""
        await self._writing.write(data)
        return len(data)

    def tell(self) -> int:
        """Return how much was written."""
        return self._writing.size

    async def close(self) -> None:
        """Let the file appear. May be called twice."""
        if self._open:
            self._open = False
            await self._writing.finish()

    async def __aenter__(self) -> AsyncWriter:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self._open = False
            await self._writing.abort()
        await self.close()
