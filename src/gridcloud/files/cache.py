"""Files of shares that are kept on disk, for all programs of one user: each is asked about before it is used.

A kept file is its content and a note of what it was: the share's tag of it, its hash, and what the kernel says of the
content's file. A content that the kernel says was touched is hashed again, and one that is not what was noted is thrown
away. Names are hashes, so that no secret stands in the folder; what is longest unused goes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gridcloud.errors import InvalidRequest, Untrusted
from gridcloud.files.links import Place
from gridcloud.files.reading import Reading
from gridcloud.files.wire import Wire

__all__ = ["DiskCache", "cache_folder"]

log = logging.getLogger(__name__)

STALE = 86400.0
"""Seconds after which what belongs to no note, or was never finished, is removed."""

TRIES = 3
"""How often a file is fetched that is changed while that goes on."""


class DiskCache:
    """What is kept below a folder, ``size`` bytes at most. ``offline``: see `ShareFileSystem`."""

    def __init__(self, wire: Wire, folder: Path, size: int, offline: str) -> None:
        if offline not in ("never", "allow", "only"):
            raise InvalidRequest(f"offline: {offline!r} is none of never, allow, only.")
        self._wire = wire
        self._folder = folder
        self._size = size
        self._offline = offline
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise Untrusted(
                f"Others may write into {folder}.", remedy="Take another folder, or chmod 700 it."
            )

    async def open(self, place: Place) -> BinaryIO | None:
        """Return a file that is what the share has now; None where it is too large to be kept.

        Raises FileNotFoundError and PermissionError as the share does, which also throws away what was kept, and
        ConnectionError where it cannot be asked, unless ``offline`` allows to use what is kept.
        """
        key = hashlib.sha256(place.url.encode()).hexdigest()
        kept = await asyncio.to_thread(self._load, key)
        if self._offline == "only":
            if kept is None:
                raise FileNotFoundError(errno.ENOENT, "It is not kept on this computer", place.shown)
            return kept[1]
        try:
            fresh = await self._renew(place, key, kept[0]["tag"] if kept else "")
        except ConnectionError:
            if self._offline == "allow" and kept is not None:
                log.warning("%s cannot be asked: what was kept of it is used", place.shown)
                return kept[1]
            _close(kept)
            raise
        except (FileNotFoundError, PermissionError):
            _close(kept)
            self._drop(key)
            raise
        except BaseException:
            _close(kept)
            raise
        if fresh == "same" and kept is not None:
            os.utime(self._note(key))
            return kept[1]
        _close(kept)
        if fresh == "large":
            return None
        loaded = await asyncio.to_thread(self._load, key)
        return None if loaded is None else loaded[1]

    async def _renew(self, place: Place, key: str, tag: str) -> str:
        """Fetch a file unless it is still what has that tag; return what was found: same, new, large."""
        for tried in range(TRIES):
            reading = Reading(self._wire, place)
            try:
                if not await reading.open(tag):
                    return "same"
                if reading.entry.size > self._size:
                    return "large"
                await self._keep(reading, key)
                await asyncio.to_thread(self._make_room)
                return "new"
            except OSError as error:
                if error.errno != errno.ESTALE or tried == TRIES - 1:
                    raise
            finally:
                await reading.close()
        raise AssertionError("unreachable")

    async def _keep(self, reading: Reading, key: str) -> None:
        folder = self._note(key).parent
        folder.mkdir(mode=0o700, exist_ok=True)
        content = folder / f"{key}-{secrets.token_hex(8)}.data"
        digest = hashlib.sha256()
        try:
            with content.open("xb") as file:
                async for block in reading.blocks():
                    await asyncio.to_thread(file.write, block)
                    await asyncio.to_thread(digest.update, block)
            note = {
                "tag": reading.entry.tag,
                "content": content.name,
                "sha256": digest.hexdigest(),
                "file": _seen(content.stat()),
            }
            self._write_note(key, note)
        except BaseException:
            content.unlink(missing_ok=True)
            raise

    def _load(self, key: str) -> tuple[dict[str, Any], BinaryIO] | None:
        """Return the note and content of a file, if they are sound."""
        for _ in range(TRIES):  # it may be replaced between the two
            try:
                note = json.loads(self._note(key).read_bytes())
                path = self._note(key).parent / Path(note["content"]).name
                file = path.open("rb")
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError):
                break
            try:
                if _seen(os.fstat(file.fileno())) == note["file"]:
                    return note, file
                if hashlib.file_digest(file, "sha256").hexdigest() == note["sha256"]:
                    file.seek(0)
                    self._write_note(key, {**note, "file": _seen(os.fstat(file.fileno()))})
                    return note, file
            except (OSError, KeyError):
                pass
            file.close()
            log.warning("what was kept of a file is damaged: it is fetched anew")
            break
        self._drop(key)
        return None

    def _write_note(self, key: str, note: dict[str, Any]) -> None:
        path = self._note(key)
        before = None
        with contextlib.suppress(OSError, ValueError):
            before = json.loads(path.read_bytes()).get("content")
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".new", delete=False) as file:
            json.dump(note, file)
        os.replace(file.name, path)
        if before and before != note["content"]:
            (path.parent / Path(before).name).unlink(missing_ok=True)

    def _drop(self, key: str) -> None:
        path = self._note(key)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            (path.parent / Path(json.loads(path.read_bytes())["content"]).name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

    def _make_room(self) -> None:
        """Remove what is longest unused until the rest fits, and what belongs to nothing."""
        with (self._folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            notes: list[tuple[float, str]] = []
            sizes: dict[str, int] = {}
            for path, status in self._files():
                if path.suffix == ".json":
                    notes.append((status.st_mtime, path.stem))
                elif path.suffix == ".data":
                    key = path.name.partition("-")[0]
                    sizes[key] = sizes.get(key, 0) + status.st_size
                stale = path.suffix != ".json" and status.st_mtime < time.time() - STALE
                if stale and not self._note(path.name.partition("-")[0]).exists():
                    path.unlink(missing_ok=True)
            total = sum(sizes.values())
            for _, key in sorted(notes):
                if total <= self._size:
                    break
                self._drop(key)
                total -= sizes.get(key, 0)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()

    def _note(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def cache_folder() -> Path:
    """Return where files are kept where nothing else is said: the user's folder for what can be fetched again."""
    from platformdirs import user_cache_path

    return user_cache_path("gridcloud", appauthor=False) / "shares"


def _seen(status: os.stat_result) -> list[int]:
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _close(kept: tuple[dict[str, Any], BinaryIO] | None) -> None:
    if kept is not None:
        kept[1].close()
