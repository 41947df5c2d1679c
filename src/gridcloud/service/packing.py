"""One file or folder as a stream of tar, without ever holding it whole."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import tarfile
import threading
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path, PurePosixPath
from typing import Any, Self

from gridcloud.errors import Forbidden, GridcloudError, InvalidRequest, StorageFull

__all__ = ["CONTENT", "pack", "unpack"]

CONTENT = "content"
"""The name of the only member at the top."""

CHUNK = 256 * 1024
LONGEST_NAME = 64 * 1024
"""Bytes of a member's extended header: more would be held in memory for nothing."""


async def pack(content: Path) -> AsyncIterator[bytes]:
    """Yield a tar archive with ``content`` as its member ``content``. Raises Forbidden, NotFound, GridcloudError.

    What is neither file, folder nor symbolic link (sockets, pipes, devices) is left out.
    """
    reader, writer = os.pipe()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with (
                contextlib.suppress(BrokenPipeError),
                os.fdopen(writer, "wb") as sink,
                tarfile.open(fileobj=sink, mode="w|", bufsize=CHUNK) as archive,
            ):
                archive.add(content, CONTENT, filter=lambda member: _plain(member, content))
        except (tarfile.TarError, OSError, ValueError) as error:
            failures.append(error)

    # A thread of its own: it lives as long as the other side takes, and the pool's threads are few.
    thread = threading.Thread(target=work, name="gridcloud-pack", daemon=True)
    thread.start()
    try:
        while chunk := await asyncio.to_thread(os.read, reader, CHUNK):
            yield chunk
    finally:
        os.close(reader)
    await asyncio.to_thread(thread.join)
    if failures:
        raise _unreadable(failures[0], content)


async def unpack(stream: AsyncIterable[bytes], folder: Path) -> Path:
    """Write the member ``content`` of a tar archive below ``folder``; return its path.

    Modes are kept without their set-id bits, owners are not. Raises InvalidRequest for anything that is no such
    archive, for devices, and for what would write elsewhere; StorageFull. Nothing is being written any more when it
    returns or raises.
    """
    reader, writer = os.pipe()
    failures: list[BaseException] = []

    def work() -> None:
        with os.fdopen(reader, "rb") as source:
            try:
                with tarfile.open(fileobj=source, mode="r|", bufsize=CHUNK, tarinfo=_Member) as archive:
                    archive.extractall(folder, filter=_Guard())  # noqa: S202 - all that the guard lets pass
            except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
                failures.append(error)
            while source.read(CHUNK):
                pass

    thread = threading.Thread(target=work, name="gridcloud-unpack", daemon=True)
    thread.start()
    try:
        with os.fdopen(writer, "wb", buffering=0) as sink:
            async for chunk in stream:
                await asyncio.to_thread(_write_all, sink, chunk)
    finally:
        await asyncio.shield(asyncio.to_thread(thread.join))
    if failures:
        raise _unusable(failures[0], folder) from failures[0]
    content = folder / CONTENT
    if not os.path.lexists(content):
        raise InvalidRequest(f"The archive has no member named {CONTENT!r}.")
    return content


class _Member(tarfile.TarInfo):
    """A member whose header is refused when it asks for memory beyond any use."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)  # type: ignore[arg-type]  # typeshed has encoding: str
        if member.size > LONGEST_NAME and member.type in _EXTENDED:
            raise tarfile.ReadError("the name of a member is too long")
        return member


class _Guard:
    """Lets pass what lies below `CONTENT` and leads nowhere else."""

    def __init__(self) -> None:
        self._links: set[str] = set()

    def __call__(self, member: tarfile.TarInfo, _folder: str) -> tarfile.TarInfo:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or path.parts[:1] != (CONTENT,):
            raise tarfile.TarError(f"{member.name[:200]!r} does not lie below {CONTENT!r}")
        if any(str(place) in self._links for place in (path, *path.parents)):
            raise tarfile.TarError(f"{member.name[:200]!r} would be written through a link")
        if member.issym() and len(path.parts) > 1:  # at the top it would be followed: to whatever is ours
            self._links.add(str(path))
        elif not (member.isreg() or member.isdir()) or member.sparse is not None:
            raise tarfile.TarError(f"{member.name[:200]!r} is no file, no folder and no link within one")
        return member.replace(
            mode=member.mode & 0o777, uid=os.geteuid(), gid=os.getegid(), uname="", gname="", deep=False
        )


_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.GNUTYPE_SPARSE,
)


def _plain(member: tarfile.TarInfo, content: Path) -> tarfile.TarInfo | None:
    if member.islnk():  # one of several names of a file: each becomes a file of its own
        found = os.lstat(content.parent / content.name / PurePosixPath(member.name).relative_to(CONTENT))
        member.type, member.linkname = tarfile.REGTYPE, ""
        member.size = found.st_size if stat.S_ISREG(found.st_mode) else 0
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member if member.isreg() or member.isdir() or member.issym() else None


def _write_all(sink: Any, data: bytes) -> None:
    view = memoryview(data)
    with contextlib.suppress(BrokenPipeError):  # the thread has failed, and tells why
        while view:
            view = view[sink.write(view) :]


def _unreadable(error: BaseException, content: Path) -> GridcloudError:
    if isinstance(error, PermissionError):
        return Forbidden(f"{error.filename or content} may not be read.")
    return GridcloudError(f"{content.name} could not be read to its end: {error}")


def _unusable(error: BaseException, folder: Path) -> GridcloudError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"No space is left in {folder.parent}.", remedy="Free some space there.")
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return InvalidRequest(f"The body is no usable tar archive: {words}.")
