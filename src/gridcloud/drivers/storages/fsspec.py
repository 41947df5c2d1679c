"""Any file system that fsspec has: S3 and other object stores, and what else is installed for it.

What is written lies in a file here until it is finished, and is then uploaded in one go: object stores show it when all
of it is there. Folders without files are kept by a file of ours, for object stores know none. Renaming copies there, so
that it is no single step; a file that is replaced while it is read ends the reading, for its old content is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from pydantic import Field

from gridcloud.data.driver import Entry, Reader, Storage, StorageSettings, Writer
from gridcloud.data.parts import PartWriter, Threads, lock_part, part_name, told
from gridcloud.data.paths import OURS, Names, show
from gridcloud.errors import Conflict, Forbidden, InvalidRequest, NotFound

__all__ = ["FsspecSettings", "FsspecStorage"]

MARK = f"{OURS}folder"

BATCH = 500

_threads = Threads(16, "asyncio_fsspec")


class FsspecSettings(StorageSettings):
    """A place that fsspec reaches. Credentials are found by its own means: environment, profiles, roles."""

    url: str = Field(
        min_length=1,
        description="where it is, such as s3://bucket/folder; {user} stands for whose share it is",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of that file system, such as {endpoint_url: https://…}; no secrets",
    )
    spool: Path = Field(
        default=Path(tempfile.gettempdir()) / "gridcloud-spool",
        description="folder of this computer for uploads that are under way",
    )


class FsspecStorage(Storage):
    """Files below a URL."""

    Settings: ClassVar[type[StorageSettings]] = FsspecSettings

    def __init__(self, settings: FsspecSettings) -> None:
        self._url = settings.url
        self._spool = settings.spool
        try:
            self._files, root = fsspec.core.url_to_fs(
                settings.url, **{"use_listings_cache": False, **settings.options}
            )
        except (ImportError, ValueError) as error:
            raise InvalidRequest(f"{settings.url} cannot be reached: {error}.") from error
        self._root = str(root).rstrip("/")

    async def stat(self, path: Names) -> Entry:
        return await _threads.run(self.look, path)

    async def scan(self, path: Names) -> AsyncIterator[list[Entry]]:
        found = await _threads.run(self._list, path)
        for first in range(0, len(found), BATCH):
            yield found[first : first + BATCH]

    async def read(self, path: Names) -> Reader:
        entry = await self.stat(path)
        if entry.folder:
            raise InvalidRequest(f"{show(path)} is a folder.")
        return _FsspecReader(self, path, entry)

    async def write(self, path: Names, *, token: str = "", keep: bool = False) -> Writer:
        return await _threads.run(self._write, path, token, keep)

    async def make_folder(self, path: Names) -> None:
        await _threads.run(self._make_folder, path)

    async def remove(self, path: Names) -> None:
        await _threads.run(self._remove, path)

    async def move(self, source: Names, target: Names, *, replace: bool = False) -> None:
        await _threads.run(self._move, source, target, replace)

    def look(self, path: Names) -> Entry:
        """Return what is there. Blocks."""
        with told(path):
            try:
                return _entry(path[-1] if path else "", self._files.info(self._at(path)))
            except FileNotFoundError:
                if path:
                    raise
                return Entry(
                    "", folder=True, size=0, modified=0, tag=""
                )  # a bucket's folder before its first file

    def part(self, path: Names, first: int, size: int) -> bytes:
        """Return a range. Blocks."""
        with told(path):
            found: bytes = self._files.cat_file(self._at(path), start=first, end=first + size)
            return found

    def upload(self, file: str, path: Names, replace: bool) -> Entry:
        """Let a file of this computer appear. Blocks."""
        self._need_folder(path[:-1])
        with told(path):
            there = self._kind(path)
            if there == "directory":
                raise InvalidRequest(f"{show(path)} is a folder.")
            if there and not replace:
                raise Conflict(f"There is already something at {show(path)}.")
            self._files.put_file(file, self._at(path))
        return self.look(path)

    def _list(self, path: Names) -> list[Entry]:
        with told(path):
            try:
                found = self._files.ls(self._at(path), detail=True)
            except FileNotFoundError:
                if path:
                    raise
                return []
        if path and not found and self._kind(path) != "directory":
            raise NotFound(f"There is no folder {show(path)}.")
        own = self._at(path)
        entries = [
            _entry(one["name"].rstrip("/").rpartition("/")[2], one) for one in found if one["name"] != own
        ]
        return [one for one in entries if one.name and not one.name.startswith(OURS)]

    def _write(self, path: Names, token: str, keep: bool) -> Writer:
        if not path:
            raise InvalidRequest("A folder cannot be written to as a file.")
        self._need_folder(path[:-1])
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Whose spool it is matters: what lies there is uploaded as it is.
        if self._spool.stat().st_uid != os.geteuid():
            raise Forbidden(f"The spool {self._spool} is somebody else's.")
        name = part_name(self._at(path).encode(), token) if token else secrets.token_hex(16)
        file = self._spool / name
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            lock_part(descriptor, path)
            if keep and not token and self._kind(path) == "file":
                with told(path):
                    self._files.get_file(self._at(path), str(file))
            return _FsspecWriter(self, path, file, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def _make_folder(self, path: Names) -> None:
        if not path:
            raise Conflict("/ is there already.")
        self._need_folder(path[:-1])
        with told(path):
            if self._kind(path):
                raise Conflict(f"There is already something at {show(path)}.")
            self._files.makedirs(self._at(path), exist_ok=True)
            self._files.pipe_file(self._at((*path, MARK)), b"")

    def _remove(self, path: Names) -> None:
        if not path:
            raise InvalidRequest("The shared folder itself cannot be removed.")
        if not self.look(path).folder:
            with told(path):
                self._files.rm_file(self._at(path))
            return
        if self._list(path):
            raise Conflict(f"{show(path)} is a folder that is not empty.")
        with told(path):
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._at((*path, MARK)))
            with contextlib.suppress(FileNotFoundError, NotImplementedError):
                self._files.rmdir(self._at(path))

    def _move(self, source: Names, target: Names, replace: bool) -> None:
        if not source or not target:
            raise InvalidRequest("The shared folder itself cannot be moved, nor anything into its place.")
        if target[: len(source)] == source:
            raise InvalidRequest(f"{show(source)} cannot be moved into itself.")
        entry = self.look(source)
        self._need_folder(target[:-1])
        there = self._kind(target)
        if there and not replace:
            raise Conflict(f"There is already something at {show(target)}.")
        if there == "directory" and (not entry.folder or self._list(target)):
            raise Conflict(f"{show(target)} is a folder.")
        with told(target):
            if entry.folder:
                self._move_folder(self._at(source), self._at(target))
            else:
                self._files.mv(self._at(source), self._at(target))

    def _move_folder(self, source: str, target: str) -> None:
        """Copy all files, then remove them: whoever is cut off in between has both, and none less."""
        self._files.makedirs(target, exist_ok=True)
        found = self._files.find(source)
        for one in found:
            there = f"{target}{one[len(source) :]}"
            self._files.makedirs(there.rpartition("/")[0], exist_ok=True)
            self._files.cp_file(one, there)
        for one in found:
            self._files.rm_file(one)
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(source, recursive=True)

    def _need_folder(self, path: Names) -> None:
        if path and not self.look(path).folder:
            raise NotFound(f"There is no folder {show(path)}.")

    def _kind(self, path: Names) -> str:
        try:
            return str(self._files.info(self._at(path))["type"])
        except FileNotFoundError:
            return ""

    def _at(self, path: Names) -> str:
        try:
            return "/".join((self._root, *(name.encode().decode() for name in path)))
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"The storage takes only names in UTF-8, not {show(path)}.") from error


class _FsspecReader(Reader):
    def __init__(self, storage: FsspecStorage, path: Names, entry: Entry) -> None:
        self.entry = entry
        self._storage = storage
        self._path = path

    async def read(self, offset: int, size: int) -> bytes:
        if offset >= self.entry.size or size <= 0:
            return b""
        size = min(size, self.entry.size - offset)
        data = await _threads.run(self._storage.part, self._path, offset, size)
        if (await self._storage.stat(self._path)).tag != self.entry.tag:
            raise Conflict(f"{show(self._path)} was replaced while it was read.", remedy="Read it again.")
        return data

    async def close(self) -> None:
        """Nothing is held."""


class _FsspecWriter(PartWriter):
    def __init__(self, storage: FsspecStorage, path: Names, file: Path, descriptor: int) -> None:
        super().__init__(path, descriptor, _threads)
        self._storage = storage
        self._file = file

    async def finish(self, *, replace: bool = True, modified: float | None = None) -> Entry:
        entry: Entry = await _threads.run(self._storage.upload, str(self._file), self._path, replace)
        await self.abort()
        return entry

    def _forget(self) -> None:
        self._file.unlink(missing_ok=True)


def _entry(name: str, info: dict[str, Any]) -> Entry:
    if info["type"] == "directory":
        return Entry(name, folder=True, size=0, modified=0, tag="")
    when = info.get("LastModified") or info.get("mtime") or info.get("created") or 0.0
    seconds = when.timestamp() if isinstance(when, datetime) else float(when)
    known = repr(
        [info.get(key) for key in ("ETag", "etag", "ino", "size", "LastModified", "mtime", "created")]
    )
    tag = hashlib.sha256(known.encode()).hexdigest()[:32]
    return Entry(name, folder=False, size=int(info["size"] or 0), modified=seconds, tag=tag)
