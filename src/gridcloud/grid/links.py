"""How we stand with each other member: when it was heard, by which way it is reached, what of it was refused."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from gridcloud.clock import Clock
from gridcloud.errors import GridcloudError, MessageRefused
from gridcloud.federation.encoding import milliseconds
from gridcloud.grid.model import Link, Refusal, Way

__all__ = ["LinkBook"]

log = logging.getLogger(__name__)

KEPT = 200
"""Refusals that are shown."""
FIRST, LONGEST = 2.0, 120.0
"""Seconds that a member who did not answer is left alone by gossip; doubled each time."""
SOON = 0.3
"""Where the first of these seconds begin for who does not know our key."""
MEMBERS = 4096
AGAIN = 60.0
"""Seconds that a member's addresses are tried after its relays, once they failed."""
LINES = 30
"""Lines of the log that a member, or all strangers, may fill in a minute."""


@dataclass(slots=True)
class _Tie:
    way: Way = Way.UNTRIED
    address: str = ""
    heard: datetime | None = None
    failure: str = ""
    failures: int = 0
    again: float = 0.0
    direct: float = 0.0
    skew: float | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"sent": 0, "received": 0, "refused": 0})


class LinkBook:
    """What happened with each member since this service started."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ties: dict[str, _Tie] = {}
        self._minute, self._lines = clock.monotonic(), Counter[str]()
        self._refusals: deque[Refusal] = deque(maxlen=KEPT)

    def heard(self, institution: str, issued: int) -> None:
        """Note a message that was accepted; `issued`: when by the sender's clock, in milliseconds."""
        tie = self._tie(institution)
        now = self._clock.now()
        tie.heard = now
        tie.skew = (issued - milliseconds(now)) / 1000
        tie.counts["received"] += 1
        tie.failures, tie.again = 0, 0.0  # it is there, and knows us

    def told_skew(self, institution: str, seconds: float) -> None:
        """Note how far ahead of ours a member's clock is, as it refused a message of ours for that."""
        self._tie(institution).skew = seconds

    def reached(self, institution: str, way: Way, address: str) -> None:
        """Note that a member was reached."""
        tie = self._tie(institution)
        if tie.way is not way:
            log.info("%s is reached: %s, %s", institution, way, address)
        tie.way, tie.address, tie.failure, tie.failures, tie.again = way, address, "", 0, 0.0
        tie.counts["sent"] += 1

    def failed(self, institution: str, why: str, *, tried: bool = True, known: bool = True) -> None:
        """Note that a member was not reached; where nothing was `tried`, it is tried as soon as there is a way; where
        it does not know our key yet (not `known`), it is about to hear of us from others, and rests less at first."""
        tie = self._tie(institution)
        if tie.way is not Way.UNREACHABLE:
            log.log(logging.WARNING if tried else logging.INFO, "%s is not reached: %s", institution, why)
        pause = min(LONGEST, (FIRST if known else SOON) * 2.0 ** min(tie.failures, 10))
        tie.way, tie.failure, tie.failures = Way.UNREACHABLE, why, tie.failures + 1
        tie.again = self._clock.monotonic() + pause if tried else 0.0

    def refused(self, error: GridcloudError, who: str = "", what: str = "") -> None:
        """Log what was not accepted, on one line; `who`: as the connection proved, where it did."""
        named = who or str(error.details.get("who") or "somebody unknown")
        told = Refusal(
            when=self._clock.now(),
            who=_line(named),
            what=_line(what or str(error.details.get("what") or "a message")),
            why=_line(error.message),
            error=type(error).__name__,
        )
        if self._may_log(who):
            log.warning("refused %s of %s: %s: %s", told.what, told.who, told.error, told.why)
        self._refusals.append(told)
        if who:
            tie = self._tie(who)
            tie.counts["refused"] += 1
            if isinstance(error, MessageRefused) and isinstance(error.details.get("seconds"), int):
                tie.skew = float(error.details["seconds"])

    def _may_log(self, who: str) -> bool:
        """Let each member, and all strangers, fill a few lines of the log a minute; then say how many there were."""
        now = self._clock.monotonic()
        if now - self._minute >= 60.0:
            for one, count in self._lines.items():
                if count > LINES:
                    named = _line(one) or "strangers"
                    log.warning("refused %d more messages and connections of %s", count - LINES, named)
            self._minute, self._lines = now, Counter()
        self._lines[who] += 1
        return self._lines[who] <= LINES

    def away(self) -> set[str]:
        """Return who did not answer lately and is left alone for now."""
        now = self._clock.monotonic()
        return {who for who, tie in self._ties.items() if tie.again > now}

    def no_direct_way(self, institution: str) -> None:
        """Note that a member was not reached at its own addresses."""
        self._tie(institution).direct = self._clock.monotonic() + AGAIN

    def prefers_relays(self, institution: str) -> bool:
        """Say whether a member's own addresses failed a moment ago, so that its relays are tried first."""
        tie = self._ties.get(institution)
        return tie is not None and tie.direct > self._clock.monotonic()

    def reachable(self, institution: str) -> None:
        """Let a member be tried at once: it was heard of again."""
        if institution in self._ties:
            self._ties[institution].again = 0.0

    def forget(self, members: set[str]) -> None:
        """Keep only what is of these."""
        self._ties = {who: tie for who, tie in self._ties.items() if who in members}

    def refusals(self) -> tuple[Refusal, ...]:
        """Return the latest refusals, newest last."""
        return tuple(self._refusals)

    def links(self, names: Mapping[str, str]) -> tuple[Link, ...]:
        """Return how we stand with these members, whose names are given by id."""
        return tuple(self._link(who, name) for who, name in sorted(names.items(), key=lambda one: one[1]))

    def _link(self, who: str, name: str) -> Link:
        tie = self._ties.get(who, _Tie())
        return Link(
            institution=who,
            name=name,
            way=tie.way,
            address=tie.address,
            last_heard=tie.heard,
            last_failure=tie.failure,
            skew=tie.skew,
            **tie.counts,
        )

    def _tie(self, who: str) -> _Tie:
        if len(self._ties) > MEMBERS:
            self._ties.clear()  # only what was seen of members comes here; this bounds what is forgotten late
        return self._ties.setdefault(who, _Tie())


def _line(text: str) -> str:
    """Return what may stand in a log: one line that nobody else can make look like another."""
    return "".join(one if one.isprintable() else "�" for one in text)[:400]
