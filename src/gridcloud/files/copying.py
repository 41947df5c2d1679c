"""Copying, comparing and counting files between any two URLs: several at the same time, on from where it was cut off.

A share's files are sent and fetched as `gridcloud.files.writing` and `gridcloud.files.transfer` do it; what is in both
places, of the same size and time, is not moved again. Everything blocks; threads do the work.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fsspec.callbacks import Callback
from fsspec.implementations.local import LocalFileSystem

from gridcloud.errors import Conflict, InvalidRequest, NotFound
from gridcloud.files.opening import find_files

__all__ = ["Item", "Outcome", "Side", "copy", "differences", "measure", "open_side"]

APART = 2.0
"""Seconds by which the times of two equal files may differ: servers keep whole ones, some only even ones."""

BLOCK = 4 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """A file, by its path below what was named."""

    path: str
    size: int
    modified: float
    """Seconds since 1970; 0 where the place does not tell."""


@dataclass
class Outcome:
    """What copying did."""

    copied: int = 0
    bytes: int = 0
    """Of the files that were copied."""
    unchanged: int = 0
    removed: int = 0


@dataclass(frozen=True)
class Side:
    """One of two places: a file or a folder of any file system."""

    files: Any
    path: str
    is_local: bool = field(default=False)

    def at(self, path: str) -> str:
        """Return where something below it is. Raises InvalidRequest for a name that leads out of it."""
        if not path:
            return self.path
        if set(path.split("/")) & {"..", ".", ""} or "\0" in path:
            raise InvalidRequest(f"{path!r} is no name that is copied: it would lead elsewhere.")
        return f"{self.path}/{path}" if self.path else path

    def items(self) -> dict[str, Item]:
        """Return its files by their paths; of a file itself, by the empty one. Raises NotFound."""
        try:
            info = self.files.info(self.path)
        except FileNotFoundError as error:
            raise NotFound(f"There is nothing at {self.path}.") from error
        if info["type"] != "directory":
            return {"": _item("", info)}
        found = self.files.find(self.path, detail=True)
        prefix = len(self.path) + 1 if self.path else 0
        return {name[prefix:]: _item(name[prefix:], one) for name, one in found.items()}

    def folders(self) -> list[str]:
        """Return its folders by their paths, those above before those below."""
        found = self.files.find(self.path, withdirs=True, detail=True)
        return sorted(
            name[len(self.path) + 1 :]
            for name, one in found.items()
            if one["type"] == "directory" and name != self.path
        )

    def digest(self, path: str, stop: threading.Event) -> str:
        """Return the SHA-256 of a file's content."""
        found = hashlib.sha256()
        with self.files.open(self.at(path), "rb") as file:
            while (data := file.read(BLOCK)) and not stop.is_set():
                found.update(data)
        return found.hexdigest()


@contextmanager
def open_side(url: str, options: Mapping[str, Any] | None = None) -> Iterator[Side]:
    """Give a place by its URL; ``options``: for those that are shares."""
    is_share = "/s/" in url or url.startswith("share://")
    files, path = find_files(url, **(dict(options or {}) if is_share else {}))
    try:
        yield Side(files, path.rstrip("/") or path, isinstance(files, LocalFileSystem))
    finally:
        if is_share and hasattr(files, "close"):
            files.close()


def copy(
    source: Side,
    target: Side,
    *,
    jobs: int = 8,
    update: bool = False,
    delete: bool = False,
    checksum: bool = False,
    told: Callable[[int, int, int], object] = lambda files, size, total: None,
) -> Outcome:
    """Copy a file, or what is in a folder, and look at the size of each that arrived.

    ``update``: leave alone what is the same there, by size and time or, with ``checksum``, by its content; ``delete``:
    remove files there that are not here. ``told``: called now and then with the files that are copied, the bytes that
    were moved, and those that are to be. Raises NotFound, Conflict where something arrived with another size.
    """
    items = source.items()
    is_file = set(items) == {""}
    if is_file and _is_folder(target):
        target = Side(target.files, target.at(source.path.rpartition("/")[2]), target.is_local)
    there = _there(target) if update or delete else {}
    outcome = Outcome()
    with _Work(jobs, told) as work:
        if update:
            same = work.of(
                list(items.values()), lambda one: _is_same(source, target, one, there, checksum, work.stop)
            )
            outcome.unchanged = sum(same)
            items = {one.path: one for one, equal in zip(items.values(), same, strict=True) if not equal}
        work.total = sum(one.size for one in items.values())
        if not is_file:
            _make_folders(source, target)
        work.of(list(items.values()), lambda one: _copy_one(source, target, one, work))
        outcome.copied, outcome.bytes = len(items), work.total
        if delete and not is_file:
            gone = sorted(set(there) - set(source.items()))
            work.of(gone, lambda path: target.files.rm_file(target.at(path)))
            outcome.removed = len(gone)
    return outcome


