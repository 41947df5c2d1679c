"""Now, sleep and new ids, passed in wherever they are needed so that tests own the time."""

from __future__ import annotations

import asyncio
import heapq
import re
import secrets
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta

__all__ = ["Clock", "ManualClock", "SystemClock"]

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case: its order is ASCII's, and no letter looks like a digit."""


class Clock(ABC):
    """What time it is, and how long to wait."""

    @abstractmethod
    def now(self) -> datetime:
        """The time in UTC, aware."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds that never run backwards, from an unknown start."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``; at once, but not before others had a turn, when that is 0 or less."""

    @abstractmethod
    def new_id(self, prefix: str) -> str:
        """Return a new id such as ``i-1n9k7x2c4q8v3hd0m5t``: it sorts by time, and nobody guesses it.

        The prefix is 1 to 16 lower-case letters and digits, a letter first; raises ValueError otherwise.
        The id matches ``^[a-z0-9][a-z0-9-]{2,40}$``.
        """


class SystemClock(Clock):
    """The computer's own time."""

    def __init__(self) -> None:
        self._last = 0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def new_id(self, prefix: str) -> str:
        # Two ids of one millisecond still sort in the order they were made.
        self._last = max(self._last + 1, time.time_ns() // 1_000_000)
        return _identifier(prefix, self._last, secrets.randbits(50))


class ManualClock(Clock):
    """A clock that stands still until it is told to advance; ids count up. Use it within one event loop."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._made = 0
        self._order = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._asleep = asyncio.Event()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._sleepers, (self._elapsed + seconds, self._order, waiting))
        self._asleep.set()
        await waiting

    def new_id(self, prefix: str) -> str:
        self._made += 1
        return _identifier(prefix, int(self.now().timestamp() * 1000), self._made)

    @property
    def sleepers(self) -> int:
        """How many are asleep."""
        return sum(not waiting.done() for _, _, waiting in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move the time on, waking sleepers in the order of their times; each runs before time moves further.

        A sleeper that goes to sleep again is woken again if its new time lies within ``seconds``, unless it
        waited for a thread in between: use `until_asleep` where it does.
        """
        goal = self._elapsed + seconds
        await _let_others_run()
        while self._sleepers and self._sleepers[0][0] <= goal:
            due, _, waiting = heapq.heappop(self._sleepers)
            if waiting.done():  # its task was cancelled
                continue
            self._elapsed = max(self._elapsed, due)
            waiting.set_result(None)
            await _let_others_run()
        self._elapsed = goal
        await _let_others_run()

    async def until_asleep(self, count: int = 1) -> None:
        """Return when at least ``count`` are asleep (real time passes; time out around it)."""
        while self.sleepers < count:
            self._asleep.clear()
            await self._asleep.wait()


def _identifier(prefix: str, milliseconds: int, chance: int) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9]{0,15}", prefix):
        raise ValueError(f"{prefix!r} is not a prefix of ids: 1 to 16 of a-z and 0-9, a letter first")
    return f"{prefix}-{_digits(milliseconds, 9)}{_digits(chance, 10)}"


def _digits(number: int, count: int) -> str:
    return "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(count)))


async def _let_others_run() -> None:
    # What a woken task does next takes several turns of the loop (a future, its task, a queue, ...).
    for _ in range(10):
        await asyncio.sleep(0)
