"""The door of SFTP: the link's secret is the user name. Shells, commands, forwarding and scp are not to be had."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, TypeVar, cast

import asyncssh
from asyncssh import SFTPAttrs, SFTPName
from asyncssh.stream import SSHServerStreamSession

from gridcloud.data.driver import Entry
from gridcloud.data.model import Door
from gridcloud.data.paths import Names, resolve
from gridcloud.data.shares import Knock, Shares
from gridcloud.data.visits import Visit, VisitReader, VisitWriter
from gridcloud.errors import (
    Conflict,
    Forbidden,
    GridcloudError,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    PortTaken,
    Throttled,
)
from gridcloud.identity.keys import KeyFolder

__all__ = ["SFTPDoor"]

log = logging.getLogger(__name__)

LOGIN = 30
"""Seconds that a login may take."""

KEEPALIVE = 30
"""Seconds of silence after which a client is asked whether it is there; three times, then it is gone."""

GRACE = 5.0
"""Seconds that what is open may take to be given up when the door is closed."""

CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
)
"""The fastest first."""

T = TypeVar("T")


class SFTPDoor:
    """Listens while it is open, with a host key of its own in ``folder``."""

    def __init__(self, shares: Shares, folder: Path) -> None:
        self._shares = shares
        self._folder = folder
        self._server: asyncssh.SSHAcceptor | None = None
        self._logins: set[_Login] = set()
        self._files: set[_Files] = set()

    async def open(self, host: str, port: int) -> int:
        """Listen; return the port, which is chosen where 0 is given. Raises PortTaken."""
        # At its usual level the library writes down who logs in: for us, the secret of a link.
        asyncssh.set_log_level(logging.WARNING)
        key = await asyncio.to_thread(self._host_key)
        try:
            self._server = await asyncssh.listen(
                host,
                port,
                server_factory=lambda: _Login(self._shares, self._logins, self._files),
                server_host_keys=[key],
                encryption_algs=CIPHERS,
                compression_algs=None,
                login_timeout=LOGIN,
                keepalive_interval=KEEPALIVE,
                agent_forwarding=False,
                x11_forwarding=False,
                allow_pty=False,
                line_editor=False,
                gss_host=None,
                backlog=1024,
            )
        except OSError as error:
            raise PortTaken(
                f"Shares cannot be served by SFTP at {host}:{port}: {error.strerror}.",
                remedy="Change shares.host or shares.sftp_port.",
            ) from error
        return self._server.get_port()

    async def close(self) -> None:
        """Stop listening, and close what is open. May be called twice."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()
            await asyncio.gather(*(one.close() for one in list(self._logins)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                # What was open is given up by tasks of the library, which it does not let us wait for.
                while self._files:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    def host_key(self) -> str:
        """Return the line for known_hosts, without the host. Touches the disk."""
        return " ".join(KeyFolder(self._folder).public("sftp-host").split()[:2])

    def _host_key(self) -> asyncssh.SSHKey:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return KeyFolder(self._folder).ensure("sftp-host", "gridcloud shares")


class _Login(asyncssh.SSHServer):
    """One connection: who it is, and from where."""

    def __init__(self, shares: Shares, logins: set[_Login], files: set[_Files]) -> None:
        self._shares = shares
        self._logins = logins
        self.files = files
        self._connection: asyncssh.SSHServerConnection | None = None
        self._address = ""
        self._knock: Knock | None = None
        self._admitted: Visit | None = None
        self._lock = asyncio.Lock()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        peer = conn.get_extra_info("peername")
        self._address = str(peer[0]) if peer else ""
        self._logins.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._logins.discard(self)
        if self._admitted is not None:
            self._admitted.on_cut(id(self), _nothing)()

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            await self._connection.wait_closed()

    async def begin_auth(self, username: str) -> bool:
        """Tell whether more than the link is needed."""
        share = await self._shares.asks_for(username, self._address)
        if share is not None and (share.password or share.keys or share.code):
            return True
        return not await self._try(Knock(Door.SFTP, self._address, username))

    def password_auth_supported(self) -> bool:
        return True

    async def validate_password(self, username: str, password: str) -> bool:
        return await self._try(Knock(Door.SFTP, self._address, username, password=password))

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Tell whether a key would do: the client has not shown yet that it has it, so that nobody is let in here."""
        share = await self._shares.asks_for(username, self._address)
        shown = " ".join(key.export_public_key("openssh").decode().split()[:2])
        if share is None or shown not in {" ".join(one.split()[:2]) for one in share.keys}:
            return False
        self._knock = Knock(Door.SFTP, self._address, username, key=shown)
        return True

    def session_requested(self) -> Any:
        return _Session(lambda channel: _Files(channel, self))

    async def visit(self) -> Visit:
        """Return the visit, once. Raises what `Shares.admit` raises."""
        async with self._lock:
            if self._admitted is None:
                if self._knock is None:
                    raise NotAuthenticated("Nobody knows who this is.")
                await self._admit(self._knock)
            return cast(Visit, self._admitted)

    async def _admit(self, knock: Knock) -> None:
        visit = await self._shares.admit(knock)
        self._admitted = visit
        if self._connection is not None:
            visit.on_cut(id(self), self._connection.abort)

    async def _try(self, knock: Knock) -> bool:
        try:
            await self._admit(knock)
        except GridcloudError as error:
            if self._connection is not None:
                self._connection.send_auth_banner(f"{error}\n")
            return False
        return True


class _Session(SSHServerStreamSession):  # type: ignore[type-arg]
    """A session that knows when its client has gone: what it had not closed by then is not finished."""

    def __init__(self, files: Callable[[Any], _Files]) -> None:
        super().__init__(None, self._begin, 3, False)
        self._make = files
        self._files: _Files | None = None

    def eof_received(self) -> bool:
        self._end()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _begin(self, channel: Any) -> _Files:
        self._files = self._make(channel)
        return self._files

    def _end(self) -> None:
        if self._files is not None:
            self._files.ended = True


class _Writing:
    """A file that is open for writing."""

    def __init__(self, writer: VisitWriter, flags: int) -> None:
        self.writer = writer
        self.append = bool(flags & asyncssh.FXF_APPEND)
        self.fresh = bool(flags & asyncssh.FXF_EXCL)
        self.modified: float | None = None
        self.broken: GridcloudError | None = None
        self.lock = asyncio.Lock()
        self.busy: set[asyncio.Future[None]] = set()
        """What is being written now."""


def _translated(work: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Have a method raise the errors of SFTP in place of ours."""

    @functools.wraps(work)
    async def done(*args: Any) -> T:
        try:
            return await work(*args)
        except GridcloudError as error:
            raise _translate(error) from error

    return done


class _Files(asyncssh.SFTPServer):
    """What SFTP asks for, as a visit."""

    def __init__(self, channel: Any, login: _Login) -> None:
        super().__init__(channel)
        self._login = login
        self._writing: dict[Names, _Writing] = {}
        self._closing: dict[asyncio.Future[None], Names] = {}
        self.ended = False
        """Whether the client has gone."""
        login.files.add(self)

    async def exit(self) -> None:
        """Note that all is closed."""
        self._login.files.discard(self)

    @_translated
    async def open(self, path: bytes, pflags: int, attrs: SFTPAttrs) -> object:
        visit, names = await self._at(path)
        if not pflags & (asyncssh.FXF_WRITE | asyncssh.FXF_APPEND):
            return await visit.read(names)
        if not visit.may_write:
            await visit.write(names)  # which says no
        exclusive = bool(pflags & asyncssh.FXF_EXCL)
        if visit.may_read and (exclusive or not pflags & asyncssh.FXF_CREAT):
            there = await self._is_there(visit, names)
            if exclusive and there:
                raise Conflict("There is already a file of this name.")
            if not exclusive and not there:
                raise NotFound("There is no such file.")
        keep = not pflags & (asyncssh.FXF_TRUNC | asyncssh.FXF_EXCL)
        writing = _Writing(await visit.write(names, keep=keep), pflags)
        self._writing[names] = writing
        return writing

    @_translated
    async def close(self, file_obj: object) -> None:
        if isinstance(file_obj, VisitReader):
            await file_obj.close()
            return
        writing = cast(_Writing, file_obj)
        if self._writing.get(writing.writer.path) is writing:
            del self._writing[writing.writer.path]
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing[closed] = writing.writer.path
        try:
            await _over(writing.busy)  # the library takes up what was sent after it at the same time
            if self.ended:
                self.channel.abort()  # should it have asked for this before it went: it is not to hear that it was done
                return
            if writing.broken is not None:
                raise writing.broken
            await writing.writer.finish(replace=not writing.fresh, modified=writing.modified)
        finally:
            await asyncio.shield(writing.writer.abort())
            del self._closing[closed]
            closed.set_result(None)

    @_translated
    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        if isinstance(file_obj, _Writing):
            return await file_obj.writer.read(offset, size)
        return await cast(VisitReader, file_obj).read(offset, size)

    @_translated
    async def write(self, file_obj: object, offset: int, data: bytes) -> int:
        if not isinstance(file_obj, _Writing):
            raise Forbidden("The file was opened for reading.")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        file_obj.busy.add(done)
        try:
            if file_obj.append:
                async with file_obj.lock:
                    await file_obj.writer.write(file_obj.writer.size, data)
            else:
                await file_obj.writer.write(offset, data)
        except GridcloudError as error:
            file_obj.broken = error  # what has a hole is never finished
            raise
        finally:
            file_obj.busy.discard(done)
            done.set_result(None)
        return len(data)

    @_translated
    async def stat(self, path: bytes) -> SFTPAttrs:
        visit, names = await self._at(path)
        if names in self._writing:
            return _attributes(None, self._writing[names].writer.size)
        return _attributes(await visit.stat(names))

    async def lstat(self, path: bytes) -> SFTPAttrs:
        return await self.stat(path)

    @_translated
    async def fstat(self, file_obj: object) -> SFTPAttrs:
        if isinstance(file_obj, _Writing):
            return _attributes(None, file_obj.writer.size)
        return _attributes(cast(VisitReader, file_obj).entry)

    @_translated
    async def setstat(self, path: bytes, attrs: SFTPAttrs) -> None:
        visit, names = await self._at(path)
        if names in self._writing:
            await self.fsetstat(self._writing[names], attrs)
            return
        if attrs.size is not None:
            writer = await visit.write(names, keep=True)
            try:
                await writer.truncate(attrs.size)
                await writer.finish()
            finally:
                await writer.abort()
        if attrs.mtime is not None:
            await visit.set_modified(names, attrs.mtime)

    async def lsetstat(self, path: bytes, attrs: SFTPAttrs) -> None:
        await self.setstat(path, attrs)

    @_translated
    async def fsetstat(self, file_obj: object, attrs: SFTPAttrs) -> None:
        if not isinstance(file_obj, _Writing):
            return
        if attrs.size is not None:
            await file_obj.writer.truncate(attrs.size)
        if attrs.mtime is not None:
            file_obj.modified = float(attrs.mtime)

    async def scandir(self, path: bytes) -> AsyncIterator[SFTPName]:
        try:
            visit, names = await self._at(path)
            for name in (b".", b".."):
                yield SFTPName(name, attrs=_attributes(None, folder=True))
            async for batch in visit.scan(names):
                for one in batch:
                    yield SFTPName(os.fsencode(one.name), attrs=_attributes(one))
        except GridcloudError as error:
            raise _translate(error) from error

    @_translated
    async def mkdir(self, path: bytes, attrs: SFTPAttrs) -> None:
        await (await self._login.visit()).make_folder(resolve(path))

    @_translated
    async def remove(self, path: bytes) -> None:
        visit, names = await self._at(path)
        if visit.may_change and (await visit.stat(names)).folder:
            raise InvalidRequest("That is a folder.")
        await visit.remove(names)

    @_translated
    async def rmdir(self, path: bytes) -> None:
        visit, names = await self._at(path)
        if visit.may_change and not (await visit.stat(names)).folder:
            raise InvalidRequest("That is no folder.")
        await visit.remove(names)

    @_translated
    async def rename(self, oldpath: bytes, newpath: bytes) -> None:
        visit, source = await self._at(oldpath)
        await visit.move(source, (await self._at(newpath))[1])

    @_translated
    async def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        visit, source = await self._at(oldpath)
        await visit.move(source, (await self._at(newpath))[1], replace=True)

    @_translated
    async def realpath(self, path: bytes) -> bytes:
        return b"/" + os.fsencode("/".join(resolve(path)))

    @_translated
    async def readlink(self, path: bytes) -> bytes:
        raise InvalidRequest("There are no links here.")

    @_translated
    async def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        raise Forbidden("Links are not made here.")

    @_translated
    async def link(self, oldpath: bytes, newpath: bytes) -> None:
        raise Forbidden("Links are not made here.")

    async def statvfs(self, path: bytes) -> Any:
        raise asyncssh.SFTPOpUnsupported("How much space there is is not told.")

    async def fstatvfs(self, file_obj: object) -> Any:
        raise asyncssh.SFTPOpUnsupported("How much space there is is not told.")

    async def fsync(self, file_obj: object) -> None:
        """Nothing is lost that was acknowledged by a close; before, nobody sees it."""

    async def _at(self, path: bytes) -> tuple[Visit, Names]:
        """Return the visit and a path, when what was closed there before has appeared: some do not wait for that."""
        names = resolve(path)
        await _over([one for one, at in self._closing.items() if at[: len(names)] == names])
        return await self._login.visit(), names

    async def _is_there(self, visit: Visit, names: Names) -> bool:
        try:
            await visit.stat(names)
        except NotFound:
            return names in self._writing
        return True


async def _over(futures: Collection[asyncio.Future[None]]) -> None:
    if futures:
        await asyncio.wait(futures)


def _attributes(entry: Entry | None, size: int = 0, *, folder: bool = False) -> SFTPAttrs:
    """Return what SFTP says of a file; None: one that is being written."""
    folder = entry.folder if entry is not None else folder
    modified = int(entry.modified) if entry is not None else 0
    return SFTPAttrs(
        size=entry.size if entry is not None else size,
        permissions=stat.S_IFDIR | 0o755 if folder else stat.S_IFREG | 0o644,
        uid=os.getuid(),
        gid=os.getgid(),
        atime=modified,
        mtime=modified,
        nlink=1,
    )


def _translate(error: GridcloudError) -> asyncssh.SFTPError:
    if isinstance(error, NotFound) and not error.details.get("limit"):
        return asyncssh.SFTPNoSuchFile(str(error))
    if isinstance(error, Forbidden | NotFound | Throttled):
        return asyncssh.SFTPPermissionDenied(str(error))
    return asyncssh.SFTPFailure(str(error))


def _nothing() -> None:
    """Take the place of a cut that is not needed any more."""
