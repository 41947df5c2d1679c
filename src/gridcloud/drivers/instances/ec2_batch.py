"""One call for all who want the same done at the same time: a cloud counts calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from gridcloud.errors import GridcloudError

__all__ = ["Batch"]


class Batch:
    """A deed on named things that threads share. Who comes while it is being done has theirs done in the next call."""

    def __init__(self, perform: Callable[[Sequence[str]], object], most: int) -> None:
        """``perform`` does it to things, at most ``most`` at once; it may fail for all because of one."""
        self._perform = perform
        self._most = most
        self._changed = threading.Condition()
        self._waiting: dict[str, Future[None]] = {}
        """What those are told who asked for a name since it was last taken up: never an earlier call's outcome."""
        self._performing = False

    def add(self, name: str) -> None:
        """Have it done to one thing. Blocking; raises what doing it to this thing raises."""
        with self._changed:
            told = self._waiting.setdefault(name, Future())
            while not told.done():
                if self._performing:
                    self._changed.wait()
                else:
                    self._perform_next()
        told.result()

    def _perform_next(self) -> None:
        """Do it to those that wait, the lock being held before and after but not while it is done."""
        names = list(self._waiting)[: self._most]
        waiting = {name: self._waiting.pop(name) for name in names}
        self._performing = True
        self._changed.release()
        try:
            outcomes = self._try(names)
        finally:
            self._changed.acquire()
            self._performing = False
        for name, told in waiting.items():
            if error := outcomes[name]:
                told.set_exception(error)
            else:
                told.set_result(None)
        self._changed.notify_all()

    def _try(self, names: Sequence[str]) -> dict[str, BaseException | None]:
        outcomes: dict[str, BaseException | None] = {}
        try:
            self._perform(names)
        except GridcloudError as error:
            if len(names) > 1:  # one of them may be the reason: each alone then
                return {one: outcome for name in names for one, outcome in self._try([name]).items()}
            outcomes[names[0]] = error
        except BaseException as error:  # told to each who waits, in its own thread
            outcomes = dict.fromkeys(names, error)
        return dict.fromkeys(names) | outcomes
