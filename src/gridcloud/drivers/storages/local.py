"""A folder of this computer, or of whatever is mounted here.

What is written lies in ``.gridcloud-parts`` at the top, where nobody sees it, until it is whole and on disk; then it is
renamed into its place. So the folder has to be one file system. Links are neither shown nor followed.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import stat
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from gridcloud.data.beneath import Beneath
from gridcloud.data.driver import Entry, Reader, Storage, StorageSettings, Writer
from gridcloud.data.parts import PartWriter, Threads, lock_part, part_name, told
from gridcloud.data.paths import OURS, Names, show
from gridcloud.errors import Conflict, InvalidRequest

__all__ = ["LocalSettings", "LocalStorage"]

PARTS = f"{OURS}parts"

BATCH = 500
"""Entries of a folder in one go."""

STALE = 86400.0
"""Seconds after which what nobody went on writing is removed."""

COPY = 8 << 20
"""Bytes that are copied in one call."""

_threads = Threads(32, "asyncio_storage")


class LocalSettings(StorageSettings):
    """A folder of this computer."""

    path: Path = Field(description="the folder; {user} in it stands for whose share it is")

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        path = path.expanduser()
        if not path.is_absolute():
            raise ValueError("has to be absolute")
        return path


class LocalStorage(Storage):
    """Files below ``root``."""

    Settings: ClassVar[type[StorageSettings]] = LocalSettings

    def __init__(self, settings: LocalSettings) -> None:
        self._root = str(settings.path)
        self._beneath = Beneath(self._root)

    async def stat(self, path: Names) -> Entry:
        return await _threads.run(self._stat, path)

    async def scan(self, path: Names) -> AsyncIterator[list[Entry]]:
        found = await _threads.run(self._scan, path)
        try:
            while batch := await _threads.run(_take, found):
                yield batch
        finally:
            await _threads.run(found.close)  # type: ignore[attr-defined]

    async def read(self, path: Names) -> Reader:
        return await _threads.run(self._read, path)

    async def write(self, path: Names, *, token: str = "", keep: bool = False) -> Writer:
        return await _threads.run(self._write, path, token, keep)

    async def make_folder(self, path: Names) -> None:
        await _threads.run(self._make_folder, path)

    async def remove(self, path: Names) -> None:
        await _threads.run(self._remove, path)

    async def move(self, source: Names, target: Names, *, replace: bool = False) -> None:
        await _threads.run(self._move, source, target, replace)

    async def set_modified(self, path: Names, modified: float) -> None:
        """Set when a file was changed last."""
        await _threads.run(self._set_modified, path, modified)

    def _set_modified(self, path: Names, modified: float) -> None:
        if path:
            with told(path), self._beneath.parent(path) as (folder, name):
                os.utime(name, (modified, modified), dir_fd=folder, follow_symlinks=False)

    def _stat(self, path: Names) -> Entry:
        with told(path), _closing(self._beneath.open(path, os.O_PATH)) as descriptor:
            return _entry(path, os.fstat(descriptor))

    def _scan(self, path: Names) -> Iterator[Entry]:
        with told(path):
            descriptor = self._beneath.open(path, os.O_RDONLY | os.O_DIRECTORY)
        return _entries(descriptor)

    def _read(self, path: Names) -> Reader:
        with told(path):
            # Without waiting: what opens a pipe would wait for somebody to write into it.
            descriptor = self._beneath.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                entry = _entry(path, os.fstat(descriptor))
                if entry.folder:
                    raise InvalidRequest(f"{show(path)} is a folder.")
                return _LocalReader(descriptor, entry)
            except BaseException:
                os.close(descriptor)
                raise

    def _write(self, path: Names, token: str, keep: bool) -> Writer:
        if not path:
            raise InvalidRequest("A folder cannot be written to as a file.")
        with told(path):
            with self._beneath.parent(path):
                pass
            with contextlib.suppress(FileExistsError), self._beneath.parent((PARTS,)) as (root, name):
                os.mkdir(name, 0o700, dir_fd=root)
            self._forget_stale()
            part = part_name(os.fsencode("/".join(path)), token) if token else secrets.token_hex(16)
            descriptor = self._beneath.open((PARTS, part), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                lock_part(descriptor, path)
                if keep and not token:
                    self._copy_into(path, descriptor)
                return _LocalWriter(self._beneath, path, part, descriptor)
            except BaseException:
                os.close(descriptor)
                raise

    def _copy_into(self, path: Names, target: int) -> None:
        with (
            contextlib.suppress(FileNotFoundError),
            _closing(self._beneath.open(path, os.O_RDONLY | os.O_NONBLOCK)) as source,
        ):
            _entry(path, os.fstat(source))
            while os.sendfile(target, source, None, COPY):
                pass

    def _make_folder(self, path: Names) -> None:
        if not path:
            raise Conflict("/ is there already.")
        with told(path), self._beneath.parent(path) as (folder, name):
            os.mkdir(name, 0o777, dir_fd=folder)
            _give(folder, name)
            _sync(folder)

    def _remove(self, path: Names) -> None:
        if not path:
            raise InvalidRequest("The shared folder itself cannot be removed.")
        with told(path), self._beneath.parent(path) as (folder, name):
            entry = _entry(path, os.stat(name, dir_fd=folder, follow_symlinks=False))
            (os.rmdir if entry.folder else os.unlink)(name, dir_fd=folder)
            _sync(folder)

    def _move(self, source: Names, target: Names, replace: bool) -> None:
        if not source or not target:
            raise InvalidRequest("The shared folder itself cannot be moved, nor anything into its place.")
        if target[: len(source)] == source:
            raise InvalidRequest(f"{show(source)} cannot be moved into itself.")
        with (
            told(target),
            self._beneath.parent(source) as (source_folder, source_name),
            self._beneath.parent(target) as (target_folder, target_name),
        ):
            entry = _entry(source, os.stat(source_name, dir_fd=source_folder, follow_symlinks=False))
            if replace:
                with contextlib.suppress(FileNotFoundError):
                    there = os.stat(target_name, dir_fd=target_folder, follow_symlinks=False)
                    if stat.S_ISLNK(there.st_mode):
                        raise InvalidRequest(f"{show(target)} is a link.")
                os.rename(source_name, target_name, src_dir_fd=source_folder, dst_dir_fd=target_folder)
            elif entry.folder:
                # An empty folder of that name is what rename would replace: made by us, it is nobody else's.
                os.mkdir(target_name, dir_fd=target_folder)
                os.rename(source_name, target_name, src_dir_fd=source_folder, dst_dir_fd=target_folder)
            else:
                os.link(
                    source_name,
                    target_name,
                    src_dir_fd=source_folder,
                    dst_dir_fd=target_folder,
                    follow_symlinks=False,
                )
                os.unlink(source_name, dir_fd=source_folder)
            _sync(target_folder)
            _sync(source_folder)

    def _forget_stale(self) -> None:
        """Remove the parts that nobody has touched for long and nobody holds."""
        before = time.time() - STALE
        with _closing(self._beneath.open((PARTS,), os.O_RDONLY | os.O_DIRECTORY)) as folder:
            for name in os.listdir(folder):
                with contextlib.suppress(OSError):
                    if os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime < before:
                        with _closing(os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=folder)) as part:
                            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
                            os.unlink(name, dir_fd=folder)


class _LocalReader(Reader):
    def __init__(self, descriptor: int, entry: Entry) -> None:
        self.entry = entry
        self._descriptor = descriptor

    async def read(self, offset: int, size: int) -> bytes:
        return await _threads.run(self._take, offset, size)

    async def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def fileno(self) -> int | None:
        return self._descriptor

    def _take(self, offset: int, size: int) -> bytes:
        with told((self.entry.name,)):
            return os.pread(self._descriptor, size, offset)


class _LocalWriter(PartWriter):
    def __init__(self, beneath: Beneath, path: Names, part: str, descriptor: int) -> None:
        super().__init__(path, descriptor, _threads)
        self._beneath = beneath
        self._part = part

    async def finish(self, *, replace: bool = True, modified: float | None = None) -> Entry:
        return await _threads.run(self._finish, replace, modified)

    def _finish(self, replace: bool, modified: float | None) -> Entry:
        with told(self._path), self._beneath.parent(self._path) as (folder, name):
            there = _mode_of(folder, name, self._path)
            _give(folder, descriptor=self._descriptor)
            os.fchmod(self._descriptor, 0o666 & ~_mask() if there is None else there)
            if modified is not None:
                os.utime(self._descriptor, (modified, modified))
            os.fsync(self._descriptor)
            with self._beneath.parent((PARTS, self._part)) as (parts, part):
                if replace:
                    os.rename(part, name, src_dir_fd=parts, dst_dir_fd=folder)
                else:
                    os.link(part, name, src_dir_fd=parts, dst_dir_fd=folder, follow_symlinks=False)
                    os.unlink(part, dir_fd=parts)
            _sync(folder)
            entry = _entry(self._path, os.fstat(self._descriptor))
            self._close()
            return entry

    def _forget(self) -> None:
        with (
            contextlib.suppress(FileNotFoundError),
            self._beneath.parent((PARTS, self._part)) as (parts, part),
        ):
            os.unlink(part, dir_fd=parts)


def _entries(descriptor: int) -> Iterator[Entry]:
    try:
        with os.scandir(descriptor) as found:
            for one in found:
                if one.name.startswith(OURS):
                    continue
                with contextlib.suppress(FileNotFoundError, InvalidRequest):  # just removed; a link, a pipe
                    yield _entry((one.name,), one.stat(follow_symlinks=False))
    finally:
        os.close(descriptor)


def _take(found: Iterator[Entry]) -> list[Entry]:
    return list(itertools.islice(found, BATCH))


def _entry(path: Names, status: os.stat_result) -> Entry:
    """Return what a status says. Raises InvalidRequest for what is neither a file nor a folder."""
    name = path[-1] if path else ""
    if stat.S_ISDIR(status.st_mode):
        return Entry(name, folder=True, size=0, modified=status.st_mtime, tag="")
    if not stat.S_ISREG(status.st_mode):
        raise InvalidRequest(
            f"{show(path)} is neither a file nor a folder.", remedy="Links are not followed."
        )
    tag = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}"
    return Entry(name, folder=False, size=status.st_size, modified=status.st_mtime, tag=tag)


def _mode_of(folder: int, name: str, path: Names) -> int | None:
    """Return the mode of the file that is about to be replaced. Raises InvalidRequest where it is none."""
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if _entry(path, there).folder:
        raise InvalidRequest(f"{show(path)} is a folder.")
    return there.st_mode & 0o777


def _give(folder: int, name: str = "", descriptor: int = -1) -> None:
    """Give what is new to whoever has its folder: a service that is root leaves no files that a user cannot touch."""
    if os.geteuid() == 0:
        status = os.stat(".", dir_fd=folder)
        if descriptor >= 0:
            os.fchown(descriptor, status.st_uid, status.st_gid)
        else:
            os.chown(name, status.st_uid, status.st_gid, dir_fd=folder, follow_symlinks=False)


def _mask() -> int:
    """Return the umask without changing it, which other threads' files would see."""
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def _sync(folder: int) -> None:
    """Have a folder's names on disk: what a rename was answered for stays after the power is gone."""
    with _closing(os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)) as readable:
        os.fsync(readable)


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
