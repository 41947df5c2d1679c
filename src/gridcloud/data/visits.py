"""A visit: somebody who was let in by a link, and what they may do there.

Every door translates its protocol into these calls, so that rights, limits and answers are the same behind all of them.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Protocol

from gridcloud.data.driver import Dated, Entry, Reader, Storage, Writer
from gridcloud.data.model import Door, Refusal, Rights, Share
from gridcloud.data.paths import Names, parse, show
from gridcloud.errors import Conflict, Forbidden, GridcloudError, InvalidRequest, NotFound

__all__ = ["BLOCK", "Books", "Visit", "VisitReader", "VisitWriter", "refused"]

BLOCK = 1 << 20
"""Bytes that are copied at once."""

COPIES = 1000
"""Numbers that are tried for a name that is taken in a drop box."""

DEEPEST = 200
"""Folders within folders that are copied or removed in one go."""


class Books(Protocol):
    """Where uses, bytes and accesses are written down."""

    async def use(self, share: Share, address: str, path: Names) -> None:
        """Count a file that is opened. Raises Forbidden when the link was used up."""

    def move(self, share: Share, size: int) -> None:
        """Count bytes. Raises Forbidden when there were too many."""

    def note(self, share: Share, act: str, door: Door, address: str, path: Names, size: int = 0) -> None:
        """Write down what was done, for the owner to see."""

    def now(self) -> datetime:
        """The time."""


class Visit:
    """One client at one share through one door."""

    def __init__(
        self,
        share: Share,
        storage: Storage,
        door: Door,
        address: str,
        books: Books,
        *,
        only: Names | None = None,
        until: datetime | None = None,
    ) -> None:
        self.share = share
        self.door = door
        self.address = address
        self._storage = storage
        self._books = books
        self._folder = parse(share.folder) if share.storage else ()
        self._only = only
        """The one file that a signed URL lets be read; None: what the link does."""
        self._until = until
        self._ended: GridcloudError | None = None
        self._cuts: dict[int, Callable[[], None]] = {}
        self._own: set[Names] = set()
        """What was added in this visit: all that a drop box shows again, and only its size."""

    @property
    def may_read(self) -> bool:
        """Whether it may list and read."""
        return self._only is not None or self.share.rights is not Rights.WRITE

    @property
    def may_write(self) -> bool:
        """Whether it may add files."""
        return self._only is None and self.share.rights is not Rights.READ

    @property
    def may_change(self) -> bool:
        """Whether it may replace, remove and rename."""
        return self._only is None and self.share.rights is Rights.READ_WRITE

    def on_cut(self, key: int, cut: Callable[[], None]) -> Callable[[], None]:
        """Have ``cut`` called when the visit ends before its time; return what takes that back."""
        self._cuts[key] = cut
        return lambda: self._cuts.pop(key, None) and None

    def end(self, error: GridcloudError) -> None:
        """End it: whatever is under way is cut off, and what is asked later raises the error."""
        if self._ended is None:
            self._ended = error
        cuts, self._cuts = self._cuts, {}
        for cut in cuts.values():
            cut()

    def check(self) -> None:
        """Raise what ended the visit, if something did."""
        if self._ended is not None:
            raise self._ended
        for expires in (self.share.limits.expires, self._until):
            if expires is not None and self._books.now() >= expires:
                raise refused(Refusal.EXPIRED)

    def check_change(self, what: str) -> None:
        """Raise Forbidden, with what was to be done, unless it may replace, remove and rename."""
        self._need(self.may_change, what)

    async def stat(self, path: Names) -> Entry:
        """Return what is there. In a drop box only its top, folders, and what this visit has put there are."""
        self.check()
        if path and not self.may_read and path not in self._own:
            raise NotFound(f"There is no {show(path)}.")
        entry = await self._storage.stat(self._at(path))
        if not self._fits(path, entry):
            raise NotFound(f"There is no {show(path)}.")
        return entry

    async def scan(self, path: Names) -> AsyncIterator[list[Entry]]:
        """Yield what is in a folder. Raises Forbidden in a drop box."""
        self.check()
        self._need(self.may_read, "list what is there")
        self._books.note(self.share, "listed", self.door, self.address, path)
        found = self._storage.scan(self._at(path))
        async for batch in found:
            self.check()
            yield [one for one in batch if self._fits((*path, one.name), one)]

    async def read(self, path: Names) -> VisitReader:
        """Open a file for reading. Raises Forbidden, NotFound, InvalidRequest."""
        self.check()
        self._need(self.may_read, "read")
        if not self._named(path):
            raise NotFound(f"There is no {show(path)}.")
        reader = await self._storage.read(self._at(path))
        try:
            await self._books.use(self.share, self.address, path)
        except BaseException:
            await reader.close()
            raise
        return VisitReader(self, path, reader)

    async def write(self, path: Names, *, token: str = "", keep: bool = False) -> VisitWriter:
        """Begin a file; nobody sees it before it is finished. Raises Forbidden, NotFound."""
        self.check()
        self._need(self.may_write, "write")
        if not path:
            raise InvalidRequest("A folder cannot be written to as a file.")
        if not self._named(path):
            raise refused(Refusal.PATTERN, f"This link is not for files such as {show(path)}.")
        # Whoever knows a token of one link does not reach by it what came by another.
        token = hashlib.sha256(f"{self.share.id} {token}".encode()).hexdigest() if token else ""
        writer = await self._storage.write(self._at(path), token=token, keep=keep and self.may_change)
        try:
            await self._books.use(self.share, self.address, path)
        except BaseException:
            await writer.leave()
            raise
        return VisitWriter(self, path, writer)

    async def make_folder(self, path: Names) -> None:
        """Make a folder. In a drop box one that is there already is as good as a new one."""
        self.check()
        self._need(self.may_write, "make folders")
        try:
            await self._storage.make_folder(self._at(path))
        except Conflict:
            if self.may_read:
                raise
        self._own.add(path)
        self._books.note(self.share, "made", self.door, self.address, path)

    async def remove(self, path: Names, *, whole: bool = False) -> None:
        """Remove a file or an empty folder; ``whole``: a folder with what is in it.

        A folder that holds what the link does not show stays, with that. Raises Conflict then.
        """
        self.check()
        self._need(self.may_change, "remove")
        entry = await self.stat(path)
        if entry.folder and whole:
            await self._empty(path, 0)
        await self._storage.remove(self._at(path))
        self._books.note(self.share, "removed", self.door, self.address, path)

    async def move(self, source: Names, target: Names, *, replace: bool = False) -> None:
        """Rename. Raises Conflict where there is something, unless ``replace``."""
        self.check()
        self._need(self.may_change, "rename")
        entry = await self.stat(source)
        if not entry.folder and not self._named(target):
            raise refused(Refusal.PATTERN, f"This link is not for files such as {show(target)}.")
        if source == target:
            raise Forbidden(f"{show(source)} cannot be moved to itself.")
        if replace:
            await self._make_way(source, target, entry)
        await self._storage.move(self._at(source), self._at(target), replace=replace)
        self._books.note(self.share, f"moved from {show(source)} to", self.door, self.address, target)

    async def set_modified(self, path: Names, modified: float) -> None:
        """Set when a file was changed last, where the storage can; what a drop box was given keeps its own time."""
        self.check()
        self._need(self.may_write, "change")
        if self.may_change and isinstance(self._storage, Dated):
            await self.stat(path)
            await self._storage.set_modified(self._at(path), modified)

    async def copy(self, source: Names, target: Names, *, replace: bool = False, deep: bool = True) -> None:
        """Copy a file, or a folder with what is in it (``deep``) or without."""
        self.check()
        self._need(self.may_read and self.may_write, "copy")
        entry = await self.stat(source)
        if source == target:
            raise Forbidden(f"{show(source)} cannot be copied onto itself.")
        if entry.folder and target[: len(source)] == source:
            raise InvalidRequest(f"{show(source)} cannot be copied into itself.")
        if replace:
            await self._make_way(source, target, entry)
        await self._copy(source, target, entry, replace, deep, 0)

    async def _make_way(self, source: Names, target: Names, entry: Entry) -> None:
        """Remove what stands at a target, unless one rename replaces it."""
        if source[: len(target)] == target:
            raise Conflict(f"{show(source)} lies in what would be replaced.")
        try:
            there = await self.stat(target)
        except NotFound:
            return
        if there.folder or entry.folder:
            await self.remove(target, whole=True)

    async def _copy(
        self, source: Names, target: Names, entry: Entry, replace: bool, deep: bool, depth: int
    ) -> None:
        if not entry.folder:
            await self._copy_file(source, target, replace)
            return
        _check_depth(depth, source)
        await self.make_folder(target)
        if deep:
            async for batch in self.scan(source):
                for one in batch:
                    deeper = (*source, one.name), (*target, one.name)
                    await self._copy(*deeper, one, replace, deep, depth + 1)

    async def _copy_file(self, source: Names, target: Names, replace: bool) -> None:
        reader = await self.read(source)
        try:
            writer = await self.write(target)
            try:
                offset = 0
                while data := await reader.read(offset, BLOCK):
                    await writer.write(offset, data)
                    offset += len(data)
                await writer.finish(replace=replace)
            finally:
                await writer.abort()
        finally:
            await reader.close()

    async def _empty(self, path: Names, depth: int) -> None:
        _check_depth(depth, path)
        async for batch in self.scan(path):
            for one in batch:
                deeper = (*path, one.name)
                if one.folder:
                    await self._empty(deeper, depth + 1)
                await self._storage.remove(self._at(deeper))

    def _at(self, path: Names) -> Names:
        return self._folder + path

    def _need(self, may: bool, what: str) -> None:
        if not may:
            raise refused(Refusal.RIGHTS, f"This link does not let you {what}.")

    def _fits(self, path: Names, entry: Entry) -> bool:
        return entry.folder or self._named(path)

    def _named(self, path: Names) -> bool:
        if self._only is not None and path != self._only:
            return False
        patterns = self.share.limits.patterns
        return not patterns or any(fnmatch.fnmatchcase(path[-1], one) for one in patterns if path)


class VisitReader:
    """A file that a visit reads."""

    def __init__(self, visit: Visit, path: Names, reader: Reader) -> None:
        self.entry = reader.entry
        self._visit = visit
        self._path = path
        self._reader = reader
        self._moved = 0
        self._open = True

    async def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes; fewer only at the end. Raises what ended the visit."""
        data = await self.take(offset, size)
        self.count(len(data))
        return data

    async def take(self, offset: int, size: int) -> bytes:
        """Return bytes that were counted before. Raises what ended the visit."""
        self._visit.check()
        return await self._reader.read(offset, size)

    def check(self) -> None:
        """Raise what ended the visit, if something did."""
        self._visit.check()

    def count(self, size: int) -> None:
        """Count bytes that are about to be sent; fewer than none: that were not. Raises what ended the visit."""
        if size > 0:
            self._visit.check()
        self._visit._books.move(self._visit.share, size)
        self._moved += size

    def fileno(self) -> int | None:
        """Return a descriptor for sendfile where there is one; what it sends is to be counted."""
        return self._reader.fileno()

    async def close(self) -> None:
        """Let go of it, and write down what was read. May be called twice."""
        if self._open:
            self._open = False
            visit = self._visit
            visit._books.note(visit.share, "read", visit.door, visit.address, self._path, self._moved)
        await self._reader.close()