def differences(
    source: Side,
    target: Side,
    *,
    jobs: int = 8,
    told: Callable[[int, int, int], object] = lambda files, size, total: None,
) -> list[tuple[str, str]]:
    """Return the paths whose content is not the same in both places, each with what is: missing, more, differs."""
    here, there = source.items(), target.items()
    found = [(path, "missing") for path in here.keys() - there.keys()]
    found += [(path, "more") for path in there.keys() - here.keys()]
    both = sorted(here.keys() & there.keys())
    with _Work(jobs, told) as work:
        work.total = sum(here[path].size for path in both)

        def same(path: str) -> bool:
            equal = here[path].size == there[path].size
            equal = equal and source.digest(path, work.stop) == target.digest(path, work.stop)
            work.count(1, here[path].size)
            return equal

        found += [
            (path, "differs") for path, equal in zip(both, work.of(both, same), strict=True) if not equal
        ]
    return sorted(found)


def measure(side: Side) -> tuple[int, int]:
    """Return how many files there are, and their bytes."""
    items = side.items().values()
    return len(items), sum(one.size for one in items)


class _Work:
    """Threads that work through lists, stop when one fails, and tell how far they are."""

    def __init__(self, jobs: int, told: Callable[[int, int, int], object]) -> None:
        self.stop = threading.Event()
        self.total = 0
        self._pool = ThreadPoolExecutor(jobs, "asyncio_copy")
        self._told = told
        self._lock = threading.Lock()
        self._files = 0
        self._moved = 0

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self._pool.shutdown(cancel_futures=True)

    def of(self, things: list[Any], work: Callable[[Any], Any]) -> list[Any]:
        """Return what the work makes of each. Raises what went wrong first, once the others have stopped."""
        futures = [self._pool.submit(work, one) for one in things]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for one in done:
                if one.exception() is not None:
                    self.stop.set()
                    one.result()
            return [one.result() for one in futures]
        except BaseException:
            self.stop.set()
            for one in futures:
                one.cancel()
            raise

    def count(self, files: int, size: int) -> None:
        """Count what was done."""
        with self._lock:
            self._files += files
            self._moved += size
            self._told(self._files, self._moved, self.total)


class _Count(Callback):  # type: ignore[misc]
    """Counts the bytes of one file, and ends its way when the work has stopped."""

    def __init__(self, work: _Work) -> None:
        super().__init__()
        self._work = work
        self.seen = 0

    def absolute_update(self, value: int) -> None:
        if self._work.stop.is_set():
            raise InterruptedError("stopped")
        self._work.count(0, value - self.seen)
        self.seen = value


def _copy_one(source: Side, target: Side, item: Item, work: _Work) -> None:
    if work.stop.is_set():
        return
    here, there = source.at(item.path), target.at(item.path)
    counted = _Count(work)
    if source.is_local and not target.is_local:
        target.files.put_file(here, there, callback=counted)
    elif target.is_local and not source.is_local:
        os.makedirs(os.path.dirname(there), exist_ok=True)
        source.files.get_file(here, there, callback=counted)
    else:
        if target.is_local:
            os.makedirs(os.path.dirname(there), exist_ok=True)
        with source.files.open(here, "rb") as read, target.files.open(there, "wb") as written:
            shutil.copyfileobj(read, written, BLOCK)
    if target.is_local and item.modified:
        os.utime(there, (item.modified, item.modified))
    arrived = target.files.info(there)["size"]
    if arrived != item.size:
        raise Conflict(
            f"{there} has {arrived} bytes and not {item.size}.", remedy="Was it changed meanwhile?"
        )
    work.count(1, item.size - counted.seen)


def _is_same(
    source: Side, target: Side, item: Item, there: dict[str, Item], checksum: bool, stop: threading.Event
) -> bool:
    other = there.get(item.path)
    if other is None or other.size != item.size:
        return False
    if checksum:
        return source.digest(item.path, stop) == target.digest(item.path, stop)
    return bool(item.modified) and abs(other.modified - item.modified) <= APART


def _make_folders(source: Side, target: Side) -> None:
    target.files.makedirs(target.path, exist_ok=True)
    for path in source.folders():
        target.files.makedirs(target.at(path), exist_ok=True)


def _there(target: Side) -> dict[str, Item]:
    try:
        return target.items()
    except NotFound:
        return {}


def _is_folder(target: Side) -> bool:
    return bool(target.files.isdir(target.path))


def _item(path: str, info: Mapping[str, Any]) -> Item:
    when = next((info[key] for key in ("mtime", "LastModified", "created") if info.get(key)), 0.0)
    return Item(path, int(info["size"] or 0), when.timestamp() if isinstance(when, datetime) else float(when))
