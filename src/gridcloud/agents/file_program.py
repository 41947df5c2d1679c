"""Serve the files of where this runs by SFTP (version 3, draft-ietf-secsh-filexfer-02) on standard input and output.

Its text is sent to a `python3` within an instance (`gridcloud.agents.files`), so that files are those of the instance,
read and written with the rights of its user. So it uses the standard library of Python 3.8 only. One request is served
after another; of a file no more than one block is held.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
import time
from typing import Any, Callable, Iterator, Tuple  # noqa: UP035 - Python 3.8

__all__ = ["BLOCK", "READY", "main"]

READY = b"gridcloud files\n"
"""What is said before anything else."""
BLOCK = 256 << 10
"""Bytes of a file in one answer, at most."""
LONGEST = BLOCK + 1024
"""Bytes of a request, at most; the limits that OpenSSH's server has."""
ENLARGE = 1031
"""Linux's F_SETPIPE_SZ, which Python names since 3.10."""
NAMES = 100
"""Names of a folder in one answer."""

INIT, VERSION, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR = range(1, 13)
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = range(13, 21)
STATUS, HANDLE, DATA, NAME, ATTRS = range(101, 106)
EXTENDED, EXTENDED_REPLY = 200, 201
OK, EOF, NO_SUCH_FILE, DENIED, FAILURE, BAD_MESSAGE, _, _, UNSUPPORTED = range(9)
SIZE, OWNER, MODE, TIMES = 1, 2, 4, 8
Reply = Tuple[bytes, ...]  # noqa: UP006 - Python 3.8
"""The kind of an answer, and the parts of what follows it: what is large is copied no further."""
OFFERED = (b"posix-rename@openssh.com", b"statvfs@openssh.com", b"hardlink@openssh.com", b"fsync@openssh.com")
STATUSES = {
    errno.ENOENT: NO_SUCH_FILE,
    errno.ENOTDIR: NO_SUCH_FILE,
    errno.ELOOP: NO_SUCH_FILE,
    errno.EACCES: DENIED,
    errno.EPERM: DENIED,
    errno.EROFS: DENIED,
}


