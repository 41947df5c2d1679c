"""Folders behind SFTP as Python's own files: shares, the stores of ERDA and IDMC, any SSH server.

The names and verbs are those of the prototype's ``mig.io``, whose programs run with the import changed. The host key is
checked, as OpenSSH does: it has to be in a file of known hosts.
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncssh
from fsspec.asyn import get_loop, sync

from gridcloud.errors import Untrusted

__all__ = ["ERDAShare", "IDMCShare", "SFTPStore", "SSHFSStore"]

T = TypeVar("T")

READ, WRITE = 1 << 20, 4 << 20
"""Bytes that are fetched, and gathered, at once by programs that read and write little by little."""

FASTEST = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr")
"""Ciphers: with AES in the processor the first is half as fast again as the third."""


class SFTPStore:
    """A folder behind SFTP; connected at the first use, and again when the connection was lost.

    ``key``: a file with a private key, or the key; ``known_hosts``: a file of host keys, OpenSSH's own when left out.
    Its methods raise FileNotFoundError, FileExistsError, PermissionError and OSError, which name the path;
    ConnectionError where nothing answers; `gridcloud.errors.Untrusted` for a host key that is not known.
    """

    def __init__(
        self,
        host: str,
        username: str,
        password: str = "",
        port: int | str = 22,
        *,
        key: str | os.PathLike[str] | asyncssh.SSHKey | None = None,
        known_hosts: str | os.PathLike[str] | None = None,
    ) -> None:
        self._host = host
        self._port = int(port)
        self._username = username
        self._password = password
        self._key = key
        self._known_hosts = Path(known_hosts or "~/.ssh/known_hosts").expanduser()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._files: asyncssh.SFTPClient | None = None

    def open(self, path: str, flag: str = "r") -> Any:
        """Return an open file, as the built-in `open` does: text is UTF-8. ``flag``: r, w, a or x, with b and +.

        Raises ValueError for another ``flag``.
        """
        if not re.fullmatch(r"[rwax](b\+?|\+b?|t\+?)?", flag):
            raise ValueError(f"{flag!r} is no way to open a file: r, w, a or x, with b and +.")
        both, text = "+" in flag, "b" not in flag
        mode = f"{flag[0]}{'+' if both else ''}b"

        async def work(files: asyncssh.SFTPClient) -> _Raw:
            opened = await files.open(path, mode, encoding=None)
            size = (await opened.stat()).size or 0
            return _Raw(self, path, opened, mode, size)

        raw = self._do(path, work)
        if both:
            found: Any = io.BufferedRandom(raw, READ)
        else:
            found = io.BufferedReader(raw, READ) if flag[0] == "r" else io.BufferedWriter(raw, WRITE)
        return io.TextIOWrapper(found, "utf-8", newline="") if text else found

    def exists(self, path: str) -> bool:
        """Tell whether there is something."""
        return self._do(path, lambda files: files.exists(path))

    def list(self, path: str = ".") -> list[str]:
        """Return the names in a folder, sorted."""
        found = self._do(path, lambda files: files.listdir(path))
        return sorted(str(name) for name in found if name not in (".", ".."))

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        """Make a folder."""
        self._do(path, lambda files: files.mkdir(path, asyncssh.SFTPAttrs(permissions=mode)))

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        self._do(path, lambda files: files.rmdir(path))

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._do(path, lambda files: files.remove(path))

    def read(self, path: str) -> str:
        """Return a file's text."""
        return self.read_binary(path).decode("utf-8")

    def read_binary(self, path: str) -> bytes:
        """Return a file's content."""
        with self.open(path, "rb") as file:
            data: bytes = file.read()
            return data

    def write(self, path: str, data: object, flag: str = "a") -> None:
        """Write bytes or text, or what `str` makes of anything else; added to what is there unless ``flag`` is w."""
        raw = bytes(data) if isinstance(data, bytes | bytearray | memoryview) else str(data).encode("utf-8")
        with self.open(path, f"{flag.replace('b', '')}b") as file:
            file.write(raw)

    def close(self) -> None:
        """End the connection. May be called twice."""
        connection, self._connection, self._files = self._connection, None, None
        if connection is not None:
            sync(get_loop(), _end, connection)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _do(self, path: str, work: Callable[[asyncssh.SFTPClient], Awaitable[T]]) -> T:
        async def done() -> T:
            async with self._told(path):
                return await work(await self._client())

        found: T = sync(get_loop(), done)
        return found

    async def _client(self) -> asyncssh.SFTPClient:
        if self._files is not None and self._connection is not None and not self._connection.is_closed():
            return self._files
        keys = (
            [self._key if isinstance(self._key, asyncssh.SSHKey) else str(self._key)] if self._key else None
        )
        try:
            self._connection = await asyncssh.connect(
                self._host,
                self._port,
                username=self._username,
                password=self._password or None,
                client_keys=keys,
                agent_path=None,
                known_hosts=str(self._known_hosts),
                config=None,
                encryption_algs=FASTEST,
                keepalive_interval=30,
            )
        except FileNotFoundError as error:
            raise self._untrusted(f"There is no file {self._known_hosts}") from error
        except asyncssh.HostKeyNotVerifiable as error:
            raise self._untrusted("The key of the host is not known here") from error
        self._files = await self._connection.start_sftp_client()
        return self._files

    def _untrusted(self, why: str) -> Untrusted:
        return Untrusted(
            f"{self._host} is not trusted. {why}.",
            remedy=f"Put its key, as its administrator tells it, into {self._known_hosts}.",
        )

    @asynccontextmanager
    async def _told(self, path: str) -> AsyncIterator[None]:
        """Raise Python's own errors, which name the path."""
        try:
            yield
        except asyncssh.SFTPNoSuchFile as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
        except asyncssh.SFTPFileAlreadyExists as error:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error
        except asyncssh.SFTPPermissionDenied as error:
            raise PermissionError(errno.EACCES, error.reason or os.strerror(errno.EACCES), path) from error
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.ConnectionLost) as error:
            raise ConnectionError(errno.ECONNRESET, f"{self._host} has gone", path) from error
        except asyncssh.SFTPError as error:
            raise OSError(errno.EIO, error.reason, path) from error
        except asyncssh.PermissionDenied as error:
            raise PermissionError(errno.EACCES, f"{self._host} lets nobody in with that") from error
        except asyncssh.Error as error:
            raise ConnectionError(errno.ECONNABORTED, f"{self._host}: {error.reason}") from error


