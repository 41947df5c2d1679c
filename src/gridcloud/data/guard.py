"""Against guessing of links and passwords: who guesses is counted, slowed, and kept out for a while."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

from gridcloud.clock import Clock
from gridcloud.errors import Throttled

__all__ = ["BAN", "GUESSES", "LONGEST_BAN", "SHARE_GUESSES", "WINDOW", "Guard"]

GUESSES = 10
"""Wrong links, passwords or codes from one address (IPv6: one /64) within `WINDOW` before it is kept out."""

WINDOW = 600.0
"""Seconds."""

BAN = 900.0
"""Seconds that the first ban takes; each further one takes twice as long, until there was none for a day."""

LONGEST_BAN = 86400.0

SHARE_GUESSES = 30
"""Wrong passwords or codes for one share from all addresses together within `WINDOW`; then only addresses that have
been in before may try, so that many addresses guess no more than one."""

MOST = 100_000
"""Addresses and shares that are remembered; those seen last."""


@dataclass(slots=True)
class _Count:
    guesses: int = 0
    began: float = float("-inf")
    banned_until: float = float("-inf")
    bans: int = 0


class Guard:
    """What is remembered of wrong attempts, in memory: a restart forgives."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._addresses: OrderedDict[str, _Count] = OrderedDict()
        self._shares: OrderedDict[str, _Count] = OrderedDict()
        self._welcome: OrderedDict[tuple[str, str], None] = OrderedDict()

    def check(self, address: str, share: str = "") -> None:
        """Raise Throttled, which says for how long, where an address is kept out, or a share from strangers."""
        now = self._clock.monotonic()
        place = _place(address)
        count = self._addresses.get(place)
        if count is not None and now < count.banned_until:
            raise _kept_out(count.banned_until - now)
        of_share = self._shares.get(share) if share else None
        if of_share is not None and (share, place) not in self._welcome:
            left = of_share.began + WINDOW - now
            if of_share.guesses >= SHARE_GUESSES and left > 0:
                raise _kept_out(left)

    def fail(self, address: str, share: str = "") -> bool:
        """Note a wrong attempt; return whether it led to a ban of the address."""
        now = self._clock.monotonic()
        if share:
            _add(self._shares, share, now)
        count = _add(self._addresses, _place(address), now)
        if count.guesses < GUESSES:
            return False
        if now - count.banned_until > LONGEST_BAN:
            count.bans = 0
        count.banned_until = now + min(LONGEST_BAN, BAN * 2**count.bans)
        count.bans += 1
        count.guesses = 0
        return True

    def welcome(self, address: str, share: str) -> None:
        """Note that somebody there knew what it takes. It does not undo their wrong attempts: those go on counting."""
        self._welcome[share, _place(address)] = None
        self._welcome.move_to_end((share, _place(address)))
        if len(self._welcome) > MOST:
            self._welcome.popitem(last=False)


def _add(counts: OrderedDict[str, _Count], name: str, now: float) -> _Count:
    count = counts.setdefault(name, _Count())
    counts.move_to_end(name)
    if now - count.began > WINDOW:
        count.guesses, count.began = 0, now
    count.guesses += 1
    if len(counts) > MOST:
        counts.popitem(last=False)
    return count


def _place(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def _kept_out(seconds: float) -> Throttled:
    return Throttled(
        "Too many wrong links, passwords or codes came from there.",
        remedy=f"Wait {int(seconds) + 1} seconds.",
        details={"limit": "banned", "seconds": int(seconds) + 1},
    )
