"""Open files below a folder so that nothing, whoever changes the folder meanwhile, leads out of it.

Linux's ``openat2`` (since 5.6) does that in one call: RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS. Where the kernel, or a
sandbox around us, does not have it, each name is opened from the one before it with O_NOFOLLOW. Either way links are
not followed at all, since one may be put there between a look at it and its use.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["Beneath"]

OPENAT2 = 437
"""The number of the system call, the same on every architecture."""

NO_MAGICLINKS, NO_SYMLINKS, BENEATH = 0x02, 0x04, 0x08
"""RESOLVE_… of linux/openat2.h."""

TRIES = 8
"""How often a path is resolved again that openat2 could not be sure of (EAGAIN): somebody renames folders there."""

FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Beneath:
    """Opens below ``root``, which is looked up anew each time, so that a folder put in its place is found."""

    fast = True
    """Whether the kernel has openat2, as far as is known; for this process."""

    def __init__(self, root: str) -> None:
        self._root = root

    def open(self, names: Sequence[str], flags: int, mode: int = 0o666) -> int:
        """Return a descriptor. Raises OSError; ELOOP or ENOTDIR where a link stands in the way."""
        root = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _open(root, names, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        finally:
            os.close(root)

    @contextmanager
    def parent(self, names: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Give the descriptor of the folder that holds the last name, and that name: for calls ending in ``at``."""
        folder = self.open(names[:-1], FOLDER)
        try:
            yield folder, names[-1]
        finally:
            os.close(folder)


def _open(root: int, names: Sequence[str], flags: int, mode: int) -> int:
    if not names:
        # A descriptor of our own; "." needs no resolving.
        return os.open(".", flags & ~os.O_CREAT, dir_fd=root)
    if Beneath.fast:
        try:
            return _openat2(root, os.fsencode("/".join(names)), flags, mode)
        except OSError as error:
            # ENOSYS: an old kernel; EPERM: a sandbox that knows no such call, or the truth, which the walk tells.
            if error.errno == errno.ENOSYS:
                Beneath.fast = False
            elif error.errno not in (errno.EPERM, errno.EAGAIN):
                raise
    return _walk(root, names, flags, mode)


def _openat2(root: int, path: bytes, flags: int, mode: int) -> int:
    how = struct.pack("QQQ", flags, mode if flags & os.O_CREAT else 0, NO_MAGICLINKS | NO_SYMLINKS | BENEATH)
    for _ in range(TRIES):
        found = _libc.syscall(
            ctypes.c_long(OPENAT2),
            ctypes.c_int(root),
            ctypes.c_char_p(path),
            ctypes.c_char_p(how),
            ctypes.c_size_t(24),
        )
        if found >= 0:
            return int(found)
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), os.fsdecode(path))


def _walk(root: int, names: Sequence[str], flags: int, mode: int) -> int:
    folder = os.dup(root)
    try:
        for name in names[:-1]:
            deeper = os.open(name, FOLDER, dir_fd=folder)
            os.close(folder)
            folder = deeper
        return os.open(names[-1], flags, mode, dir_fd=folder)
    finally:
        os.close(folder)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
