"""The loop in which members come to hold the same lists, keys and records; our own record is made in it too."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

from gridcloud.clock import Clock
from gridcloud.errors import Forked, GridcloudError, InvalidRequest, Malformed, MessageRefused, Misdirected
from gridcloud.federation.encoding import Json
from gridcloud.federation.gossip import Compare, Give, Greet, Seek, pause
from gridcloud.federation.keys import check_service_key
from gridcloud.federation.records import Profile, Record, make_record, next_serial
from gridcloud.grid.calling import Caller
from gridcloud.grid.circle import Circle, Held
from gridcloud.grid.finding import Finding
from gridcloud.grid.links import LinkBook
from gridcloud.grid.seal import Seal
from gridcloud.grid.seeking import Seeking
from gridcloud.settings.grid import DiscoverySettings

__all__ = ["Gossiping"]

log = logging.getLogger(__name__)

LIFETIME = timedelta(hours=2)
"""How long our record is valid; it is made anew when half of that is over, or what it says changed."""
SLOW = 2.0
"""Seconds that a round waits for who does not answer; what comes of it later counts as news then."""
LOOK = 60.0
"""Seconds between two looks at what our record should say, and at what else is due."""
JOINING = 2.0
"""Longest pause while we wait to become a member."""
GATHER = 0.1
"""Seconds that news is gathered for before it is told."""
ANSWER = 20.0
"""Seconds for an answer."""


class Gossiping:
    """Talks with members, a few in each round. `profile` says what our record should; `look` sees to what else is due
    each minute, `after` to what a round may have brought; `changed` is called at once when lists or keys did."""

    def __init__(
        self,
        circle: Circle,
        caller: Caller,
        seal: Seal,
        links: LinkBook,
        clock: Clock,
        profile: Callable[[], Awaitable[Profile]],
        look: Callable[[], Awaitable[None]],
        after: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
        discovery: Callable[[], DiscoverySettings],
    ) -> None:
        self._finding = Finding(circle, links, clock, discovery, self._hear_found)
        self._seeking = Seeking(circle, caller, links, clock, self._hear_sought)
        caller.find = self._seeking.find
        self._circle = circle
        self._caller = caller
        self._seal = seal
        self._links = links
        self._clock = clock
        self._profile = profile
        self._look = look
        self._after = after
        self._changed = changed
        self._chance = random.Random()  # noqa: S311 - whom to talk to is no secret
        self._news = asyncio.Event()
        self._looked: float | None = None
        self._talking: dict[tuple[str, str], asyncio.Task[bool]] = {}

    def wake(self) -> None:
        """Have the next round at once: there is news."""
        self._news.set()

    def tell_anew(self) -> None:
        """Have the next round look at once at what our record should say."""
        self._looked = None
        self.wake()

    async def run(self) -> None:
        """Go on until cancelled."""
        try:
            await self._finding.open()
            await self._run()
        finally:
            await self._finding.close()
            talks = list(self._talking.values())
            for talk in talks:
                talk.cancel()
            await asyncio.gather(*talks, return_exceptions=True)

    async def _run(self) -> None:
        quiet = 0
        while True:
            self._news.clear()
            try:
                if self._looked is None or self._clock.monotonic() - self._looked >= LOOK:
                    self._looked = self._clock.monotonic()
                    await self._look()
                    await self.refresh()
                elif any(self._lacks_ours(held) for held in self._circle.held.values()):
                    await self.refresh()
                await self._finding.look()
                quiet = 0 if await self.round(quiet) else quiet + 1
                await self._after()
            except GridcloudError as error:
                log.warning("the grid: %s", error)
                quiet += 1
            except (
                Exception
            ):  # a fault of ours in one round: without this loop no member would hear of us again
                log.exception("the grid: a round of gossip failed")
                quiet += 1
            longest = JOINING if any(self.is_joining(one) for one in self._circle.held.values()) else LOOK
            await self._wait(min(longest, pause(quiet)))
            if self._news.is_set():
                quiet = 0

    async def round(self, quiet: int = 0) -> bool:
        """Talk once with some members of each community, after so many rounds without news; say whether there is."""
        talks = []
        for held in list(self._circle.held.values()):
            await self._seeking.look(held)
            away = self._links.away() | self._unplaced(held)
            away |= {who for community, who in self._talking if community == held.community}
            if self.is_joining(held):
                partners = list(held.hosts)  # who does not believe us until we are on its list
            elif not held.membership.is_listed(self._circle.me):
                continue  # we left, or were put out: nobody listens
            else:
                partners = held.gossip.partners(self._circle.now(), self._chance, away, quiet)
            talks += [self._begin_talk(held, who) for who in partners]
        if not talks:
            return False
        done, late = await asyncio.wait(talks, timeout=SLOW)
        for talk in late:
            talk.add_done_callback(self._hear_late)
        return any(talk.result() for talk in done)

    def _begin_talk(self, held: Held, who: str) -> asyncio.Task[bool]:
        name = (held.community, who)
        talk = self._talking.get(name)
        if talk is None:
            talk = self._talking[name] = asyncio.create_task(self._talk(held, who), name="grid: talk")
            talk.add_done_callback(lambda _: self._talking.pop(name, None))
        return talk

    def _hear_late(self, talk: asyncio.Task[bool]) -> None:
        if not talk.cancelled() and talk.result():
            self.wake()

    async def refresh(self) -> None:
        """Make our record anew where it is due, and store what was heard of others."""
        now = self._circle.now()
        profile = await self._profile()
        for held in list(self._circle.held.values()):
            self._circle.note_places(held)
            held.gossip.forget(now)
            held.places = {who: place for who, place in held.places.items() if held.membership.is_listed(who)}
            mine = held.gossip.records.get(self._circle.me)
            if (
                mine is not None
                and mine.profile == profile.document()
                and not self._is_due(mine.key, mine.expires)
            ):
                continue
            serial = next_serial(mine.serial if mine else -1, now)
            held.gossip.learn(
                make_record(self._seal.key_in_use(), self._circle.me, profile, serial, LIFETIME)
            )
            if mine is None or mine.profile != profile.document():
                self.wake()  # that it is good for longer is no news, and spreads in the quiet
        await self._circle.save_heard()

    async def answer(self, sender: str, kind: str, body: Json) -> tuple[str, Json] | None:
        """Answer a member's gossip; what it brought is stored before."""
        held = self._circle.held.get(str(body.get("community")))
        if held is None or held.has_left(
            self._circle.me
        ):  # that we left is told by us, who wait to hear of it
            raise Misdirected("the message is about a community that is none of ours")
        if kind == "gossip.greet":
            return "gossip.compare", held.gossip.compare(sender, Greet.of(body)).document()
        if kind == "gossip.seek":
            return "gossip.give", held.gossip.tell(sender, Seek.of(body)).document()
        if kind != "gossip.give":
            raise InvalidRequest(f"Messages of the kind {kind} are not understood here.")
        before = dict(held.gossip.records)
        given = held.gossip.receive(sender, Give.of(body), self._circle.now())
        changed = await self.store(held)
        if self._hear_of(held, before) or changed:
            self.wake()
        return ("gossip.give", given.document()) if given is not None else None

    def _hear_found(self, held: Held) -> None:
        self._hear_sought(held)
        self.wake()

    def _hear_sought(self, held: Held) -> None:
        self._tell_refusals(held)
        self._circle.note_places(held)

    async def store(self, held: Held) -> bool:
        """Store what gossip brought, and tell what it refused; say whether anything but records changed."""
        self._tell_refusals(held)
        held.drop_stale()
        self._circle.learn_guests(held)
        saved = await self._circle.save(held)
        if saved:
            self._changed()  # a round may take long, and who was put out has no more time
        return saved

    def _tell_refusals(self, held: Held) -> None:
        refusals, held.gossip.refusals = held.gossip.refusals, []
        for refusal in refusals:
            self._links.refused(refusal, str(refusal.details.get("who") or ""))
            if isinstance(refusal, Forked) and "number" in refusal.details:
                held.forked = refusal.message

    def is_joining(self, held: Held) -> bool:
        """Say whether we were invited to a community and are on no list of it yet."""
        me = self._circle.me
        if not held.hosts or held.membership.is_listed(me):
            return False
        former = {one.institution for one in held.membership.current.revoked}
        return me not in former and not any(me in one.by_institution() for one in held.membership.lists)

    async def _talk(self, held: Held, who: str) -> bool:
        before = dict(held.gossip.records)
        changed = False
        try:
            kind, body = await self._caller.ask(
                who, "gossip.greet", held.gossip.greet(who).document(), timeout=ANSWER
            )
            if kind != "gossip.compare":
                raise Malformed(f"a greeting was answered by {kind}", details={"who": who})
            give = held.gossip.answer(who, Compare.of(body), self._circle.now())
            changed = await self.store(held)
            if give is not None:
                kind, body = await self._caller.ask(who, "gossip.give", give.document(), timeout=ANSWER)
                if kind == "gossip.give":
                    held.gossip.receive(who, Give.of(body), self._circle.now())
                    changed |= await self.store(held)
        except MessageRefused as refusal:
            if not self.is_joining(held):  # until we are listed, we are told that we are not
                self._links.refused(refusal, who, "its side of gossip")
        except GridcloudError as error:
            log.debug("gossip with %s: %s", who, error)
        except Exception:  # a fault of ours with one member must not keep the others from hearing of us
            log.exception("gossip with %s failed", who)
        return self._hear_of(held, before) or changed

    def _hear_of(self, held: Held, before: dict[str, Record]) -> bool:
        """Say whether any record says other things than before; who made one is there again, and is tried at once."""
        heard = [
            (before.get(who), one) for who, one in held.gossip.records.items() if before.get(who) is not one
        ]
        for _, record in heard:
            self._links.reachable(record.institution)
        if heard:
            self._circle.note_places(held)
        return any(old is None or old.profile != new.profile for old, new in heard)

    def _unplaced(self, held: Held) -> set[str]:
        """Return of whom nothing says where they are yet: a round with such members alone would bring no news."""
        placed = {*held.gossip.records, *held.places, *held.hosts}
        return set(held.membership.members(self._circle.now())) - placed

    def _lacks_ours(self, held: Held) -> bool:
        """Say whether our record has to be made; who is about to join brings it along."""
        listed = held.membership.is_listed(self._circle.me) or self.is_joining(held)
        return self._circle.me not in held.gossip.records and listed

    def _is_due(self, key: str, expires: int) -> bool:
        now = self._circle.now()
        if expires - now < LIFETIME / 2 // timedelta(milliseconds=1):
            return True
        try:
            check_service_key(self._circle.our_keys(), key, now)
        except MessageRefused:
            return True
        return False

    async def _wait(self, seconds: float) -> None:
        """Return after a while, or when there is news, but a little later: one round for all of it."""
        news = asyncio.create_task(self._news.wait(), name="grid: news")
        sleeping = asyncio.create_task(self._clock.sleep(seconds), name="grid: pause")
        try:
            await asyncio.wait([news, sleeping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (news, sleeping):
                task.cancel()
            await asyncio.gather(news, sleeping, return_exceptions=True)
        if self._news.is_set():
            await self._clock.sleep(GATHER)
