"""One file or folder as a stream of tar, without ever holding it whole."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import tarfile
import threading
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from gridcloud.errors import InvalidRequest, StorageFull

__all__ = ["CONTENT", "pack", "unpack"]

CONTENT = "content"
"""The name of the only member."""

CHUNK = 256 * 1024


async def pack(content: Path) -> AsyncIterator[bytes]:
    """Yield a tar archive with ``content`` as its member ``content``."""
    reader, writer = os.pipe()

    def work() -> None:
        with (
            contextlib.suppress(BrokenPipeError),
            os.fdopen(writer, "wb") as sink,
            tarfile.open(fileobj=sink, mode="w|", bufsize=CHUNK) as archive,
        ):
            archive.add(content, CONTENT)

    worker = asyncio.create_task(asyncio.to_thread(work))
    with os.fdopen(reader, "rb") as source:
        while chunk := await asyncio.to_thread(source.read, CHUNK):
            yield chunk
    await worker


async def unpack(stream: AsyncIterable[bytes], folder: Path) -> Path:
    """Write the member ``content`` of a tar archive below ``folder``; return its path.

    Raises InvalidRequest for anything that is no such archive or would write elsewhere, StorageFull.
    """
    reader, writer = os.pipe()
    failures: list[Exception] = []

    def work() -> None:
        with os.fdopen(reader, "rb") as source:
            try:
                with tarfile.open(fileobj=source, mode="r|", bufsize=CHUNK) as archive:
                    archive.extractall(folder, filter="tar")
            except (tarfile.TarError, OSError) as error:
                failures.append(error)
            while source.read(CHUNK):
                pass

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with os.fdopen(writer, "wb") as sink:
        async for chunk in stream:
            await asyncio.to_thread(sink.write, chunk)
    await asyncio.to_thread(thread.join)
    if failures:
        _raise(failures[0], folder)
    content = folder / CONTENT
    if not content.exists() and not content.is_symlink():
        raise InvalidRequest(f"The archive has no member named {CONTENT!r}.")
    return content


def _raise(error: Exception, folder: Path) -> None:
    if isinstance(error, OSError) and not isinstance(error, tarfile.TarError) and error.errno == errno.ENOSPC:
        raise StorageFull(f"No space is left in {folder.parent}.") from error
    raise InvalidRequest(f"The body is no usable tar archive: {error}") from error
