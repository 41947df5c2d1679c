"""Files and folders as a tar stream: packed here, and unpacked here without trust in the names it holds."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from gridcloud.connections.driver import Progress
from gridcloud.errors import InvalidRequest, Rejected

__all__ = ["ROOT", "WHOLE", "install", "pack", "unpack"]

ROOT = "content"
"""Name that the copied file or folder has within a packed stream."""

WHOLE = "whole"
"""Last name of a packed stream: without it the stream was cut short, which tar alone does not always notice."""

CHUNK = 1 << 18

LONGEST_HEADER = 1 << 20
"""Bytes that may come before a file's contents: names and notes are held in memory, however long they say they are."""


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


def pack(source: Path, stream: _Writable, progress: Progress | None = None) -> None:
    """Write a file or folder. A link inside a folder stays a link; owners are not told. Raises OSError."""
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT, bufsize=CHUNK) as archive:  # type: ignore[call-overload]
        if source.is_dir():
            _pack_folder(archive, source, progress)
        else:
            _pack_one(archive, source.resolve(), ROOT, source.name, progress)
        archive.addfile(_anonymous(tarfile.TarInfo(WHOLE)))


def _pack_folder(archive: tarfile.TarFile, source: Path, progress: Progress | None) -> None:
    for folder, names, files in os.walk(source):
        here = Path(folder)
        inner = here.relative_to(source)
        archive.addfile(_described(archive, here if inner.parts else source.resolve(), inner))
        for name in [*files, *(name for name in names if (here / name).is_symlink())]:
            _pack_one(archive, here / name, f"{ROOT}/{inner / name}", str(inner / name), progress)


def _described(archive: tarfile.TarFile, path: Path, inner: Path) -> tarfile.TarInfo:
    return _anonymous(archive.gettarinfo(str(path), f"{ROOT}/{inner}" if inner.parts else ROOT))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _pack_one(archive: tarfile.TarFile, path: Path, name: str, shown: str, progress: Progress | None) -> None:
    archive.inodes = {}  # type: ignore[attr-defined] # hard links are packed as files
    member = archive.gettarinfo(str(path), name)
    if member is None or not (member.isreg() or member.issym()):
        return  # sockets, pipes, devices
    if member.issym():
        archive.addfile(_anonymous(member))
        return
    with path.open("rb") as file:
        archive.addfile(_anonymous(member), _Counted(file, shown, member.size, progress))


def unpack(stream: _Readable, target: Path, folder: bool, progress: Progress | None = None) -> None:
    """Read what ``tar -cf - .`` wrote of a folder, or the one file of a stream, into ``target``, not there yet.

    Every name is checked, links are made last (so nothing is written through one), and what is neither file,
    folder nor link is left out. Raises Rejected for a name that leads outside or has no end, OSError,
    tarfile.TarError.
    """
    bounded = _Bounded(stream)
    links: list[tuple[Path, str]] = []
    folders: list[tuple[Path, int]] = []
    with tarfile.open(fileobj=bounded, mode="r|", errorlevel=1, bufsize=CHUNK) as archive:  # type: ignore[call-overload]
        for member in archive:
            bounded.allow(member.size)
            if member.issparse():
                # Some bytes that stand for any number of zeros; nobody who was asked for files sends them so.
                raise Rejected(f"The other side sends {member.name!r:.200} with holes in it.")
            inner = _inner(member.name)
            path = target.joinpath(*inner.parts) if folder else target
            if not (member.isreg() if not folder else member.isdir() or inner.parts):
                kind = "folder" if folder else "file"
                raise Rejected(
                    f"The other side sends {member.name!r:.200}, which is not the {kind} that was asked for."
                )
            if member.isdir():
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                folders.append((path, member.mode & 0o777))
            elif member.issym():
                links.append((path, member.linkname))
            elif member.islnk():
                shutil.copy2(target.joinpath(*_inner(member.linkname).parts), path, follow_symlinks=False)
            elif member.isreg():
                file = archive.extractfile(member)
                if file is not None:
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    _write(file, path, member, str(inner) if folder else inner.name, progress)
    for path, to in links:
        if any(above.is_symlink() for above in path.parents if above.is_relative_to(target)):
            raise Rejected(f"The other side sends {path.name!r:.200} to be made through a link.")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.symlink_to(to)
    for path, mode in reversed(folders):
        path.chmod(mode)


def install(source: Path, target: Path) -> None:
    """Move what was unpacked to its place: at once, or file by file into a folder that is there already.

    Raises Rejected when a file is to replace a folder, or a folder something else; OSError.
    """
    if stat.S_ISDIR(source.lstat().st_mode) and target.is_dir():
        for entry in sorted(source.iterdir()):
            below = target / entry.name
            if below.is_symlink():
                below.unlink()  # what it points to is not ours to write to
            install(entry, below)
        return
    if target.is_dir() and not target.is_symlink():
        raise InvalidRequest(f"{target} is a folder, and a file of that name was to be copied.")
    os.replace(source, target)


def _inner(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise Rejected(
            f"The other side names a file {name!r:.200}, which leads outside of what was asked for."
        )
    return path


def _write(
    file: IO[bytes], path: Path, member: tarfile.TarInfo, shown: str, progress: Progress | None
) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    done = 0
    with os.fdopen(os.open(path, flags, 0o600), "wb") as out:
        while data := file.read(CHUNK):
            out.write(data)
            done += len(data)
            if progress:
                progress(shown, done, member.size)
        if not member.size and progress:
            progress(shown, 0, 0)
        os.fchmod(out.fileno(), member.mode & 0o777)
    os.utime(path, (member.mtime, member.mtime))


class _Bounded:
    """A stream of which no more is read than what the files in it say they are, and one header."""

    def __init__(self, stream: _Readable) -> None:
        self._stream = stream
        self._left = LONGEST_HEADER

    def allow(self, size: int) -> None:
        """Let the contents of a file be read, and the header after it."""
        self._left = max(0, size) + LONGEST_HEADER

    def read(self, size: int = -1, /) -> bytes:
        if self._left <= 0:
            raise Rejected("The other side sends a name, or notes on a file, of more than a megabyte.")
        data = self._stream.read(size)
        self._left -= len(data)
        return data


class _Counted:
    """A file that tells of what was read from it, and is as long as was announced even if it shrinks meanwhile."""

    def __init__(self, file: IO[bytes], shown: str, size: int, progress: Progress | None) -> None:
        self._file, self._shown, self._size, self._done, self._progress = file, shown, size, 0, progress
        if progress and not size:
            progress(shown, 0, 0)

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        data += bytes(size - len(data))
        self._done += len(data)
        if self._progress:
            self._progress(self._shown, self._done, self._size)
        return data
