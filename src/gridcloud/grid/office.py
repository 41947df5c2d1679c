"""What one institution does in the grid: its keys, its communities, its invitations; stored before anybody is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self, TypeAlias

from gridcloud.clock import Clock
from gridcloud.errors import Conflict, GridcloudError, InvalidRequest, NotFound, Revoked
from gridcloud.federation import communities as lists
from gridcloud.federation.encoding import Json, milliseconds
from gridcloud.federation.envelopes import SKEW, Signers
from gridcloud.federation.gossip import Gossip
from gridcloud.federation.keys import KeyList, PrivateKey, heard
from gridcloud.federation.membership import Membership, communities_of
from gridcloud.federation.records import Profile, Room
from gridcloud.grid.assenting import Assent
from gridcloud.grid.calling import Caller
from gridcloud.grid.circle import Circle, Held
from gridcloud.grid.destinations import Destinations
from gridcloud.grid.doorway import Doorway
from gridcloud.grid.gossiping import Gossiping
from gridcloud.grid.joining import Joining
from gridcloud.grid.keyring import Keyring
from gridcloud.grid.links import LinkBook
from gridcloud.grid.mail import Mail
from gridcloud.grid.model import Community, GivenInvitation, Member, Proposal, Standing, Status
from gridcloud.grid.relaying import Attendance, Relay
from gridcloud.grid.replays import Journal
from gridcloud.grid.rotation import Rotation
from gridcloud.grid.seal import Seal, is_due
from gridcloud.grid.showing import show_community, show_invitations, show_member, show_proposal, show_standing
from gridcloud.identity import Secret
from gridcloud.settings.grid import GridSettings
from gridcloud.store import Store

__all__ = ["Capacities", "Office"]

log = logging.getLogger(__name__)

Capacities: TypeAlias = Callable[[], Awaitable[Sequence[Room]]]
"""Returns what there is and what is free, for our record; called about once a minute."""

TOLD_SKEW = SKEW.total_seconds() / 2
"""Seconds between two clocks from which on a person is told, before messages are refused."""
SILENCE = 300.0
"""Seconds after which a person is told that nobody has come to us: each member talks to some every half minute."""


class Office:
    """Our institution in the grid. Make it with `Office.open`; until `init`, it opens no port and calls nobody.

    `root` of the verbs is the root key in PEM where it is kept offline (`take_root_out`); without it they raise
    Forbidden then, saying so. All raise InvalidRequest before `init`. A community is named by its id or, where that is
    clear, its name; an institution by its id, its fingerprint in digits or, where that is clear, its name.
    """

    def __init__(
        self,
        settings: Callable[[], GridSettings],
        data: Path,
        store: Store,
        clock: Clock,
        capacities: Capacities | None = None,
    ) -> None:
        """`data`: a folder of our own, for keys; `load` it before anything else."""
        self._settings = settings
        self._data = data
        self._clock = clock
        self._capacities = capacities
        self._keyring = Keyring(data)
        self._circle = Circle(store, clock)
        self._links = LinkBook(clock)
        self._seal = Seal(self._keyring, data, self._circle.our_keys, clock)
        self._rotation = Rotation(self._keyring, self._circle)
        self._joining: Joining | None = None
        self._journal: Journal | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._spreading: set[asyncio.Task[None]] = set()
        self._started = False
        self._since = clock.monotonic()
        self.caller = Caller(self._links, clock, Destinations(settings))
        """Asks other members."""
        self.doorway = Doorway(self._links, clock)
        """Give it handlers before `start`."""
        self._assent = Assent(self._circle, self.caller, self._links, self._listed)
        self._gossiping = Gossiping(
            self._circle,
            self.caller,
            self._seal,
            self._links,
            clock,
            self._profile,
            self._look,
            self._after_round,
            self.doorway.cut_strangers,
            lambda: settings().discovery,
        )
        self._relay = Relay(self._circle, self.doorway, lambda: settings().relays_others)
        self._attendance = Attendance(
            self._circle, self.caller, self.doorway, clock, settings, self._gossiping.tell_anew
        )
        self.doorway.handle("gossip", self._gossiping.answer)
        self.doorway.handle("community", self._assent.answer)

    @classmethod
    async def open(
        cls,
        settings: Callable[[], GridSettings],
        data: Path,
        store: Store,
        clock: Clock,
        *,
        capacities: Capacities | None = None,
    ) -> Self:
        """Return an office that took up what is stored; nothing is sent or listened to before `start`."""
        office = cls(settings, data, store, clock, capacities)
        await office.load()
        return office

    async def load(self) -> None:
        """Take up what is stored; communities that ended meanwhile are forgotten."""
        await self._circle.load()

    async def start(self) -> None:
        """Listen, gossip and attend relays, as the settings say, if we are initialised; `init` does it otherwise.

        Raises PortTaken, InvalidSettings.
        """
        self._started = True
        if not self.initialised or self._journal is not None:
            return
        known = bool(self._circle.held)
        self._journal = await asyncio.to_thread(Journal, self._data / "nonces", self._clock, known=known)
        mail = Mail(self._circle, self._journal, self._links, self._clock)
        self._joining = Joining(self._circle, mail, self._seal, self.caller, self._clock, self._arrived)
        self.doorway.handle_guests(self._joining.take_guest)
        self.caller.open(self._seal, mail, self._relay.open_own)
        await self.doorway.open(self._seal, mail)
        place = self._settings().listen
        if place:
            host, _, port = place.rpartition(":")
            await self.doorway.listen(host.strip("[]"), int(port))
            log.info("the grid: listening on %s:%d", host, self.doorway.port)
        self._tasks = [asyncio.create_task(self._gossiping.run(), name="grid: gossip")]

    async def close(self) -> None:
        """Close the door, end the loops, store what is only remembered. May be called twice."""
        tasks, self._tasks = [*self._tasks, *self._spreading], []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._assent.close()
        await self._attendance.close()
        await self._relay.close()
        await self.doorway.close()
        await self.caller.close()
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()
            await self._circle.save_heard()

    # Who we are ------------------------------------------------------------------------------------------------

    @property
    def initialised(self) -> bool:
        """Whether `init` was done."""
        return self._circle.keys is not None

    @property
    def me(self) -> str:
        """Our institution's id. Raises InvalidRequest before `init`."""
        return self._circle.me

    @property
    def name(self) -> str:
        """What we are called. Raises InvalidRequest before `init`."""
        self._circle.our_keys()
        return self._circle.name

    def service_key(self) -> PrivateKey:
        """Return the key that signs now, for claims and statements."""
        return self._seal.key_in_use()

    async def init(self, name: str) -> Standing:
        """Make our keys and begin to take part. Raises Conflict when that was done before under another name."""
        if self.initialised:
            if name != self._circle.name:
                raise Conflict(f"This gridcloud takes part already, as {self._circle.name}.")
            return self.standing()
        now = self._circle.now()
        root = await asyncio.to_thread(self._keyring.make_root)
        lists.Member.of({"root": root.public, "name": name, "joined": now})  # whether the name can be one
        await self._circle.begin(name, await self._rotation.begin(root))
        if self._started:
            await self.start()
        return self.standing()

    def standing(self) -> Standing:
        """Return who we are to others."""
        return show_standing(
            self.name,
            self._circle.our_keys(),
            self._seal.key_in_use().public,
            root_here=self._keyring.has_root,
        )

    async def take_root_out(self) -> Secret:
        """Return the root key in PEM, to be kept elsewhere: then `drop_root`. Raises Conflict when it is not here."""
        self._circle.our_keys()
        return await asyncio.to_thread(self._keyring.take_root_out)

    async def drop_root(self, root: Secret) -> Standing:
        """Keep the root key no more, once it is shown that it is kept elsewhere: verbs that sign with it need it then.

        May be called twice. Raises Untrusted for another one.
        """
        await self._root(root)
        await asyncio.to_thread(self._keyring.drop_root)
        return self.standing()

    async def rotate(self, *, root: Secret | None = None) -> Standing:
        """Make a new service key, on our list from now on and in use once the others had days to hear of it. Done by
        itself where the root key is here."""
        await self._rotation.rotate(await self._root(root))
        self._gossiping.tell_anew()
        return self.standing()

    async def revoke_key(self, key: str, *, root: Secret | None = None) -> Standing:
        """Have a service key of ours believed no longer, at once; a new one is made where no other is good."""
        await self._rotation.revoke(await self._root(root), key)
        self._gossiping.tell_anew()
        return self.standing()

    # Communities -----------------------------------------------------------------------------------------------

    async def found(
        self, name: str, *, ends: datetime | None = None, root: Secret | None = None
    ) -> Community:
        """Begin a community with ourselves as the only member."""
        signing = await self._root(root)
        now = self._circle.now()
        ourselves = lists.Member(root=signing.public, name=self._circle.name, joined=now)
        draft = lists.draft_first(name, [ourselves], 1, now, self._ending(ends))
        held = Held(Gossip(self.me, Membership(lists.sign_list(draft, signing))))
        await self._circle.add(held)
        return self._show(held)

    async def invite(
        self, community: str, guest: str, *, lifetime: timedelta = timedelta(days=7)
    ) -> tuple[GivenInvitation, Json]:
        """Invite the institution whose fingerprint was heard; return the invitation, and the document to give it.

        Raises InvalidRequest, also where we have no address that the guest could come to.
        """
        held = self._circle.get(community)
        written, document = await self._joined().invite(held, _heard(guest), self._addresses(), lifetime)
        return next(one for one in show_invitations(self._circle.book) if one.id == written.id), document

    async def withdraw(self, invitation: str) -> None:
        """Make an invitation worthless. Raises NotFound."""
        await self._joined().withdraw(invitation)

    async def join(self, invitation: Json, inviter: str) -> Community:
        """Answer an invitation of the institution whose fingerprint was heard, `inviter`; may be done again.

        We are a member once enough members signed: `Community.joining` until then. Raises what `read_invitation` and
        `Caller.ask` raise.
        """
        held = await self._joined().join(invitation, _heard(inviter))
        self._since = self._clock.monotonic()
        self._wake()
        return self._show(held)

    def communities(self) -> tuple[Community, ...]:
        """Return our communities, with their members and what waits to be signed."""
        return tuple(self._show(held) for held in self._circle.held.values())

    def community(self, name: str) -> Community:
        """Return one, by its id or name. Raises NotFound."""
        return self._show(self._circle.get(name))

    def members(self) -> Mapping[str, Member]:
        """Return who is a member of any community of ours now, by id; not ourselves."""
        now = self._circle.now()
        return {
            who: show_member(self._circle, held, who)
            for held in self._circle.inside()
            for who in held.membership.members(now)
            if who != self.me
        }

    def communities_of(self, institution: str) -> frozenset[str]:
        """Return the ids of our communities that an institution is a member of now."""
        return communities_of(self._circle.memberships(), institution, self._circle.now())

    def profiles(self) -> Mapping[str, Profile]:
        """Return what other members' newest records say, by id."""
        return self._circle.profiles()

    def keys_of(self, institution: str) -> KeyList | None:
        """Return the newest key list of an institution, our own too; None when none is known."""
        if self.initialised and institution == self.me:
            return self._circle.our_keys()
        return self._circle.known_keys().get(institution)

    def signers(self) -> Signers:
        """Return whose messages and documents are believed now."""
        return self._circle.signers()

    def find(self, institution: str) -> str:
        """Return the id of a member of ours by its id, its digits or its name. Raises NotFound, InvalidRequest."""
        members = self._circle.members()
        if institution in members:
            return institution
        digits = any(one.isdigit() for one in institution) and not institution.strip("0123456789 -")
        with contextlib.suppress(InvalidRequest):  # before the names: one may be another's digits
            if digits and heard(institution) in members:
                return heard(institution)
        named = [who for who, name in members.items() if name == institution]
        if len(named) > 1:
            raise InvalidRequest(
                f"{len(named)} members are called {institution!r:.80}.", remedy="Give its id."
            )
        if named:
            return named[0]
        if digits:
            heard(institution)  # says what is wrong with them
        raise NotFound(f"There is no member {institution!r:.80}.", remedy="gridcloud grid members")

    async def change(
        self,
        community: str,
        *,
        threshold: int | None = None,
        ends: datetime | None = None,
        root: Secret | None = None,
    ) -> Proposal | None:
        """Change how many sign, or when the community ends; returns what waits for others, None when it is in force."""
        held = self._circle.get(community)
        draft = lists.draft_next(
            held.membership.current,
            self._circle.now(),
            threshold=threshold,
            ends=self._ending(ends) if ends is not None else None,
        )
        return await self._propose(held, draft, root)

    async def revoke(
        self, community: str, institution: str, why: str, *, root: Secret | None = None
    ) -> Proposal | None:
        """Put a member out for good; returns what waits for others' signatures, None when it is in force."""
        held = self._circle.get(community)
        who = self.find(institution)
        if who == self.me:
            raise InvalidRequest("We cannot put ourselves out.", remedy="gridcloud grid leave")
        draft = lists.draft_next(held.membership.current, self._circle.now(), revoke={who: why})
        return await self._propose(held, draft, root)

    async def sign(self, community: str, *, digest: str = "", root: Secret | None = None) -> Proposal | None:
        """Sign what waits in a community; returns it while others have yet to sign, None once it is in force.

        `digest`: of the list that was looked at; no other is signed. Raises NotFound when nothing waits, Conflict when
        it is another, or when another list of its number was signed here.
        """
        held = self._circle.get(community)
        held.drop_stale()
        waiting = [
            draft
            for draft in held.proposals.values()
            if self._circle.our_keys().root not in {one.root for one in draft.signatures}
        ]
        if not waiting:
            raise NotFound(f"Nothing waits for our signature in {held.membership.current.name}.")
        waiting = [draft for draft in waiting if digest in ("", draft.digest())]
        if not waiting:
            raise Conflict(
                f"What waits in {held.membership.current.name} is not what was looked at.",
                remedy="Look again, then sign.",
            )
        signing = await self._root(root)
        return self._waiting(held, await self._assent.sign(held, waiting[0], signing))

    def branch(self, community: str) -> list[Json]:
        """Return the lists of members that are remembered, oldest first: for a member of the other branch of a fork."""
        return [one.document() for one in self._circle.get(community).membership.lists]

    async def adopt(self, community: str, branch: Sequence[Json]) -> Community:
        """End a fork here, as a person decided: go over to the lists of a member of the other branch, or, by our own
        lists, stay. Raises Malformed, UnknownSigner and the like for lists that do not follow on one that is shared.
        """
        held = self._circle.get(community)
        await self._assent.adopt(held, [lists.read_list(one) for one in branch])
        self._wake()
        return self._show(held)

    async def leave(self, community: str, *, root: Secret | None = None) -> bool:
        """Leave a community and forget it; False while no other member heard of it yet, which is tried on."""
        held = self._circle.get(community)
        signing = await self._root(root)
        if not any(one.institution == self.me for one in held.membership.leaves):
            held.membership.offer_leave(lists.leave(held.community, signing, self._circle.now()))
            await self._circle.save(held)
        return await self._tell_leave(held)

    async def forget(self, community: str) -> None:
        """Forget a community at once, whoever heard of it: what a person does who was put out, or gives up waiting."""
        await self._circle.forget(self._circle.get(community).community)

    def when_forgotten(self, told: Callable[[str], Awaitable[None]]) -> None:
        """Have `told` called with the id of each community that ended or was left: nothing of it is to be kept."""
        self._circle.when_forgotten(told)

    def status(self) -> Status:
        """Return all of it at this moment."""
        settings = self._settings()
        links = self._links.links(self._circle.members()) if self.initialised else ()
        listening = settings.listen.rpartition(":")[0] + f":{self.doorway.port}" if self.doorway.port else ""
        return Status(
            standing=self.standing() if self.initialised else None,
            listening=listening,
            addresses=self._addresses(),
            relays=self._attendance.relays(),
            relays_others=settings.relays_others,
            communities=self.communities() if self.initialised else (),
            links=links,
            invitations=show_invitations(self._circle.book),
            refusals=self._links.refusals(),
            warnings=tuple(self._warnings()),
        )

    # What goes on by itself ------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """See to what time brings: ends, keys, guests and drafts that wait, leaves that nobody heard."""
        for name in await self._circle.forget_ended():
            log.info("the community %s has ended; nothing of it is kept", name)
        self._links.forget(set(self._circle.members()))
        await self._rotation.look()
        for held in list(self._circle.held.values()):
            if any(one.institution == self.me for one in held.membership.leaves):
                await self._tell_leave(held)
                continue
            await self._redraft(held)
            await self._assent.spread(held)

    async def _after_round(self) -> None:
        self._attendance.look()
        self.doorway.cut_strangers()
        await self._relay.cut_strangers()

    async def _arrived(self, held: Held) -> None:
        await self._redraft(held)
        self._spread(held)

    async def _redraft(self, held: Held) -> None:
        try:
            signing = await self._root(None) if self._keyring.has_root else None
            if signing is not None:
                await self._assent.finish(held, signing)
            await self._assent.redraft(held, signing)
        except GridcloudError as error:  # it is tried again when time has passed
            log.warning("guests of %s: %s", held.membership.current.name, error)

    async def _tell_leave(self, held: Held) -> bool:
        """Tell members that we left; forget the community once one of them knows, or nobody else is there."""
        left = [one for one in held.membership.leaves if one.institution == self.me]
        others = set(held.membership.members(self._circle.now())) - {self.me}
        item = {"kind": "leave", "content": left[0].document() if left else {}}
        body = {"community": held.community, "items": [item], "want_keys": [], "want_records": []}
        told = await asyncio.gather(
            *(self.caller.ask(who, "gossip.give", body, timeout=10) for who in sorted(others)[:64]),
            return_exceptions=True,
        )
        # Who says that we are no member any more has heard of it by others.
        if others and all(isinstance(one, BaseException) and not isinstance(one, Revoked) for one in told):
            return False
        await self._circle.forget(held.community)
        return True

    async def _profile(self) -> Profile:
        settings = self._settings()
        rooms: Sequence[Room] = ()
        if self._capacities is not None:
            try:
                rooms = await self._capacities()
            except GridcloudError as error:
                log.warning("what there is to lend is not known: %s", error)
        return Profile(
            name=self._circle.name,
            addresses=self._addresses(),
            relays=self._attendance.relays()[:8],
            relays_others=settings.relays_others,
            location=settings.location,
            rooms=tuple(rooms)[:8],
        )

    def _addresses(self) -> tuple[str, ...]:
        """Return where we are reached; port 0, which tests listen on, stands for the one that was found."""
        port = self.doorway.port
        return tuple(
            one.replace(":0", f":{port}") if one.endswith(":0") else one for one in self._settings().addresses
        )

    def _warnings(self) -> list[str]:
        if not self.initialised:
            return []
        found = []
        last = max((one.valid_until for one in self._circle.our_keys().keys), default=0)
        if is_due(self._circle.our_keys(), self._circle.now()):
            days = max(0, last - self._circle.now()) // 86_400_000
            found.append(
                f"Our service key ends in {days} days and the root key is not here: "
                "gridcloud grid key rotate --root FILE."
            )
        for link in self._links.links(self._circle.members()):
            if link.skew is not None and abs(link.skew) > TOLD_SKEW:
                way = "ahead of" if link.skew > 0 else "behind"
                found.append(
                    f"The clock of {link.name} is {abs(link.skew):.0f} s {way} ours: set both by NTP."
                )
        found += [
            f"{held.membership.current.name}: {held.forked}"
            for held in self._circle.held.values()
            if held.forked
        ]
        if self._settings().listen and not self._settings().addresses:
            found.append("We listen, and tell nobody where: set grid.addresses.")
        members = self._circle.members()
        found += [
            f"grid.relays: {who} is no member." for who in self._settings().relays if who not in members
        ]
        unvisited = not self.doorway.visited and self._clock.monotonic() - self._since > SILENCE
        if unvisited and self._addresses() and any(link.last_heard for link in self._links.links(members)):
            places = " ".join(self._addresses())
            found.append(f"Members answer us, and none has come to us yet: is {places} reached from outside?")
        if members and not (self._addresses() or self._attendance.relays()):
            found.append("Nobody can reach us: there is no address, and no relay is attended.")
        return found

    # Small steps -----------------------------------------------------------------------------------------------

    async def _propose(self, held: Held, draft: lists.MemberList, root: Secret | None) -> Proposal | None:
        signing = await self._root(root)
        return self._waiting(held, await self._assent.propose(held, draft, signing))

    def _waiting(self, held: Held, draft: lists.MemberList | None) -> Proposal | None:
        """Return what still waits, and show it to the others meanwhile."""
        if draft is None:
            self._wake()
            return None
        self._spread(held)
        return show_proposal(self._circle, held, draft)

    def _spread(self, held: Held) -> None:
        task = asyncio.create_task(self._assent.spread(held), name="grid: drafts")
        self._spreading.add(task)
        task.add_done_callback(self._spreading.discard)

    def _show(self, held: Held) -> Community:
        return show_community(self._circle, held, joining=self._gossiping.is_joining(held))

    def _joined(self) -> Joining:
        if self._joining is None:
            self._circle.our_keys()
            raise InvalidRequest("The grid is not running here.", remedy="gridcloud serve")
        return self._joining

    async def _root(self, given: Secret | None) -> PrivateKey:
        return await asyncio.to_thread(self._keyring.root, self.me, given)

    def _ending(self, ends: datetime | None) -> int:
        if ends is None:
            return 0
        if ends <= self._clock.now():
            raise InvalidRequest(f"{ends:%Y-%m-%d %H:%M} UTC is over.")
        return milliseconds(ends)

    def _listed(self) -> None:
        """A list came into force: who is on it no more has no more time."""
        self.doorway.cut_strangers()
        self._wake()

    def _wake(self) -> None:
        self._gossiping.wake()


def _heard(fingerprint: str) -> str:
    """Return the institution whose id or digits were typed. Raises InvalidRequest."""
    text = fingerprint.strip()
    is_id = len(text) == 32 and not text.strip("0123456789abcdefghjkmnpqrstvwxyz")
    return text if is_id else heard(text)
