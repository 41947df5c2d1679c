"""``share://`` for everything that takes fsspec's file systems: pandas, xarray, zarr, dask, pyarrow, h5py."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from urllib.parse import unquote_to_bytes

from fsspec.asyn import AsyncFileSystem, sync, sync_wrapper
from fsspec.callbacks import DEFAULT_CALLBACK

from gridcloud.errors import NotFound
from gridcloud.files.cache import DiskCache, cache_folder
from gridcloud.files.handles import AsyncReader, AsyncWriter, ShareReader, ShareWriter
from gridcloud.files.links import Place, find_place
from gridcloud.files.reading import BLOCK, Reading
from gridcloud.files.transfer import fetch_file
from gridcloud.files.wire import Entry, Wire, again, refusal
from gridcloud.files.writing import Writing, in_folder, send_file

__all__ = ["ShareFileSystem"]


class ShareFileSystem(AsyncFileSystem):  # type: ignore[misc]
    """Files of shares. A path is ``NAME/path`` or ``HOST/s/SECRET/path``: see `gridcloud.files.links`.

    ``password``, ``ca``: for links that have none of their own. ``tls``: whether TLS is spoken; None: unless the server
    is this computer. ``cache``: keep what is read on disk, in the usual folder (True) or in that one; ``cache_size``:
    bytes; ``offline``: "never" use it without asking the server (the default), "allow" it where the server cannot be
    reached, or "only" use it. ``block_size``: bytes of one request. Options may also be set in fsspec's own
    configuration, such as by ``FSSPEC_SHARE_CA``.
    """

    protocol: ClassVar[str] = "share"
    root_marker = ""
    async_impl = True

    def __init__(
        self,
        *,
        password: str = "",
        ca: str | os.PathLike[str] | None = None,
        tls: bool | None = None,
        cache: bool | str | os.PathLike[str] = False,
        cache_size: int = 10 << 30,
        offline: str = "never",
        block_size: int = BLOCK,
        connections: int = 16,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._password = password
        self._ca = Path(ca) if ca else None
        self._tls = tls
        self._block = int(block_size)
        self._wire = Wire(connections)
        self._cache: DiskCache | None = None
        if cache or offline != "never":
            usual = not cache or str(cache).lower() in ("1", "true", "yes")  # as the environment has it
            folder = cache_folder() if usual else Path(cache)  # type: ignore[arg-type]
            self._cache = DiskCache(self._wire, folder, int(cache_size), offline)
        if not self.asynchronous:
            weakref.finalize(self, _close, self.loop, self._wire)

    def place(self, path: str) -> Place:
        """Return what a path means. Raises FileNotFoundError for a link that is not known here."""
        try:
            return find_place(self._strip_protocol(path), self._password, self._ca, self._tls)
        except NotFound as error:
            raise FileNotFoundError(errno.ENOENT, str(error)) from error

    async def _close(self) -> None:
        await self._wire.close()

    def close(self) -> None:
        """Close the connections that are kept open. May be called twice."""
        sync(self.loop, self._close)

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        return _info(path, await self._wire.stat(self.place(path)))

    async def _ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        path = self._strip_protocol(path)
        place = self.place(path)
        try:
            found = [_info(f"{path}/{name}", entry) async for name, entry in self._entries(place)]
        except NotADirectoryError:
            found = [await self._info(path)]
        found.sort(key=lambda one: str(one["name"]))
        return found if detail else [one["name"] for one in found]

    async def _entries(self, place: Place) -> AsyncIterator[tuple[str, Entry]]:
        """Yield what is in a folder, in no order, while it comes. Raises NotADirectoryError."""

        async def work() -> list[tuple[str, Entry]]:
            folder = place.model_copy(update={"path": f"{place.path}/" if place.path else ""})
            async with self._wire.ask("GET", folder, Accept="application/x-ndjson") as answer:
                if answer.status == 404 and place.path and not (await self._wire.stat(place)).folder:
                    raise NotADirectoryError(errno.ENOTDIR, "That is no folder", place.shown)
                if answer.status != 200:
                    raise await refusal(answer, place)
                return [_entry(line) async for line in answer.content]

        for one in await again(work, place):
            yield one

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        place = self.place(path)
        if self._cache is not None and (kept := await self._cache.open(place)) is not None:
            with kept:
                return await asyncio.to_thread(_cut, kept, start, end)
        reading = Reading(self._wire, place, self._block)
        try:
            await reading.open()
            first, last, _ = slice(start, end).indices(reading.entry.size)
            return bytes(await reading.read(first, last - first))
        finally:
            await reading.close()

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        place = self.place(path)
        writing = Writing(self._wire, place, fresh=mode == "create")
        await writing.write(value)
        await writing.finish()

    async def _put_file(
        self,
        lpath: str,
        rpath: str,
        mode: str = "overwrite",
        callback: Any = DEFAULT_CALLBACK,
        **options: Any,
    ) -> None:
        if os.path.isdir(lpath):
            await self._makedirs(rpath, exist_ok=True)
            return
        place = self.place(rpath)
        callback.set_size(os.path.getsize(lpath))
        if mode == "create" and await self._exists(rpath):
            raise FileExistsError(errno.EEXIST, "There is already something", place.shown)
        await send_file(self._wire, place, str(lpath), told=callback.absolute_update)

    async def _get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, **options: Any
    ) -> None:
        place = self.place(rpath)
        try:
            await fetch_file(self._wire, place, lpath, sized=callback.set_size, told=callback.absolute_update)
        except IsADirectoryError:
            os.makedirs(lpath, exist_ok=True)

    async def _cp_file(self, path1: str, path2: str, **options: Any) -> None:
        source, target = self.place(path1), self.place(path2)
        if (await self._wire.stat(source)).folder:
            await self._makedirs(path2, exist_ok=True)
        elif source.link.root == target.link.root:
            await in_folder(self._wire, target, lambda: self._within("COPY", source, target))
        else:
            await self._across(source, target)

    async def _mv_file(self, path1: str, path2: str) -> None:
        source, target = self.place(path1), self.place(path2)
        if source.link.root == target.link.root:
            await in_folder(self._wire, target, lambda: self._within("MOVE", source, target))
        else:
            await super()._mv_file(path1, path2)

    async def _rm_file(self, path: str, **options: Any) -> None:
        place = self.place(path)
        if (await self._wire.stat(place)).folder:
            raise IsADirectoryError(errno.EISDIR, "That is a folder", place.shown)
        await self._delete(place, empty=True)

    async def _rm(self, path: Any, recursive: bool = False, batch_size: Any = None, **options: Any) -> None:
        if not recursive:
            found = await self._expand_path(path)
            await asyncio.gather(*(self._rm_file(one) for one in found))
            return
        for one in [path] if isinstance(path, str) else path:
            for found in await self._expand_path(one):
                await self._delete(self.place(found))

    async def _rmdir(self, path: str) -> None:
        await self._delete(self.place(path), empty=True)

    async def _mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        place = self.place(path)
        status = await self._wire.do("MKCOL", place)
        if status == 409 and create_parents:
            await self._makedirs(self._parent(path), exist_ok=True)
            status = await self._wire.do("MKCOL", place)
        if status == 405:
            raise FileExistsError(errno.EEXIST, "There is already something", place.shown)
        if status == 409:
            raise FileNotFoundError(errno.ENOENT, "The folder it is to lie in is missing", place.shown)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        place = self.place(path)
        try:
            if not place.path:
                raise FileExistsError(errno.EEXIST, "There is already something", place.shown)
            await self._mkdir(path)
        except FileExistsError:
            if not exist_ok or not (await self._wire.stat(place)).folder:
                raise

    async def _delete(self, place: Place, empty: bool = False) -> None:
        """Remove a file, or a folder with what is in it; ``empty``: one with something in it stays."""
        status = await self._wire.do("DELETE", place, **({"X_Gridcloud_Empty": "1"} if empty else {}))
        if status == 404:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place.shown)
        if status == 409:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), place.shown)

    async def _within(self, method: str, source: Place, target: Place) -> None:
        status = await self._wire.do(method, source, Destination=target.url)
        if status in (405, 409, 412):
            raise FileNotFoundError(errno.ENOENT, "The folder it is to lie in is missing", target.shown)
        if status >= 400:
            raise OSError(errno.EIO, f"The server answers {status}", target.shown)

    async def _across(self, source: Place, target: Place) -> None:
        reading, writing = Reading(self._wire, source, self._block), Writing(self._wire, target)
        try:
            await reading.open()
            async for block in reading.blocks():
                await writing.write(block)
            await writing.finish()
        finally:
            await writing.abort()
            await reading.close()

    def _open(self, path: str, mode: str = "rb", autocommit: bool = True, **options: Any) -> Any:
        place = self.place(path)
        if mode == "rb" and self._cache is not None:
            kept = sync(self.loop, self._cache.open, place)
            if kept is not None:
                return kept
        if mode == "rb":
            reading = Reading(self._wire, place, self._block)
            sync(self.loop, reading.open)
            return ShareReader(self, path, reading)
        writing = sync(self.loop, self._writing, place, mode)
        return ShareWriter(self, path, writing, autocommit=autocommit)

    async def open_async(self, path: str, mode: str = "rb", **options: Any) -> Any:
        """Open a file for use in this loop: an `AsyncReader` or `AsyncWriter`. Raises what `open` raises."""
        place = self.place(path)
        if mode == "rb":
            reading = Reading(self._wire, place, self._block)
            await reading.open()
            return AsyncReader(reading)
        return AsyncWriter(await self._writing(place, mode))

    async def _writing(self, place: Place, mode: str) -> Writing:
        if mode not in ("wb", "xb", "ab"):
            raise ValueError(f"{place.shown} is opened with rb, wb, xb or ab, not {mode}.")
        writing = Writing(self._wire, place, fresh=mode == "xb")
        if mode == "ab":
            await self._begin_with(place, writing)
        if mode == "xb":  # which is looked at again when it appears
            with suppress(FileNotFoundError):
                await self._wire.stat(place)
                raise FileExistsError(errno.EEXIST, "There is already something", place.shown)
        return writing

    async def _begin_with(self, place: Place, writing: Writing) -> None:
        """Begin with what is there: what is added is seen together with it, in one step."""
        reading = Reading(self._wire, place, self._block)
        with suppress(FileNotFoundError):
            try:
                await reading.open()
                async for block in reading.blocks():
                    await writing.write(block)
            finally:
                await reading.close()

    def touch(self, path: str, truncate: bool = True, **options: Any) -> None:
        """Make an empty file; what is there is emptied, or left alone where it is not to be truncated."""
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")

    def mv(
        self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **options: Any
    ) -> None:
        """Rename, in one step where both are single paths of one share."""
        plain = isinstance(path1, str) and isinstance(path2, str) and not set(path1) & set("*?[")
        if plain and not path2.endswith("/") and maxdepth is None and not self.isdir(path2):
            sync(self.loop, self._mv_file, path1, path2)
        else:
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **options)

    def modified(self, path: str) -> Any:
        """Return when a file was changed last."""
        from datetime import UTC, datetime

        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    def ukey(self, path: str) -> str:
        """Return what changes whenever the file does."""
        return str(self.info(path)["etag"])

    rmdir = sync_wrapper(_rmdir)


def _info(path: str, entry: Entry) -> dict[str, Any]:
    return {
        "name": path,
        "size": None if entry.folder else entry.size,
        "type": "directory" if entry.folder else "file",
        "mtime": entry.modified,
        "etag": entry.tag,
    }


def _entry(line: bytes) -> tuple[str, Entry]:
    from email.utils import parsedate_to_datetime

    found = json.loads(line)
    modified = parsedate_to_datetime(found["modified"]).timestamp()
    name = os.fsdecode(unquote_to_bytes(found["href"]))
    if name in ("", ".", "..") or set(name) & {"/", "\0"}:  # whoever fetches a folder writes to such names
        raise OSError(errno.EIO, "The server names a file in a way that would lead elsewhere")
    return name, Entry(found["folder"], found["size"], modified, found["tag"])


def _cut(file: BinaryIO, start: int | None, end: int | None) -> bytes:
    first, last, _ = slice(start, end).indices(os.fstat(file.fileno()).st_size)
    file.seek(first)
    return file.read(max(0, last - first))


def _close(loop: asyncio.AbstractEventLoop, wire: Wire) -> None:
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(wire.close(), loop)
