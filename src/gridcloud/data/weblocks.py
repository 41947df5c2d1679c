"""Locks of WebDAV (RFC 4918, chapters 6, 7 and 10.4): kept in memory, binding for those who come by WebDAV."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from gridcloud.clock import Clock
from gridcloud.data.paths import Names, from_url
from gridcloud.errors import InvalidRequest

__all__ = ["LONGEST", "Condition", "Lock", "Locks", "read_conditions"]

LONGEST = 3600
"""Seconds that a lock lives at most without being refreshed."""

MOST = 1000
"""Locks of one share."""


@dataclass(slots=True)
class Lock:
    """One lock."""

    token: str
    path: Names
    exclusive: bool
    deep: bool
    owner: str
    """XML that the client gave to tell people who holds it."""
    seconds: int
    until: float


@dataclass(frozen=True, slots=True)
class Condition:
    """One list of an ``If`` header: all of it has to hold for a resource (None: the one that is asked for)."""

    path: Names | None
    states: tuple[tuple[bool, str, str], ...]
    """Each with whether it is to hold, a token or nothing, and an ETag or nothing."""


class Locks:
    """The locks of one share."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._locks: dict[str, Lock] = {}

    def of(self, path: Names) -> list[Lock]:
        """Return the locks that hold for a path: its own, and deep ones of folders above."""
        self._forget()
        return [
            one
            for one in self._locks.values()
            if one.path == path or (one.deep and path[: len(one.path)] == one.path)
        ]

    def below(self, path: Names) -> list[Lock]:
        """Return the locks of what lies in a folder, or of itself."""
        self._forget()
        return [one for one in self._locks.values() if one.path[: len(path)] == path]

    def take(self, path: Names, *, exclusive: bool, deep: bool, owner: str, seconds: int) -> Lock | None:
        """Lock; return None where that is not to be had."""
        there = self.of(path) + (self.below(path) if deep else [])
        if any(exclusive or one.exclusive for one in there) or len(self._locks) >= MOST:
            return None
        token = f"urn:uuid:{uuid.uuid4()}"
        seconds = min(seconds, LONGEST)
        lock = Lock(token, path, exclusive, deep, owner, seconds, self._clock.monotonic() + seconds)
        self._locks[token] = lock
        return lock

    def refresh(self, lock: Lock, seconds: int) -> None:
        """Have a lock live as long again."""
        lock.seconds = min(seconds, LONGEST)
        lock.until = self._clock.monotonic() + lock.seconds

    def release(self, path: Names, token: str) -> bool:
        """Unlock; return whether there was such a lock for the path."""
        found = any(one.token == token for one in self.of(path))
        if found:
            del self._locks[token]
        return found

    def drop(self, path: Names) -> None:
        """Forget the locks of what is gone."""
        for one in self.below(path):
            del self._locks[one.token]

    def _forget(self) -> None:
        now = self._clock.monotonic()
        for one in [one for one in self._locks.values() if one.until <= now]:
            del self._locks[one.token]


def read_conditions(header: str, prefix: str) -> list[Condition]:
    """Return the lists of an ``If`` header (RFC 4918, 10.4). ``prefix``: what paths of this share begin with.

    Raises InvalidRequest where it is not well-formed.
    """
    found: list[Condition] = []
    path: Names | None = None
    words = list(_words(header))
    while words:
        word = words.pop(0)
        if word.startswith("<"):
            path = _path(word[1:-1], prefix)
        elif word == "(":
            states: list[tuple[bool, str, str]] = []
            holds = True
            while True:
                if not words:
                    raise InvalidRequest("The If header is not well-formed.")
                word = words.pop(0)
                if word == ")":
                    break
                if word == "Not":
                    holds = False
                    continue
                if word.startswith("<"):
                    states.append((holds, word[1:-1], ""))
                else:
                    states.append((holds, "", word[1:-1]))
                holds = True
            if not states:
                raise InvalidRequest("The If header is not well-formed.")
            found.append(Condition(path, tuple(states)))
        else:
            raise InvalidRequest("The If header is not well-formed.")
    return found


def _path(url: str, prefix: str) -> Names | None:
    path = re.sub(r"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/]*", "", url)
    return from_url(path[len(prefix) :]) if path.startswith(prefix) else None


def _words(header: str) -> Iterator[str]:
    place = 0
    for match in re.finditer(r"\s*(<[^>]*>|\[[^\]]*\]|\(|\)|Not\b)\s*", header[:16384], re.IGNORECASE):
        if match.start() != place:
            break
        place = match.end()
        yield "Not" if match[1].lower() == "not" else match[1]
    if place != len(header):
        raise InvalidRequest("The If header is not well-formed.")
