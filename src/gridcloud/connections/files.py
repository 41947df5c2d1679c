"""Copy a file or a folder between two sides, whole or not at all, and never outside the place that was named.

A side is a file system: this computer's (`LocalSide`, also as another user), or the one behind SFTP. Names come
from the other side and are not trusted: each must be one plain path component. A file is written under a hidden
name beside its own and renamed when complete; a new folder likewise as a whole. Links inside a folder are made last,
so that nothing is ever written through one.
"""

from __future__ import annotations

import asyncio
import posixpath
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from gridcloud.connections.driver import Progress
from gridcloud.errors import Forbidden, GridcloudError, InvalidRequest, NotFound

__all__ = ["Entry", "Move", "Report", "Side", "copy"]

Report = Callable[[int], None]
"""Called with the number of bytes that have just been moved."""

_DEPTH = 200  # folders within folders; a hostile server could offer one without end
_AT_ONCE = 24  # files of a folder in flight


@dataclass(frozen=True, slots=True)
class Entry:
    """What is at a path. ``mode`` holds permission bits only; setuid, setgid and sticky bits are never copied."""

    kind: Literal["file", "folder", "link", "other"]
    mode: int
    size: int


class Side(Protocol):
    """A file system. Paths are text with undecodable bytes as surrogates. Every method raises errors of gridcloud."""

    async def look(self, path: str, *, follow: bool) -> Entry | None:
        """Return what is there, or None."""

    async def children(self, path: str) -> list[tuple[str, Entry]]:
        """Return names and entries of a folder, links not followed, without ``.`` and ``..``."""

    async def make_folder(self, path: str) -> None:
        """Make one folder with mode 0700; its parent exists."""

    async def read_link(self, path: str) -> str:
        """Return where a link points."""

    async def make_link(self, path: str, to: str) -> None:
        """Make a symbolic link."""

    async def rename(self, old: str, new: str) -> None:
        """Rename, replacing a file that is there."""

    async def change_mode(self, path: str, mode: int) -> None:
        """Set permission bits."""

    async def remove(self, path: str) -> None:
        """Remove a file, link or folder with all it holds. What is not there is removed."""


Move = Callable[[str, str, Entry, Report], Awaitable[None]]
"""Write the file ``source`` to the new file ``target``, with the entry's mode. ``target`` does not exist yet."""


@dataclass(slots=True)
class _Copy:
    source: Side
    target: Side
    move: Move
    progress: Progress | None
    label: str
    total: int = 0
    done: int = 0
    links: list[tuple[str, str]] = field(default_factory=list)
    folders: list[tuple[str, int]] = field(default_factory=list)

    def report(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.label, self.done, max(self.total, self.done))


async def copy(
    source: Side, path: str, target: Side, to: str, move: Move, progress: Progress | None, label: str
) -> None:
    """Copy ``path`` of one side to ``to`` of the other. Devices, pipes and sockets within a folder are left out.

    Raises NotFound, StorageFull, Forbidden, InvalidRequest. On any failure nothing half-made is left.
    """
    top = await source.look(path, follow=True)
    if top is None:
        raise NotFound(f"There is no {path!r} to copy.", remedy="Check the path.")
    if top.kind == "other":
        raise InvalidRequest(f"{path!r} is neither a file nor a folder.")
    work = _Copy(source, target, move, progress, label)
    work.total = top.size if top.kind == "file" else -1
    there = await target.look(to, follow=True)
    if there is not None and there.kind != top.kind:
        raise InvalidRequest(
            f"{to!r} is a {there.kind} and cannot be replaced by a {top.kind}.", remedy="Name another target."
        )
    if there is None:
        await _make_parents(target, posixpath.dirname(to.rstrip("/")))
    if top.kind == "file":
        await _copy_file(work, path, to, top)
    elif there is None:
        async with _partial(target, to.rstrip("/")) as partial:
            await _copy_folder(work, path, partial, fresh=True, mode=top.mode)
    else:
        await _copy_folder(work, path, to, fresh=False, mode=top.mode)
    work.report(0)


async def _copy_file(work: _Copy, source: str, target: str, entry: Entry) -> None:
    async with _partial(work.target, target) as partial:
        await work.move(source, partial, entry, work.report)


