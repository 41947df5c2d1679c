"""Looking up whom gossip does not bring, in communities so large that records are kept by some members only."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable

from gridcloud.clock import Clock
from gridcloud.errors import GridcloudError, Malformed
from gridcloud.federation.gossip import Give
from gridcloud.federation.ring import SHARDS, shard_of
from gridcloud.grid.calling import Caller
from gridcloud.grid.circle import Circle, Held
from gridcloud.grid.links import LinkBook

__all__ = ["Seeking"]

log = logging.getLogger(__name__)

SCOUTED = 4
"""Shards that are looked up so that we know more members than gossip brings: about as many as we could ever ask."""
AGAIN = 600.0
"""Seconds between two such looks."""
REST, SHORT = 30.0, 2.0
"""Seconds before a shard is asked for again of which there was no answer: by ourselves, and for somebody who waits."""
ASKED = 3
"""Keepers of a shard that are asked, one after the other."""
ANSWER = 10.0
"""Seconds for an answer."""


class Seeking:
    """Asks the keepers of shards. `found` is called when records came."""

    def __init__(
        self, circle: Circle, caller: Caller, links: LinkBook, clock: Clock, found: Callable[[Held], None]
    ) -> None:
        self._circle = circle
        self._caller = caller
        self._links = links
        self._clock = clock
        self._found = found
        self._chance = random.Random()  # noqa: S311 - which shards we know is no secret
        self._tried: dict[tuple[str, int], float] = {}
        self._scouted: dict[str, tuple[float, tuple[int, ...]]] = {}

    async def find(self, institution: str) -> None:
        """Look up where a member is; afterwards its record is here, or nobody told."""
        for held in list(self._circle.held.values()):
            ring = held.gossip.ring
            if ring.whole or not held.membership.is_member(institution, self._circle.now()):
                continue
            await self._ask(held, shard_of(institution), rest=SHORT)

    async def look(self, held: Held) -> None:
        """Look up those with whom we share records, and now and then a few others; what is found is told."""
        ring = held.gossip.ring
        if ring.whole:
            return
        near = {shard_of(who) for who in ring.neighbours(self._circle.me) if not self._is_placed(who)}
        shards = set(sorted(near)[:SCOUTED])
        now = self._clock.monotonic()
        since, chosen = self._scouted.get(held.community, (now - AGAIN, ()))
        if now - since >= AGAIN and any(self._is_placed(who) for who in ring.guides):
            chosen = chosen or tuple(self._chance.sample(range(SHARDS), SCOUTED))
            self._scouted[held.community] = (now, chosen)
            shards |= set(chosen)
        await asyncio.gather(*(self._ask(held, shard) for shard in sorted(shards)))

    async def _ask(self, held: Held, shard: int, *, rest: float = REST, further: bool = True) -> bool:
        """Ask keepers of a shard until one answers; where nobody knows where they are, look these up before."""
        name, now = (held.community, shard), self._clock.monotonic()
        if further and self._tried.get(name, now - rest) + rest > now:
            return False
        self._tried[name] = now
        keepers = [who for who in held.gossip.ring.keepers(shard) if who != self._circle.me]
        if further and not any(map(self._is_placed, self._there(held, keepers))):
            for keeper in self._there(held, keepers)[:ASKED]:
                await self._ask(held, shard_of(keeper), further=False)
        for keeper in [one for one in self._there(held, keepers) if self._is_placed(one)][:ASKED]:
            try:
                kind, body = await self._caller.ask_known(  # who is not looked up for it in turn
                    held.gossip.keys[keeper],
                    "gossip.seek",
                    held.gossip.seek(shard).document(),
                    timeout=ANSWER,
                )
                if kind != "gossip.give":
                    raise Malformed(f"a look-up was answered by {kind}", details={"who": keeper})
                new = held.gossip.find(keeper, shard, Give.of(body), self._circle.now())
            except GridcloudError as error:
                log.debug("shard %d is not told by %s: %s", shard, keeper, error)
                continue
            self._tried.pop(name, None)
            if new:
                self._found(held)
            return True
        return False

    def _there(self, held: Held, keepers: Iterable[str]) -> list[str]:
        """Return those whose keys we have; who did not answer lately comes last."""
        away = self._links.away()
        return sorted((who for who in keepers if who in held.gossip.keys), key=lambda who: who in away)

    def _is_placed(self, who: str) -> bool:
        return bool(self._circle.addresses(who) or self._circle.relays(who))