class VisitWriter:
    """A file that a visit writes."""

    def __init__(self, visit: Visit, path: Names, writer: Writer) -> None:
        self.path = path
        self._visit = visit
        self._writer = writer
        self._moved = 0

    @property
    def size(self) -> int:
        """Bytes there are now."""
        return self._writer.size

    async def write(self, offset: int, data: bytes) -> None:
        """Put bytes anywhere. Raises what ended the visit."""
        self._visit.check()
        self._visit._books.move(self._visit.share, len(data))
        self._moved += len(data)
        await self._writer.write(offset, data)

    async def read(self, offset: int, size: int) -> bytes:
        """Return what was written in this visit, or was there; never in a drop box."""
        self._visit.check()
        self._visit._need(self._visit.may_read, "read")
        data = await self._writer.read(offset, size)
        self._visit._books.move(self._visit.share, len(data))
        return data

    async def truncate(self, size: int) -> None:
        """Make it as long as that."""
        self._visit.check()
        await self._writer.truncate(size)

    async def finish(self, *, replace: bool = True, modified: float | None = None) -> Entry:
        """Let the file appear, whole and on disk. In a drop box under another name where its own is taken."""
        visit = self._visit
        visit.check()
        path = self.path
        if visit.may_change:
            entry = await self._writer.finish(replace=replace, modified=modified)
        else:
            entry, path = await self._add(modified)
        visit._own.add(self.path)
        visit._books.note(visit.share, "wrote", visit.door, visit.address, path, self._moved)
        return entry

    async def leave(self) -> None:
        """Let go of it, for whoever knows its token to go on."""
        await self._writer.leave()

    async def abort(self) -> None:
        """Forget it, unless it is finished."""
        await self._writer.abort()

    async def _add(self, modified: float | None) -> tuple[Entry, Names]:
        *folder, name = self.path
        stem, dot, end = name.partition(".") if not name.startswith(".") else (name, "", "")
        for number in range(1, COPIES):
            tried = (*folder, name if number == 1 else f"{stem} ({number}){dot}{end}")
            self._writer.rename(self._visit._at(tried))
            try:
                return await self._writer.finish(replace=False, modified=modified), tried
            except Conflict:
                continue
        raise Conflict(f"There are too many files called {name}.")


def refused(why: Refusal, text: str = "") -> GridcloudError:
    """Return the error for a limit that does not let somebody on; ``details["limit"]`` names it."""
    kind, usual = _REFUSALS[why]
    return kind(text or usual, details={"limit": str(why)})


_REFUSALS: dict[Refusal, tuple[type[GridcloudError], str]] = {
    Refusal.UNKNOWN: (NotFound, "There is no such link."),
    Refusal.REVOKED: (NotFound, "This link was revoked by its owner."),
    Refusal.EXPIRED: (NotFound, "This link has expired."),
    Refusal.NETWORK: (Forbidden, "This link does not work from this address."),
    Refusal.USES: (Forbidden, "This link was used as often as it may be."),
    Refusal.BYTES: (Forbidden, "This link has moved as many bytes as it may."),
    Refusal.RIGHTS: (Forbidden, "This link does not give this right."),
    Refusal.PATTERN: (Forbidden, "This link is not for files of this name."),
}


def _check_depth(depth: int, path: Names) -> None:
    if depth > DEEPEST:
        raise InvalidRequest(f"{show(path)[:200]} lies deeper than {DEEPEST} folders.")