class _Request:
    """What was asked, read field by field. Raises IndexError where it ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self) -> int:
        return int(self._unpack(">I", 4))

    def long(self) -> int:
        return int(self._unpack(">Q", 8))

    def text(self) -> bytes:
        size = self.number()
        self._at += size
        if self._at > len(self._data):
            raise IndexError("a text that is longer than what holds it")
        return self._data[self._at - size : self._at]

    def path(self) -> bytes:
        return self.text() or b"."

    def attributes(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        flags = self.number()
        if flags & SIZE:
            found["size"] = self.long()
        if flags & OWNER:
            found["owner"] = self.number(), self.number()
        if flags & MODE:
            found["mode"] = self.number() & 0o7777
        if flags & TIMES:
            found["times"] = self.number(), self.number()
        return found

    def _unpack(self, form: str, size: int) -> Any:
        self._at += size
        if self._at > len(self._data):
            raise IndexError("a number that is cut off")
        return struct.unpack_from(form, self._data, self._at - size)[0]


class _Server:
    """One session. ``reverse``: the client names a link's target first, as OpenSSH's does against the draft."""

    def __init__(self, reverse: bool) -> None:
        self._reverse = reverse
        self._files: dict[bytes, int] = {}
        self._folders: dict[bytes, Iterator[os.DirEntry[bytes]]] = {}
        self._next = 0
        self._does: dict[int, Callable[[_Request], Reply]] = {
            OPEN: self._open,
            CLOSE: self._close,
            READ: self._read,
            WRITE: self._write,
            LSTAT: lambda asked: _attributes(os.lstat(asked.path())),
            STAT: lambda asked: _attributes(os.stat(asked.path())),
            FSTAT: lambda asked: _attributes(os.fstat(self._file(asked))),
            OPENDIR: self._open_folder,
            READDIR: self._read_folder,
            REALPATH: lambda asked: _names([(os.path.realpath(asked.path()), b"", _NOTHING)]),
            READLINK: lambda asked: _names([(os.readlink(asked.path()), b"", _NOTHING)]),
            EXTENDED: self._extended,
        }
        self._deeds: dict[int, Callable[[_Request], None]] = {
            SETSTAT: lambda asked: _set(asked.path(), asked.attributes()),
            FSETSTAT: lambda asked: _set(self._file(asked), asked.attributes()),
            REMOVE: lambda asked: os.unlink(asked.path()),
            MKDIR: lambda asked: os.mkdir(asked.path(), asked.attributes().get("mode", 0o777)),
            RMDIR: lambda asked: os.rmdir(asked.path()),
            RENAME: self._rename,
            SYMLINK: self._link,
        }

    def answer(self, kind: int, asked: _Request) -> Reply:
        """Return the answer to a request in parts. Raises IndexError for what is no request."""
        if kind == INIT:
            more = b"".join(
                _text(name) + _text(b"2" if name.startswith(b"statvfs") else b"1") for name in OFFERED
            )
            return bytes([VERSION]), struct.pack(">I", 3), more, _text(b"limits@openssh.com"), _text(b"1")
        number = struct.pack(">I", asked.number())
        try:
            reply = self._reply(kind, asked)
        except (OSError, ValueError, OverflowError) as error:
            reply = _failure(error)
        return reply[0], number, *reply[1:]

    def _reply(self, kind: int, asked: _Request) -> Reply:
        if kind in self._deeds:
            self._deeds[kind](asked)
            return _status(OK)
        return self._does[kind](asked) if kind in self._does else _status(UNSUPPORTED)

    def _open(self, asked: _Request) -> Reply:
        path, wanted, attributes = asked.path(), asked.number(), asked.attributes()
        flags = {1: os.O_RDONLY, 2: os.O_WRONLY, 3: os.O_RDWR}.get(wanted & 3, os.O_RDONLY) | os.O_CLOEXEC
        # Bit by bit: append, create, truncate, fail when it exists.
        for bit, flag in ((4, os.O_APPEND), (8, os.O_CREAT), (16, os.O_TRUNC), (32, os.O_EXCL)):
            flags |= flag if wanted & bit else 0
        # A pipe with nobody at its other end would keep all that is asked from being served.
        file = os.open(path, flags | os.O_NONBLOCK, attributes.get("mode", 0o666))
        if stat.S_ISDIR(os.fstat(file).st_mode):
            os.close(file)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return self._handle(self._files, file)

    def _close(self, asked: _Request) -> Reply:
        handle = asked.text()
        if handle in self._folders:
            self._folders.pop(handle).close()  # type: ignore[attr-defined]
        elif handle in self._files:
            os.close(self._files.pop(handle))
        else:
            return _status(FAILURE)
        return _status(OK)

    def _read(self, asked: _Request) -> Reply:
        file, offset, size = self._file(asked), asked.long(), asked.number()
        block = os.pread(file, min(size, BLOCK), offset)
        return (bytes([DATA]), struct.pack(">I", len(block)), block) if block or not size else _status(EOF)

    def _write(self, asked: _Request) -> Reply:
        file, offset, left = self._file(asked), asked.long(), memoryview(asked.text())
        while left:
            count = os.pwrite(file, left, offset)
            left, offset = left[count:], offset + count
        return _status(OK)

    def _open_folder(self, asked: _Request) -> Reply:
        return self._handle(self._folders, os.scandir(asked.path()))

    def _read_folder(self, asked: _Request) -> Reply:
        listing = self._folders.get(asked.text())
        if listing is None:
            return _status(FAILURE)
        found = []
        for entry in listing:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # removed meanwhile
                continue
            found.append((entry.name, _describe(entry.name, status), _pack(status)))
            if len(found) == NAMES:
                break
        return _names(found) if found else _status(EOF)

    def _rename(self, asked: _Request) -> None:
        old, new = asked.path(), asked.path()
        if os.path.lexists(new):  # in version 3 nothing is replaced; the extension replaces
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(old, new)

    def _link(self, asked: _Request) -> None:
        first, second = asked.text(), asked.text()
        to, path = (first, second) if self._reverse else (second, first)
        os.symlink(to, path)

    def _extended(self, asked: _Request) -> Reply:
        name = asked.text()
        if name == b"posix-rename@openssh.com":
            os.replace(asked.path(), asked.path())
            return _status(OK)
        if name == b"hardlink@openssh.com":
            os.link(asked.path(), asked.path())
            return _status(OK)
        if name == b"fsync@openssh.com":
            os.fsync(self._file(asked))
            return _status(OK)
        if name == b"statvfs@openssh.com":
            return bytes([EXTENDED_REPLY]), _room(os.statvfs(asked.path()))
        if name == b"limits@openssh.com":
            return bytes([EXTENDED_REPLY]), struct.pack(">QQQQ", LONGEST, BLOCK - 1024, BLOCK - 1024, 0)
        return _status(UNSUPPORTED)

    def _handle(self, kept: dict[bytes, Any], what: Any) -> Reply:
        handle, self._next = b"%d" % self._next, self._next + 1
        kept[handle] = what
        return bytes([HANDLE]), _text(handle)

    def _file(self, asked: _Request) -> int:
        file = self._files.get(asked.text())
        if file is None:
            raise ValueError("no such file is open")
        return file


_NOTHING = struct.pack(">I", 0)


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _status(code: int, text: bytes = b"") -> Reply:
    return bytes([STATUS]), struct.pack(">I", code), _text(text), _text(b"")


def _failure(error: Exception) -> Reply:
    number = error.errno if isinstance(error, OSError) else None
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _status(STATUSES.get(number or 0, FAILURE), text=said.encode(errors="replace"))


def _pack(status: os.stat_result) -> bytes:
    times = int(status.st_atime) & 0xFFFFFFFF, int(status.st_mtime) & 0xFFFFFFFF
    flags = SIZE | OWNER | MODE | TIMES
    return struct.pack(
        ">IQIIIII", flags, status.st_size, status.st_uid, status.st_gid, status.st_mode, *times
    )


def _attributes(status: os.stat_result) -> Reply:
    return bytes([ATTRS]), _pack(status)


def _names(found: list[tuple[bytes, bytes, bytes]]) -> Reply:
    parts = b"".join(_text(name) + _text(long or name) + packed for name, long, packed in found)
    return bytes([NAME]), struct.pack(">I", len(found)), parts


def _describe(name: bytes, status: os.stat_result) -> bytes:
    """Return the line of a listing that people are shown."""
    when = time.strftime("%b %d  %Y", time.gmtime(status.st_mtime))
    mode = stat.filemode(status.st_mode)
    line = f"{mode} {status.st_nlink:4} {status.st_uid:<8} {status.st_gid:<8} {status.st_size:8} {when} "
    return line.encode() + name


def _set(what: bytes | int, attributes: dict[str, Any]) -> None:
    if "size" in attributes:
        os.truncate(what, attributes["size"])
    if "owner" in attributes:
        os.chown(what, *attributes["owner"])
    if "times" in attributes:
        os.utime(what, attributes["times"])
    if "mode" in attributes:
        os.chmod(what, attributes["mode"])


def _room(found: os.statvfs_result) -> bytes:
    flags = (1 if found.f_flag & os.ST_RDONLY else 0) | (2 if found.f_flag & os.ST_NOSUID else 0)
    sizes = found.f_bsize, found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail
    return struct.pack(
        ">11Q", *sizes, found.f_files, found.f_ffree, found.f_favail, found.f_fsid, flags, found.f_namemax
    )


def _say(*parts: bytes) -> None:
    done = os.writev(1, parts)
    left = memoryview(b"".join(parts))[done:] if done < sum(map(len, parts)) else memoryview(b"")
    while left:
        left = left[os.write(1, left) :]


def main() -> None:
    """Serve until the end of input, or of sense."""
    server = _Server(reverse="reverse" in sys.argv)
    for stream in (0, 1):  # larger pipes take fewer turns; what is none, or may not be larger, stays as it is
        try:
            fcntl.fcntl(stream, ENLARGE, 1 << 20)
        except OSError:
            continue
    incoming = os.fdopen(0, "rb", buffering=1 << 20, closefd=False)
    _say(READY)
    while True:
        head = incoming.read(5)
        if len(head) < 5:
            return
        size = struct.unpack(">I", head[:4])[0] - 1
        if not 0 <= size <= LONGEST:
            return
        data = incoming.read(size)
        if len(data) < size:
            return
        try:
            answer = server.answer(head[4], _Request(data))
        except IndexError:
            return
        _say(struct.pack(">I", sum(map(len, answer))), *answer)