@asynccontextmanager
async def _partial(side: Side, path: str) -> AsyncIterator[str]:
    """Give a hidden name beside ``path``; rename it to ``path`` at the end, or remove it on failure."""
    folder, name = posixpath.split(path)
    partial = posixpath.join(folder, f".{name[:80]}.{secrets.token_hex(6)}.part")
    try:
        yield partial
        await side.rename(partial, path)
    except BaseException:
        await _remove_in_any_case(side, partial)
        raise


async def _remove_in_any_case(side: Side, path: str) -> None:
    """Remove, even while being cancelled; a side that no longer answers keeps what it has."""
    removal = asyncio.ensure_future(side.remove(path))
    while not removal.done():
        try:
            await asyncio.wait_for(asyncio.shield(removal), 10)
        except asyncio.CancelledError:
            continue
        except (GridcloudError, TimeoutError):
            break


async def _make_parents(side: Side, folder: str) -> None:
    missing: list[str] = []
    while folder not in ("", "/"):
        entry = await side.look(folder, follow=True)
        if entry is not None:
            if entry.kind != "folder":
                raise InvalidRequest(f"{folder!r} is no folder.", remedy="Name another target.")
            break
        missing.append(folder)
        folder = posixpath.dirname(folder)
    for path in reversed(missing):
        try:
            await side.make_folder(path)
        except GridcloudError:
            if await side.look(path, follow=True) is None:  # another copy may have made it meanwhile
                raise
            continue
        await side.change_mode(path, 0o755)


async def _copy_folder(work: _Copy, source: str, target: str, *, fresh: bool, mode: int) -> None:
    if fresh:
        await work.target.make_folder(target)
        work.folders.append((target, mode))
    queue: list[tuple[str, str, Entry]] = []
    await _plan(work, source, target, queue, fresh=fresh, depth=0)
    work.total = sum(entry.size for _, _, entry in queue)
    waiting = iter(queue)

    async def carry() -> None:
        for path, to, entry in waiting:
            if fresh:  # the whole folder is hidden still
                await work.move(path, to, entry, work.report)
            else:
                await _copy_file(work, path, to, entry)

    await _together([carry() for _ in range(min(_AT_ONCE, len(queue)))])
    for path, to in work.links:
        if not fresh:
            await work.target.remove(path)
        await work.target.make_link(path, to)
    for path, bits in reversed(work.folders):
        await work.target.change_mode(path, bits)


async def _plan(
    work: _Copy, source: str, target: str, queue: list[tuple[str, str, Entry]], *, fresh: bool, depth: int
) -> None:
    """List the files to carry, making the folders for them. Links and modes are noted for later."""
    if depth > _DEPTH:
        raise InvalidRequest(f"{source!r} is more than {_DEPTH} folders deep.")
    below = []
    seen: set[str] = set()
    for name, entry in await work.source.children(source):
        if not name or name in (".", "..") or "/" in name or "\0" in name or name in seen:
            raise Forbidden(
                f"The other side names a file {name!r}: refused, for it could lead outside the target."
            )
        seen.add(name)
        path, to = posixpath.join(source, name), posixpath.join(target, name)
        if entry.kind == "file":
            if not fresh:
                await _refuse_folder(work.target, to)
            queue.append((path, to, entry))
        elif entry.kind == "link":
            work.links.append((to, await work.source.read_link(path)))
        elif entry.kind == "folder":
            await _ready_folder(work, to, entry, fresh=fresh)
            below.append(_plan(work, path, to, queue, fresh=fresh, depth=depth + 1))
    if below:
        await _together(below)


async def _ready_folder(work: _Copy, path: str, entry: Entry, *, fresh: bool) -> None:
    there = None if fresh else await work.target.look(path, follow=False)
    if there is not None and there.kind == "folder":
        return
    if there is not None:  # a link or a file of this name gives way: nothing may be written through it
        await work.target.remove(path)
    await work.target.make_folder(path)
    work.folders.append((path, entry.mode))


async def _refuse_folder(side: Side, path: str) -> None:
    there = await side.look(path, follow=False)
    if there is not None and there.kind == "folder":
        raise InvalidRequest(
            f"{path!r} is a folder and cannot be replaced by a file.", remedy="Name another target."
        )


async def _together(works: Sequence[Awaitable[None]]) -> None:
    """Run all; on the first failure cancel the others, wait for them and raise it."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
