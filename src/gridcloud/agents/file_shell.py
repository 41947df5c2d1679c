"""Serve the files of an instance by SFTP where there is no python3: one shell there does what is asked for.

It needs a POSIX ``sh`` and small programs of coreutils or BusyBox: stat, dd, head, base64, mv, ln, rm, readlink, df.
A question and its answer follow each other strictly, so that no program there can take what is meant for the next one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import asyncssh
from asyncssh.sftp import run_sftp_server

from gridcloud.connections.driver import Command, Connection, Process
from gridcloud.connections.environment import escape
from gridcloud.errors import ConnectionLost, GridcloudError

__all__ = ["serve_by_shell"]

T = TypeVar("T")

BLOCK = 128 << 10
"""Bytes of a file that are read at once."""
AT_ONCE = 32
"""Requests that are taken up before the first of them is answered."""
LISTED = 64 << 20
"""Bytes of what one folder holds: names, and what stat says."""
SAID = 1 << 20
"""Bytes that are said in answer to one request, files and folders apart."""
PATIENCE = 120.0
"""Seconds for an answer."""

# Arguments come one a line, escaped for printf; answers are a status and the length of what follows.
PROGRAM = r"""
LC_ALL=C; export LC_ALL; umask 022
FIELDS="%f %s %u %g %X %Y"
take() { IFS= read -r line || exit 0; value=$(printf "%b." "$line"); value=${value%.}; }
say() { printf "%s %s\n%s" "$1" "${#2}" "$2"; }
try() { said=$("$@" 2>&1 </dev/null); say $? "$said"; }
show() { said=$("$@" 2>&1 </dev/null; code=$?; printf .; exit $code); code=$?; say $code "${said%.}"; }
free() { if [ -e "$1" ] || [ -L "$1" ]; then say 1 "File exists"; return 1; fi; }
no_folder() { if [ -d "$1" ] && [ ! -L "$1" ]; then say 1 "Is a directory"; return 1; fi; }
whole() { if [ -e "$1" ] && [ ! -f "$1" ]; then say 1 "Not a file"; return 1; fi; }
make() { (umask 077; set -C; : >"$1"); }
empty() { : >"$1"; }
add() { : >>"$1"; }
look() { : <"$1"; }
at() { dd bs=1 skip="$2" count=0 2>/dev/null; dd bs="$3" count=1 2>/dev/null; }
list() {
  said=$(ls -- "$1" 2>&1 >/dev/null) || { say 1 "$said"; return; }
  say 0 ""
  (cd -- "$1" && for name in * .[!.]* ..?*; do
    if [ -e "$name" ] || [ -L "$name" ]; then
      found=$(stat -c "$FIELDS" -- "$name" 2>/dev/null) && printf "%s %s\n%s" "$found" "${#name}" "$name"
    fi
  done)
  echo end
}
while take; do
  what=$value; take; path=$value; take; more=$value; take; rest=$value
  case $what in
    stat) try stat -L -c "$FIELDS" -- "$path";;
    lstat) try stat -c "$FIELDS" -- "$path";;
    list) list "$path";;
    make|empty|add|look) whole "$path" && try $what "$path";;
    read) if look "$path" 2>/dev/null; then say 0 ""; at "$path" "$more" "$rest" <"$path" | base64; echo end
      else say 1 "Permission denied"; fi;;
    write) if [ -f "$path" ]; then
        said=$({ dd bs=1 seek="$more" count=0 conv=notrunc 2>/dev/null </dev/null; head -c "$rest"; } \
          2>&1 1<>"$path"); code=$?
      else said="No such file"; code=1; fi
      say $code "$said"; if [ $code != 0 ]; then exec cat >/dev/null; fi;;
    size) try dd bs=1 seek="$more" count=0 of="$path";;
    mode) try chmod -- "$more" "$path";;
    owner) try chown -- "$more" "$path";;
    time) try touch -c -m -d "$more" -- "$path";;
    folder) try mkdir -m "$more" -- "$path";;
    remove) no_folder "$path" && try rm -- "$path";;
    rmdir) try rmdir -- "$path";;
    rename) no_folder "$more" && try mv -f -- "$path" "$more";;
    hard) free "$path" && try ln -- "$more" "$path";;
    link) free "$path" && try ln -s -- "$more" "$path";;
    target) show readlink -n -- "$path";;
    place) show readlink -n -f -- "$path";;
    room) try df -P -k -- "$path";;
    *) say 1 "unknown";;
  esac
