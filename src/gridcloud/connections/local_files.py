"""This computer's files, also as another user of it.

Where the service runs as root and acts for a user, nothing may be read or written that this user could not: links in
the user's own folder could lead anywhere. Linux keeps the identity used for file access per thread (setfsuid(2)), so
such work is done in one thread that has become the user, as file servers do it.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import platform
import pwd
import shutil
import socket
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from gridcloud.connections.files import Entry, Report
from gridcloud.connections.model import Socket
from gridcloud.connections.relay import listen_here
from gridcloud.errors import Forbidden, GridcloudError, InvalidRequest, NotFound, Rejected, StorageFull

__all__ = ["LocalSide", "explain", "move_locally"]

T = TypeVar("T")

_SETGROUPS = {
    "x86_64": 116,
    "aarch64": 159,
    "riscv64": 159,
    "ppc64le": 81,
    "s390x": 206,
}  # system call numbers
_BLOCK = 4 << 20


class LocalSide:
    """The files of this computer as seen by ``user`` (empty: as ourselves). `close` ends its thread."""

    def __init__(self, user: str = "") -> None:
        self._executor: ThreadPoolExecutor | None = None
        if user and user != _own_name():
            if os.geteuid() != 0:
                raise Forbidden(
                    f"Only root may act as another user of this computer ({user!r}).",
                    remedy="Run the service as root, or leave the user empty.",
                )
            self._executor = ThreadPoolExecutor(1, "files-as-user", initializer=_become, initargs=(user,))

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a blocking function in a thread with this side's identity; its OSError becomes an error of ours."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, function, *arguments)
        except OSError as error:
            raise explain(error) from error

    def close(self) -> None:
        """End the thread. May be called twice."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def look(self, path: str, *, follow: bool) -> Entry | None:
        return await self.call(_look, path, follow)

    async def children(self, path: str) -> list[tuple[str, Entry]]:
        return await self.call(_children, path)

    async def make_folder(self, path: str) -> None:
        await self.call(os.mkdir, path, 0o700)

    async def read_link(self, path: str) -> str:
        return await self.call(os.readlink, path)

    async def make_link(self, path: str, to: str) -> None:
        await self.call(os.symlink, to, path)

    async def rename(self, old: str, new: str) -> None:
        await self.call(os.rename, old, new)

    async def change_mode(self, path: str, mode: int) -> None:
        await self.call(os.chmod, path, mode)

    async def remove(self, path: str) -> None:
        await self.call(_remove, path)

    async def open_to_read(self, path: str) -> int:
        """Return a file descriptor; the caller closes it."""
        return await self.call(os.open, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    async def open_to_write(self, path: str) -> int:
        """Make a new file, mode 0600, and return its descriptor; the caller closes it."""
        return await self.call(
            os.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )

    async def listen(self, path: str) -> socket.socket:
        """Return a socket that listens on ``path``, mode 0600. Raises PortTaken, Forbidden."""
        return await self.call(listen_here, Socket(path=path))

    async def dial(self, path: str) -> socket.socket:
        """Return a connected Unix socket: opened with this side's rights, for the path may be a link to any socket."""
        return await self.call(_dial, path)


async def move_locally(
    source: LocalSide, target: LocalSide, path: str, to: str, entry: Entry, report: Report
) -> None:
    """Copy one file from one side of this computer to another, each opened with its own rights."""
    reading = await source.open_to_read(path)
    try:
        writing = await target.open_to_write(to)
        try:
            while count := await source.call(_pump, reading, writing):
                report(count)
            await target.call(os.fchmod, writing, entry.mode)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def explain(error: OSError) -> GridcloudError:
    """Return the error of ours for one of the operating system."""
    name, text = error.filename or "", error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(
            f"No space is left for {name!r}." if name else "No space is left.", remedy="Remove files there."
        )
    if isinstance(error, FileNotFoundError):
        return NotFound(f"There is no {name!r}.", remedy="Check the path.")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return Forbidden(f"{name!r}: {text}.", remedy="Choose a place that this user may use.")
    if error.errno in (
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENOTEMPTY,
        errno.EINVAL,
    ):
        return InvalidRequest(f"{name!r}: {text}.", remedy="Name another path.")
    return Rejected(f"{name!r}: {text}." if name else f"{text}.")


def _pump(reading: int, writing: int) -> int:
    block = os.read(reading, _BLOCK)
    left = memoryview(block)
    while left:
        left = left[os.write(writing, left) :]
    return len(block)


def _look(path: str, follow: bool) -> Entry | None:
    try:
        return _entry(os.stat(path, follow_symlinks=follow))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _children(path: str) -> list[tuple[str, Entry]]:
    with os.scandir(path) as listing:
        return [(item.name, _entry(item.stat(follow_symlinks=False))) for item in listing]


def _entry(status: os.stat_result) -> Entry:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "other")
    return Entry(kind, status.st_mode & 0o777, status.st_size)  # type: ignore[arg-type]


def _remove(path: str) -> None:
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return


def _dial(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.connect(path)
        client.setblocking(False)
    except OSError as error:
        client.close()
        error.filename = path
        raise
    return client


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def _become(name: str) -> None:
    """Take the file access rights of a user in this thread alone, supplementary groups included."""
    user = pwd.getpwnam(name)
    groups = os.getgrouplist(name, user.pw_gid)
    number = _SETGROUPS.get(platform.machine())
    if number is None:
        raise Forbidden(f"Acting as another user is not supported on {platform.machine()} machines.")
    libc = ctypes.CDLL(None, use_errno=True)
    array = (ctypes.c_uint32 * len(groups))(*groups)
    # The raw call changes this thread only; the C library's function would change the whole process.
    if libc.syscall(ctypes.c_long(number), ctypes.c_long(len(groups)), array) != 0:
        raise OSError(ctypes.get_errno(), "cannot take the groups of the user", name)
    libc.setfsgid(user.pw_gid)
    libc.setfsuid(user.pw_uid)
    if libc.setfsuid(-1) != user.pw_uid or libc.setfsgid(-1) != user.pw_gid:
        raise Forbidden(f"The system did not let us act as {name!r}.", remedy="Run the service as root.")
