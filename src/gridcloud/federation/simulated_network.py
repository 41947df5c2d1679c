"""Time and post for many institutions in one program: events in order, clocks that differ, messages that get lost."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from gridcloud.clock import Clock
from gridcloud.errors import MessageRefused
from gridcloud.federation.encoding import Json, decode, encode
from gridcloud.federation.envelopes import Receiver, ReplayCache, Signers, sign
from gridcloud.federation.keys import KeyList, PrivateKey, ServiceKey, institution_of, make_key_list
from gridcloud.federation.scenario import Scenario

__all__ = ["Place", "Post", "SimulatedClock", "Timeline"]

START = datetime(2026, 3, 2, tzinfo=UTC)
"""A Monday."""
YEAR = 366 * 86_400_000


class Timeline:
    """What happens when, in milliseconds since 1970."""

    def __init__(self) -> None:
        self.now = int(START.timestamp() * 1000)
        self._order = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []

    def after(self, milliseconds: float, event: Callable[[], None]) -> None:
        """Have something happen later."""
        self._order += 1
        heapq.heappush(self._events, (self.now + max(0, int(milliseconds)), self._order, event))

    def run(self, until: int, done: Callable[[], bool] = lambda: False) -> None:
        """Let all happen until a moment, or until ``done`` says so."""
        while self._events and self._events[0][0] <= until and not done():
            self.now, _, event = heapq.heappop(self._events)
            event()
        if not done():
            self.now = until

    def clear(self) -> None:
        """Forget what was to happen."""
        self._events.clear()


class SimulatedClock(Clock):
    """One institution's clock, which is wrong by ``offset`` milliseconds."""

    def __init__(self, timeline: Timeline, offset: int) -> None:
        self._timeline = timeline
        self.offset = offset
        self._made = 0

    @property
    def milliseconds(self) -> int:
        """What it shows."""
        return self._timeline.now + self.offset

    def now(self) -> datetime:
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=self.milliseconds)

    def monotonic(self) -> float:
        return self._timeline.now / 1000

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError("in a simulation, things happen on the timeline")

    def new_id(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}-{self._made:012d}"


@dataclass
class Place:
    """An institution on the network: its keys, its clock, and what it sent."""

    number: int
    clock: SimulatedClock
    root: PrivateKey
    service: PrivateKey
    institution: str = ""
    keys: KeyList = field(init=False)
    receiver: Receiver = field(init=False)
    away: bool = False
    messages: int = 0
    sent: int = 0
    """Bytes."""

    def __post_init__(self) -> None:
        self.institution = institution_of(self.root.public)
        start = int(START.timestamp() * 1000) - YEAR // 366
        self.keys = make_key_list(
            self.root,
            1,
            start,
            (ServiceKey(key=self.service.public, valid_from=start, valid_until=start + YEAR),),
        )
        # A day of messages within two minutes is much; here it is no attack.
        self.receiver = Receiver(self.institution, self.clock, ReplayCache(1_000_000))

    @classmethod
    def make(cls, number: int, timeline: Timeline, offset: int) -> Place:
        """Return the institution of a number: the same keys in every run."""
        seeds = [
            hashlib.sha256(f"simulated {kind} {number}".encode()).digest() for kind in ("root", "service")
        ]
        return cls(number, SimulatedClock(timeline, offset), PrivateKey(seeds[0]), PrivateKey(seeds[1]))


Deliver = Callable[[Place, Place, str, Json], None]
"""What takes a message: the sender, the recipient, the kind, the body."""


class Post:
    """Carries messages: signed and opened as they are between real institutions, or counted as such."""

    def __init__(self, scenario: Scenario, timeline: Timeline, chance: random.Random) -> None:
        self.places: dict[str, Place] = {}
        self.signers: Callable[[Place], Signers] = lambda _: Signers({})
        self.deliver: Deliver = lambda *_: None
        self.cut = 0
        """How many of the first members hear nothing of the others."""
        self.signed = 0
        self.checked = 0
        self.refused = 0
        self.lost = 0
        self._scenario = scenario
        self._timeline = timeline
        self._chance = chance
        self._real = scenario.signatures == "real"
        self._envelope = 0

    def send(self, sender: Place, recipient: str, kind: str, body: Json) -> None:
        """Send a message, which may be lost."""
        self.signed += 1
        to = self.places[recipient]
        data = self._write(sender, recipient, kind, body)
        sender.messages += 1
        sender.sent += len(data) + (0 if self._real else self._envelope + len(kind))
        if self._chance.random() < self._scenario.loss:
            self.lost += 1
            return
        shortest, longest = self._scenario.latency
        took = 1000 * self._chance.uniform(shortest, longest)
        self._timeline.after(took, lambda: self._arrive(sender, to, kind, data))

    def _write(self, sender: Place, recipient: str, kind: str, body: Json) -> bytes:
        if self._real or not self._envelope:
            data = sign(
                sender.service,
                sender.clock,
                kind=kind,
                sender=sender.institution,
                recipient=recipient,
                body=body,
            )
            self._envelope = len(data) - len(encode(body)) - len(kind)
            if self._real:
                return data
        return encode(body)

    def _arrive(self, sender: Place, to: Place, kind: str, data: bytes) -> None:
        apart = self.cut and (sender.number < self.cut) != (to.number < self.cut)
        if to.away or sender.away or apart:
            self.lost += 1
            return
        self.checked += 1
        if not self._real:
            self.deliver(sender, to, kind, decode(data))
            return
        try:
            envelope = to.receiver.open(data, self.signers(to))
        except MessageRefused:
            self.refused += 1
            return
        self.deliver(sender, to, envelope.kind, envelope.body)