class SSHFSStore(SFTPStore):
    """The same by the prototype's other name, with its two other verbs."""

    def geturl(self, path: str) -> str:
        """Return where a path is: never with what opens it."""
        return f"sftp://{self._host}:{self._port}/{path.lstrip('/')}"

    def removedir(self, path: str) -> bool:
        """Remove an empty folder; tell whether there was one."""
        try:
            self.rmdir(path)
        except FileNotFoundError:
            return False
        return True


class _Known(SFTPStore):
    """A store whose links open it alone: user name and password are the link. ``host``: another than the usual one."""

    usual = ""
    variable = ""
    """The variable that names another server, HOST or HOST:PORT, for programs that are not changed."""

    def __init__(
        self, share_link: str, password: str = "", port: int | str = 22, *, host: str = "", **options: Any
    ) -> None:
        given = os.environ.get(self.variable, "")
        if given and not host:
            host, _, other = given.partition(":")
            port = other or port
        super().__init__(host or self.usual, share_link, password or share_link, port, **options)


class ERDAShare(_Known):
    """A share link of ERDA, or of a gridcloud: ``host``, or ``GRIDCLOUD_ERDA``, names whose."""

    usual = "io.erda.dk"
    variable = "GRIDCLOUD_ERDA"


class IDMCShare(_Known):
    """A share link of IDMC, or of a gridcloud: ``host``, or ``GRIDCLOUD_IDMC``, names whose."""

    usual = "io.idmc.dk"
    variable = "GRIDCLOUD_IDMC"


class _Raw(io.RawIOBase):
    """An open file, as Python's buffers want it."""

    def __init__(
        self, store: SFTPStore, path: str, file: asyncssh.SFTPClientFile, mode: str, size: int
    ) -> None:
        super().__init__()
        self.name = path
        self.mode = mode
        self._store = store
        self._file = file
        self._size = size
        self._at = size if mode[0] == "a" else 0

    def readable(self) -> bool:
        return self.mode[0] == "r" or "+" in self.mode

    def writable(self) -> bool:
        return self.mode[0] != "r" or "+" in self.mode

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("That lies before the beginning of the file.")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._take(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._take(-1)

    def write(self, data: Any) -> int:
        raw = bytes(data)
        at = self._size if self.mode[0] == "a" else self._at
        self._do(self._file.write(raw, at))
        self._at = at + len(raw)
        self._size = max(self._size, self._at)
        return len(raw)

    def truncate(self, size: int | None = None) -> int:
        size = self._at if size is None else size
        self._do(self._file.truncate(size))
        self._size = size
        return size

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._do(self._file.close())

    def _take(self, count: int) -> bytes:
        data: bytes = self._do(self._file.read(count, self._at))
        self._at += len(data)
        return data

    def _do(self, work: Awaitable[Any]) -> Any:
        async def done() -> Any:
            async with self._store._told(self.name):
                return await work

        return sync(get_loop(), done)


async def _end(connection: asyncssh.SSHClientConnection) -> None:
    connection.close()
    await connection.wait_closed()
