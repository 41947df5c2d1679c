"""One listing for all who ask at the same time: a cloud counts calls, and fifty machines are listed as fast as one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

__all__ = ["Listing"]

T = TypeVar("T")


class Listing(Generic[T]):
    """A listing that threads share. What `read` returns was asked for after it was called, never before."""

    def __init__(self, look: Callable[[], Iterable[T]]) -> None:
        self._look = look
        self._changed = threading.Condition()
        self._begun = 0
        """How many looks have begun; one at a time."""
        self._looking = False
        self._ended: dict[int, tuple[list[T], BaseException | None]] = {}
        self._waiting: dict[int, int] = {}

    def read(self) -> list[T]:
        """Return the entries. Blocking; raises what looking raises."""
        with self._changed:
            wanted = self._begun + 1
            self._waiting[wanted] = self._waiting.get(wanted, 0) + 1
            while self._looking and wanted not in self._ended:
                self._changed.wait()
            mine = wanted not in self._ended
            if mine:
                self._begun, self._looking = wanted, True
        if mine:
            self._perform(wanted)
        with self._changed:
            entries, error = self._ended[wanted]
            self._waiting[wanted] -= 1
            if not self._waiting[wanted]:
                del self._waiting[wanted], self._ended[wanted]
        if error is not None:
            raise error
        return entries

    def _perform(self, number: int) -> None:
        entries: list[T] = []
        problem: BaseException | None = None
        try:
            entries = list(self._look())
        except BaseException as error:  # it is told to each who waits, in its own thread
            problem = error
        with self._changed:
            self._looking = False
            self._ended[number] = (entries, problem)
            self._changed.notify_all()
