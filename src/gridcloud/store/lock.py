"""One owner of a store at a time, held by a lock that the kernel frees when the owner dies, however it dies."""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["Holder", "OwnerLock"]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who owns the store. ``pid`` is 0 when it has not said yet."""

    pid: int
    socket: str


class OwnerLock:
    """The right to open one store. ``path`` is the store's file or any file name that stands for it."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".lock")
        self._descriptor: int | None = None

    def try_acquire(self, socket: str = "") -> bool:
        """Become the owner, telling others our process id and ``socket``; False when somebody else is.

        Raises OSError when the lock's file cannot be made or written.
        """
        if self._descriptor is not None:
            return True
        descriptor = self._open()
        for attempt in range(3):  # `holder` of another process takes it for an instant to look
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 2:
                    os.close(descriptor)
                    return False
                time.sleep(0.005)
        text = json.dumps({"pid": os.getpid(), "socket": socket}).encode()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text, 0)
        except OSError as error:  # the disk is full
            os.close(descriptor)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._descriptor = descriptor
        return True

    def holder(self) -> Holder | None:
        """Return who owns it now: None when nobody does."""
        if self._descriptor is None:
            try:
                descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                return _parse(os.pread(descriptor, 10_000, 0))
            finally:
                os.close(descriptor)
        return _parse(os.pread(self._descriptor, 10_000, 0))

    def release(self) -> None:
        """Give it up. May be called twice. The file stays: removing it would let two own the store."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _open(self) -> int:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _parse(text: bytes) -> Holder:
    try:
        told = json.loads(text)
        return Holder(int(told["pid"]), str(told["socket"]))
    except (ValueError, KeyError, TypeError):  # it has the lock and is about to write
        return Holder(0, "")
