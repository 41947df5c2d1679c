"""The contract of storages: what keeps the files of shares, below one folder of its own.

A storage answers in the words of `gridcloud.errors`: NotFound, Conflict (there is one already, or a folder that is not
empty), InvalidRequest (a folder where a file is meant, a link), Forbidden, StorageFull, Unreachable. Blocking work is
done in threads: no method holds up the loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.data.paths import Names

__all__ = ["Dated", "Entry", "Reader", "Storage", "StorageSettings", "Writer"]


class StorageSettings(BaseModel):
    """What every entry of ``shares.storages`` has; each driver's ``Settings`` extends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver: str = Field(description="the driver that serves this entry: local, …")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder as it is now."""

    name: str
    folder: bool
    size: int
    """Bytes; 0 for a folder."""
    modified: float
    """Seconds since 1970."""
    tag: str
    """Changes whenever the content does: the file's ETag without its quotes. Empty for a folder."""


class Reader(ABC):
    """An open file. It stays what it was when it was opened, whoever replaces it meanwhile."""

    entry: Entry

    @abstractmethod
    async def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from ``offset``; fewer only at the end."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of it. May be called twice."""

    def fileno(self) -> int | None:
        """Return a descriptor for sendfile where there is one; it stays the reader's."""
        return None


class Writer(ABC):
    """A file being written that nobody sees before `finish`."""

    size: int
    """Bytes there are now."""

    @abstractmethod
    async def write(self, offset: int, data: bytes) -> None:
        """Put bytes anywhere. Raises StorageFull, after which it may be aborted or tried again."""

    @abstractmethod
    async def read(self, offset: int, size: int) -> bytes:
        """Return what was written."""

    @abstractmethod
    async def truncate(self, size: int) -> None:
        """Make it as long as that; what is new is zero."""

    @abstractmethod
    async def finish(self, *, replace: bool = True, modified: float | None = None) -> Entry:
        """Let the file appear, whole and on disk, in the place of what was there; or raise Conflict unless
        ``replace``, after which it may be finished elsewhere with `rename`. NotFound where its folder is gone."""

    @abstractmethod
    def rename(self, path: Names) -> None:
        """Have it appear elsewhere."""

    @abstractmethod
    async def leave(self) -> None:
        """Let go of it, unfinished, for whoever knows its token to go on. May be called twice, and after `finish`."""

    @abstractmethod
    async def abort(self) -> None:
        """Forget it. May be called twice, and after `finish`, when it does nothing."""


class Storage(ABC):
    """One place that keeps files. Its methods may be called at the same time."""

    Settings: ClassVar[type[StorageSettings]] = StorageSettings

    @abstractmethod
    async def stat(self, path: Names) -> Entry:
        """Return what is there. Raises NotFound."""

    @abstractmethod
    def scan(self, path: Names) -> AsyncIterator[list[Entry]]:
        """Yield what is in a folder, hundreds at a time, in no order: files and folders; no links, nothing of ours."""

    @abstractmethod
    async def read(self, path: Names) -> Reader:
        """Open a file. Raises NotFound, InvalidRequest for a folder."""

    @abstractmethod
    async def write(self, path: Names, *, token: str = "", keep: bool = False) -> Writer:
        """Begin a file, or go on with the one that was begun for this path under this ``token``. ``keep``: begin
        with what the file there holds, if there is one. Raises NotFound where its folder is missing, Conflict when the
        same token is being written to."""

    @abstractmethod
    async def make_folder(self, path: Names) -> None:
        """Make a folder. Raises Conflict where there is something, NotFound where its parent is missing."""

    @abstractmethod
    async def remove(self, path: Names) -> None:
        """Remove a file or an empty folder. Raises NotFound, Conflict for a folder that is not empty."""

    @abstractmethod
    async def move(self, source: Names, target: Names, *, replace: bool = False) -> None:
        """Rename within the storage, in one step. Raises NotFound, Conflict."""


@runtime_checkable
class Dated(Protocol):
    """A storage that can be told when a file was changed last."""

    async def set_modified(self, path: Names, modified: float) -> None:
        """Set it, in seconds since 1970. Raises NotFound."""