done
"""


async def serve_by_shell(
    connection: Connection, directory: str, channel: asyncssh.SSHServerProcess[bytes]
) -> None:
    """Serve files on a channel to its end. Relative paths begin at ``directory``."""
    shell = _Shell(connection, directory)
    server = _Files(channel.channel, shell)
    try:
        reader = _Paced(channel, channel.channel, server.room)
        await run_sftp_server(server, reader, channel.stdout, 3)
    finally:
        await shell.close()


class _Paced(asyncssh.SSHReader[bytes]):
    """Takes up the next request when there is room for it: else all that is sent would be held here."""

    def __init__(
        self,
        session: asyncssh.SSHServerProcess[bytes],
        channel: asyncssh.SSHServerChannel[bytes],
        room: asyncio.Event,
    ) -> None:
        super().__init__(session, channel)
        self._room = room

    async def readexactly(self, n: int) -> bytes:
        await self._room.wait()
        return await super().readexactly(n)


@dataclass(frozen=True, slots=True)
class _Open:
    path: bytes
    end: bool
    """Whether it is written to at its end."""


class _Shell:
    """The shell there, started when first needed, and anew when it has ended."""

    def __init__(self, connection: Connection, directory: str) -> None:
        self._connection = connection
        self._directory = directory
        self._lock = asyncio.Lock()
        self._process: Process | None = None
        self._output: AsyncIterator[bytes] | None = None
        self._held = bytearray()
        self.asked = 0
        self.room = asyncio.Event()
        self.room.set()

    async def ask(self, what: str, *words: bytes, data: bytes = b"") -> bytes:
        """Have something done; return what it says. Raises asyncssh.SFTPError."""
        return await self._turn(what, words, data, self._nothing)

    async def block(self, *words: bytes) -> bytes:
        """Return a block of a file. Raises asyncssh.SFTPError."""
        return await self._turn("read", words, b"", self._decode)

    async def entries(self, path: bytes) -> list[tuple[bytes, bytes]]:
        """Return what a folder holds: what stat says, and the name. Raises asyncssh.SFTPError."""
        return await self._turn("list", (path,), b"", self._gather)

    async def _turn(
        self, what: str, words: tuple[bytes, ...], data: bytes, then: Callable[[bytes], Awaitable[T]]
    ) -> T:
        self.asked += 1
        if self.asked >= AT_ONCE:
            self.room.clear()
        try:
            async with self._lock, asyncio.timeout(PATIENCE):
                return await then(await self._ask(what, words, data))
        except (GridcloudError, TimeoutError) as error:
            await self.close()
            raise asyncssh.SFTPConnectionLost(str(error) or "it did not answer") from error
        except asyncio.CancelledError:
            await self.close()  # its answer would be taken for the next one's
            raise
        finally:
            self.asked -= 1
            self.room.set()

    async def close(self) -> None:
        """End it. May be called twice."""
        process, self._process, self._held = self._process, None, bytearray()
        if process is not None:
            with contextlib.suppress(GridcloudError):
                await process.signal("KILL")

    async def _ask(self, what: str, words: tuple[bytes, ...], data: bytes) -> bytes:
        if self._process is None:
            self._process = await self._connection.start(
                Command(("/bin/sh", "-c", PROGRAM), directory=self._directory)
            )
            self._output = self._process.stdout()
        given = [what.encode(), *words, b"", b""][:4]
        lines = b"".join(escape(one.decode(errors="surrogateescape")) + b"\n" for one in given)
        await self._process.write(lines + data)
        status, _, length = (await self._line()).partition(b" ")
        if not length.isdigit() or int(length) > SAID:
            raise ConnectionLost("The shell there says what makes no sense.")
        said = await self._take(int(length))
        if status != b"0":
            if data:  # how much of it was read is not known: it reads on to the end now, and nothing else
                await self._process.close_input()
                self._process, self._held = None, bytearray()
            raise _error(said)
        return said

    async def _nothing(self, said: bytes) -> bytes:
        return said

    async def _decode(self, _: bytes) -> bytes:
        # Nothing follows until the next question, and a line of base64 never has three letters alone.
        while not (self._held == b"end\n" or self._held.endswith(b"\nend\n")):
            if len(self._held) > 2 * BLOCK:
                raise ConnectionLost("The shell there says what makes no sense.")
            await self._more()
        found, self._held = bytes(self._held[:-4]), bytearray()
        return base64.b64decode(found)

    async def _gather(self, _: bytes) -> list[tuple[bytes, bytes]]:
        """Read lines of seven numbers, the last one the length of a name, which follows."""
        found: list[tuple[bytes, bytes]] = []
        left = LISTED
        while (line := await self._line()) != b"end":
            length = line.rpartition(b" ")[2]
            left -= len(line) + 200  # what keeping it takes, about
            if not length.isdigit() or int(length) > 4096 or left < int(length):
                raise ConnectionLost("The shell there says what makes no sense.")
            left -= int(length)
            found.append((line, await self._take(int(length))))
        return found

    async def _line(self) -> bytes:
        while (end := self._held.find(b"\n")) < 0:
            if len(self._held) > SAID:
                raise ConnectionLost("The shell there says what makes no sense.")
            await self._more()
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        return line

    async def _take(self, size: int) -> bytes:
        while len(self._held) < size:
            await self._more()
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken

    async def _more(self) -> None:
        assert self._output is not None  # noqa: S101 (set with the process)
        block = await anext(self._output, b"")
        if not block:
            self._process = None
            raise ConnectionLost("The shell there has ended.")
        self._held += block


class _Files(asyncssh.SFTPServer):
    """What the protocol asks for, as the shell does it.

    All that asyncssh's own server has is replaced: it would act on the files of the machine that serves.
    """

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], shell: _Shell) -> None:
        super().__init__(channel)
        self._shell = shell
        self.room = shell.room

    async def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        if pflags & asyncssh.FXF_EXCL and pflags & asyncssh.FXF_CREAT:
            await self._shell.ask("make", path)
        elif pflags & asyncssh.FXF_CREAT:
            await self._shell.ask("empty" if pflags & asyncssh.FXF_TRUNC else "add", path)
        elif pflags & asyncssh.FXF_WRITE:
            await self._shell.ask("stat", path)
            await self._shell.ask("empty" if pflags & asyncssh.FXF_TRUNC else "add", path)
        else:
            await self._shell.ask("look", path)
        return _Open(path, bool(pflags & asyncssh.FXF_APPEND))

    def close(self, file_obj: object) -> None:
        return

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        number = b"%d" % min(size, BLOCK)
        return await self._shell.block(_path(file_obj), b"%d" % offset, number)

    async def write(self, file_obj: object, offset: int, data: bytes) -> int:
        path = _path(file_obj)
        if isinstance(file_obj, _Open) and file_obj.end:
            offset = (await self.stat(path)).size or 0
        if data:
            await self._shell.ask("write", path, b"%d" % offset, b"%d" % len(data), data=data)
        return len(data)

    async def lstat(self, path: bytes) -> asyncssh.SFTPAttrs:
        return _attributes(await self._shell.ask("lstat", path))

    async def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
        return _attributes(await self._shell.ask("stat", path))

    async def fstat(self, file_obj: object) -> asyncssh.SFTPAttrs:
        return await self.stat(_path(file_obj))

    async def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        if attrs.size is not None:
            await self._shell.ask("size", path, b"%d" % attrs.size)
        if attrs.uid is not None and attrs.gid is not None:
            await self._shell.ask("owner", path, b"%d:%d" % (attrs.uid, attrs.gid))
        if attrs.mtime is not None:
            await self._shell.ask("time", path, b"@%d" % attrs.mtime)
        if attrs.permissions is not None:
            await self._shell.ask("mode", path, b"%o" % (attrs.permissions & 0o7777))

    async def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> None:
        await self.setstat(_path(file_obj), attrs)

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        for line, name in await self._shell.entries(path):
            yield asyncssh.SFTPName(name, attrs=_attributes(line))

    async def remove(self, path: bytes) -> None:
        await self._shell.ask("remove", path)

    async def mkdir(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        mode = 0o755 if attrs.permissions is None else attrs.permissions & 0o7777
        await self._shell.ask("folder", path, b"%o" % mode)

    async def rmdir(self, path: bytes) -> None:
        await self._shell.ask("rmdir", path)

    async def realpath(self, path: bytes) -> bytes:
        return await self._shell.ask("place", path or b".")

    async def rename(self, oldpath: bytes, newpath: bytes) -> None:
        with contextlib.suppress(asyncssh.SFTPNoSuchFile):
            await self.lstat(newpath)
            raise asyncssh.SFTPFailure("it exists")
        await self._shell.ask("rename", oldpath, newpath)

    async def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        await self._shell.ask("rename", oldpath, newpath)

    async def readlink(self, path: bytes) -> bytes:
        return await self._shell.ask("target", path)

    async def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        await self._shell.ask("link", newpath, oldpath)

    async def link(self, oldpath: bytes, newpath: bytes) -> None:
        await self._shell.ask("hard", newpath, oldpath)

    async def fstatvfs(self, file_obj: object) -> asyncssh.SFTPVFSAttrs:
        return await self.statvfs(_path(file_obj))

    async def statvfs(self, path: bytes) -> asyncssh.SFTPVFSAttrs:
        said = await self._shell.ask("room", path)
        found = re.search(rb"(\d+) +(\d+) +(-?\d+) +\d+% [^\n]*\Z", said.rstrip())
        if found is None:
            raise asyncssh.SFTPOpUnsupported("df says something else")
        whole, _, free = (int(one) for one in found.groups())
        free = max(free, 0)
        # df does not tell of inodes: as if there were enough.
        return asyncssh.SFTPVFSAttrs(1024, 1024, whole, free, free, 1 << 32, 1 << 31, 1 << 31, 0, 0, 255)

    # What a shell cannot do.

    def lsetstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        raise _unknown()

    def fsync(self, file_obj: object) -> None:
        raise _unknown()

    def lock(self, file_obj: object, offset: int, length: int, flags: int) -> None:
        raise _unknown()

    def unlock(self, file_obj: object, offset: int, length: int) -> None:
        raise _unknown()

    def open56(self, path: bytes, desired_access: int, flags: int, attrs: asyncssh.SFTPAttrs) -> object:
        raise _unknown()

    def map_path(self, path: bytes) -> bytes:
        raise _unknown()

    def reverse_map_path(self, path: bytes) -> bytes:
        raise _unknown()

    # Names of accounts here are those of other people.

    def format_user(self, uid: int | None) -> str:
        return "" if uid is None else str(uid)

    def format_group(self, gid: int | None) -> str:
        return "" if gid is None else str(gid)


def _unknown() -> asyncssh.SFTPError:
    return asyncssh.SFTPOpUnsupported("a shell cannot do that")


def _path(file_obj: object) -> bytes:
    assert isinstance(file_obj, _Open)  # noqa: S101 (we gave it)
    return file_obj.path


def _attributes(line: bytes) -> asyncssh.SFTPAttrs:
    try:
        mode, size, user, group, accessed, changed = line.split()[:6]
        return asyncssh.SFTPAttrs(
            size=int(size),
            uid=int(user),
            gid=int(group),
            permissions=int(mode, 16),
            atime=int(accessed),
            mtime=int(changed),
        )
    except ValueError:
        raise asyncssh.SFTPFailure("stat says what makes no sense") from None


def _error(said: bytes) -> asyncssh.SFTPError:
    text = said.decode(errors="replace").strip()[:300]
    if "No such file" in text or "nonexistent" in text:
        return asyncssh.SFTPNoSuchFile(text)
    if any(word in text for word in ("ermission denied", "not permitted", "Read-only")):
        return asyncssh.SFTPPermissionDenied(text)
    return asyncssh.SFTPFailure(text or "it failed without a word")
