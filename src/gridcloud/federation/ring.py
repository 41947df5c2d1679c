"""Which members keep the records of which shard, once there are too many for everybody to keep all.

Consistent hashing (Karger and others, 1997): members and shards are points on a ring, and a shard is kept by the next
members on it. Everybody computes the same from the list of members alone; one who comes or goes moves few shards.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["COPIES", "EVERYBODY", "GUIDED", "SHARDS", "Ring", "ring_of", "shard_of"]

EVERYBODY = 100
"""Up to so many members, everybody keeps all records."""
COPIES = 8
"""Members that keep each shard: all but never are all of them away at once."""
SHARDS = 64
"""Shards of a community; the same everywhere, part of the protocol."""
GUIDED = 4
"""Shards that follow on each other and have one guide, the first keeper of the first of them, who keeps all of them."""
_POINTS = 32
"""Places of each member on the ring: more make the shares more even."""


@lru_cache(8192)
def shard_of(institution: str) -> int:
    """Return the shard that an institution's record belongs to, 0 to `SHARDS` - 1."""
    return _place(f"shard:{institution}") % SHARDS


class Ring:
    """The members of one list on their ring; made anew for each list, by `ring_of` once for all who ask."""

    def __init__(self, members: Iterable[str], *, copies: int = COPIES, everybody: int = EVERYBODY) -> None:
        self._members = sorted(set(members))
        self._copies = copies
        self.whole = len(self._members) <= max(everybody, copies)
        """Whether everybody keeps all."""
        self._kept: dict[int, tuple[str, ...]] = {}
        self.guides: frozenset[str] = frozenset()
        """Members whose records everybody keeps, each a keeper of four shards: so everybody knows whom to ask."""
        if not self.whole:
            points = sorted((place, who) for who in self._members for place in _points(who))
            places = [place for place, _ in points]
            names = [who for _, who in points]
            kept = {shard: self._next(shard, places, names) for shard in range(SHARDS)}
            guides = {shard: kept[shard - shard % GUIDED][0] for shard in kept}
            self._kept = {shard: tuple(dict.fromkeys((guides[shard], *kept[shard]))) for shard in kept}
            self.guides = frozenset(guides.values())

    def keepers(self, shard: int) -> tuple[str, ...]:
        """Return the members that keep a shard, its guide first; everybody in a small community."""
        return tuple(self._members) if self.whole else self._kept[shard]

    def shards(self, member: str) -> frozenset[int]:
        """Return the shards that a member keeps."""
        if self.whole:
            return frozenset(range(SHARDS)) if member in self._members else frozenset()
        return frozenset(shard for shard, keepers in self._kept.items() if member in keepers)

    def keeps(self, member: str, institution: str) -> bool:
        """Say whether a member keeps an institution's record: those of its shards, of the guides, and its own."""
        known = self.whole or member == institution or institution in self.guides
        return known or member in self._kept[shard_of(institution)]

    def neighbours(self, member: str) -> frozenset[str]:
        """Return with whom a member has records in common: who keeps one of its shards, or the shard of its own."""
        if self.whole:
            return frozenset(self._members) - {member}
        shards = self.shards(member) | {shard_of(member)}
        return frozenset(who for shard in shards for who in self._kept[shard]) - {member}

    def _next(self, shard: int, places: list[int], names: list[str]) -> tuple[str, ...]:
        start = bisect_right(places, _place(f"key:{shard}"))
        found: dict[str, None] = {}
        for step in range(len(names)):
            found.setdefault(names[(start + step) % len(names)])
            if len(found) == self._copies:
                break
        return tuple(found)


@lru_cache(16)
def ring_of(members: frozenset[str]) -> Ring:
    """Return the ring of these members, with the protocol's own numbers."""
    return Ring(members)


@lru_cache(8192)
def _points(member: str) -> tuple[int, ...]:
    return tuple(_place(f"member:{member}:{number}") for number in range(_POINTS))


def _place(text: str) -> int:
    return int.from_bytes(hashlib.sha256(b"gridcloud:ring:1\n" + text.encode("ascii")).digest()[:8], "big")
