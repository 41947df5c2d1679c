"""What is stored of us and of our communities, and what follows: whom we believe, and where they are reached."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from gridcloud.clock import Clock
from gridcloud.errors import Conflict, InvalidRequest, NotFound
from gridcloud.federation.communities import Member, MemberList, read_list
from gridcloud.federation.encoding import Json, digest, milliseconds
from gridcloud.federation.envelopes import Signers
from gridcloud.federation.gossip import Gossip
from gridcloud.federation.invitations import InvitationBook
from gridcloud.federation.keys import KeyList, newer_key_list, unsigned
from gridcloud.federation.membership import Membership, signer, signers
from gridcloud.federation.records import Profile, Record
from gridcloud.grid.seal import good_keys
from gridcloud.store import Store
from gridcloud.store.model import Record as Stored

__all__ = ["Circle", "Held"]

SELF, COMMUNITY, HEARD, BOOK = "grid.self", "grid.community", "grid.heard", "grid.invitations"
LIST = "grid.list"
"""Kinds of what is stored. `HEARD` holds members' records, which come again by gossip; it is written now and then.
`LIST` is one list of members, each by itself: a community has many, and only the newest is new."""
OWNER = "grid"
ONLY = "self"

Result = TypeVar("Result")


Whereabouts: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""The addresses of a member, and the members that relay for it."""


@dataclass(eq=False, slots=True)
class Held:
    """One community as it is held here. Change it, then `Circle.save` it before anybody is told."""

    gossip: Gossip
    proposals: dict[str, MemberList] = field(default_factory=dict)
    """Lists that wait for signatures, by digest."""
    hosts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Where who invited us is reached, by its invitation."""
    guests: dict[str, Member] = field(default_factory=dict)
    """Who used an invitation of ours and is on no list yet."""
    noted: dict[str, Record] = field(default_factory=dict)
    """Of which records `places` knows."""
    places: dict[str, Whereabouts] = field(default_factory=dict)
    """Where members were by their newest records, which are over sooner than everybody has moved."""
    forked: str = ""
    stored: Stored | None = None
    saved: object = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it is stored."""
    agreeing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while drafts and signatures change, one after the other."""

    @property
    def membership(self) -> Membership:
        """Its lists."""
        return self.gossip.membership

    @property
    def community(self) -> str:
        """Its id."""
        return self.gossip.membership.community

    def has_left(self, institution: str) -> bool:
        """Say whether an institution said that it leaves, and has not been listed again since."""
        leaves = (one.institution for one in self.membership.leaves)
        return institution in leaves and not self.membership.is_listed(institution)

    def has_put_out(self, institution: str) -> bool:
        """Say whether the newest list has revoked an institution."""
        return any(one.institution == institution for one in self.membership.current.revoked)

    def drop_stale(self) -> None:
        """Forget proposals that do not follow on the newest list any more, and guests who are on it."""
        self.guests = {who: guest for who, guest in self.guests.items() if not self.membership.is_listed(who)}
        current = self.membership.digest
        self.proposals = {
            digest: draft for digest, draft in self.proposals.items() if draft.previous == current
        }

    def state(self) -> Json:
        """Return it as it is stored; lists and records of members are stored by themselves."""
        return {
            "membership": self.membership.state(lists=False),
            "keys": [keys.document() for keys in self.gossip.keys.values()],
            "proposals": [draft.document() for draft in self.proposals.values()],
            "hosts": {who: list(addresses) for who, addresses in self.hosts.items()},
            "guests": [guest.document() for guest in self.guests.values()],
            "forked": self.forked,
        }

    def mark(self) -> object:
        """Return what differs when `state` does, quickly."""
        return (
            self.membership.digest,
            tuple(one.institution for one in self.membership.leaves),
            tuple(self.membership.signed.items()) if self.proposals else (),
            tuple(sorted((who, keys.serial) for who, keys in self.gossip.keys.items())),
            tuple(sorted((digest, len(draft.signatures)) for digest, draft in self.proposals.items())),
            tuple(sorted(self.hosts.items())),
            tuple(sorted(self.guests)),
            self.forked,
        )


class Circle:
    """We and our communities, in the store. `load` it first."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._self: Stored | None = None
        self._book_stored: Stored | None = None
        self._book_lock = asyncio.Lock()
        self._listeners: list[Callable[[str], Awaitable[None]]] = []
        self._heard: dict[str, Stored] = {}
        self._lists: dict[str, dict[int, tuple[MemberList, Stored]]] = {}
        self._heard_lock = asyncio.Lock()
        self._profiles: dict[str, tuple[Record, Profile]] = {}
        self.keys: KeyList | None = None
        """Our key list in force; None before `begin`."""
        self.name = ""
        self.held: dict[str, Held] = {}
        self.book = InvitationBook()

    async def load(self) -> None:
        """Read everything; what ended meanwhile is forgotten."""
        for one in await self._store.find(SELF):
            self._self, self.keys, self.name = one, KeyList.of(one.body["keys"]), one.body["name"]
        for one in await self._store.find(BOOK):
            self._book_stored, self.book = one, InvitationBook.of(one.body)
        self._heard = {one.id: one for one in await self._store.find(HEARD)}
        lists = await self._load_lists()
        for one in await self._store.find(COMMUNITY):
            records = self._heard[one.id].body["records"] if one.id in self._heard else []
            body = one.body
            membership = body["membership"] | {"lists": lists.get(one.id, [])}
            held = Held(
                Gossip.of(
                    self.me,
                    {"membership": membership, "keys": body["keys"], "records": records},
                ),
                {draft.digest(): draft for draft in map(read_list, body["proposals"])},
                {who: tuple(addresses) for who, addresses in body["hosts"].items()},
                {guest.institution: guest for guest in map(Member.of, body["guests"])},
                forked=body["forked"],
                stored=one,
            )
            if one.id in self._heard:
                held.places = _places(self._heard[one.id].body["places"])
            held.saved = held.mark()
            self.held[one.id] = held
            rows = self._lists[one.id]
            for found in held.membership.lists:
                rows[found.number] = (found, rows[found.number][1])
            await self._drop_other_lists(held)
        for community in set(self._lists) - set(self.held):  # we were killed while it came, or went
            await self._drop_lists(community)
        await self.forget_ended()

    # Ourselves -------------------------------------------------------------------------------------------------

    @property
    def me(self) -> str:
        """Our id. Raises InvalidRequest before `begin`."""
        return self.our_keys().institution

    def our_keys(self) -> KeyList:
        """Return our key list. Raises InvalidRequest before `begin`."""
        if self.keys is None:
            raise InvalidRequest(
                "This gridcloud does not take part in the grid.", remedy="gridcloud grid init NAME"
            )
        return self.keys

    async def begin(self, name: str, keys: KeyList) -> None:
        """Store who we are. Raises Conflict when that was done before."""
        await _surely(self._begin(name, keys))

    async def set_keys(self, keys: KeyList) -> None:
        """Store a new key list of ours, in all communities too."""
        await _surely(self._set_keys(keys))

    async def _begin(self, name: str, keys: KeyList) -> None:
        self._self = await self._store.insert(SELF, ONLY, OWNER, "here", _ourselves(name, keys))
        self.name, self.keys = name, keys

    async def _set_keys(self, keys: KeyList) -> None:
        if self._self is None:
            raise InvalidRequest("There are no keys to follow on.")
        self._self = await self._store.update(self._self, body=_ourselves(self.name, keys))
        self.keys = keys
        for held in list(self.held.values()):
            held.gossip.learn(keys)
            await self.save(held)

    # Communities -----------------------------------------------------------------------------------------------

    async def add(self, held: Held) -> None:
        """Store a new community. Raises Conflict when it is here."""
        await _surely(self._add(held))

    async def forget(self, community: str) -> None:
        """Keep nothing of a community."""
        await _surely(self._forget(community))

    async def _add(self, held: Held) -> None:
        if held.community in self.held:
            raise Conflict(f"{held.membership.current.name} is a community of ours already.")
        held.gossip.learn(self.our_keys())
        await self._save_lists(held)
        held.stored = await self._store.insert(COMMUNITY, held.community, OWNER, "here", held.state())
        held.saved = held.mark()
        self.held[held.community] = held

    async def save(self, held: Held) -> bool:
        """Store what changed in a community, before anybody is told; say whether anything had."""
        return await _surely(self._save(held))

    async def save_book(self) -> None:
        """Store the invitations."""
        await _surely(self._save_book())

    async def save_heard(self) -> None:
        """Store the records of members, where there are other ones than before."""
        await _surely(self._save_heard())

    async def _save(self, held: Held) -> bool:
        async with held.lock:
            if held.mark() == held.saved or self.held.get(held.community) is not held or held.stored is None:
                return False
            mark, state = held.mark(), held.state()
            await self._save_lists(held)
            held.stored = await self._store.update(held.stored, body=state)
            held.saved = mark
            return True

    async def _load_lists(self) -> dict[str, list[Json]]:
        """Return the lists of each community as they follow on each other, oldest first."""
        rows = sorted(await self._store.find(LIST), key=lambda row: int(row.body["number"]))
        found: dict[str, list[Json]] = {}
        for row in rows:
            one = read_list(row.body)
            self._lists.setdefault(one.community, {})[one.number] = (one, row)
            chain = found.setdefault(one.community, [])
            # We were killed while going over to another branch: what is left of the old one does not follow on it.
            if not chain or (one.number, one.previous) == (chain[-1]["number"] + 1, _digest(chain[-1])):
                chain.append(row.body)
        return found

    async def _save_lists(self, held: Held) -> None:
        rows = self._lists.setdefault(held.community, {})
        lists = {one.number: one for one in held.membership.lists}
        for number, one in sorted(lists.items()):
            known = rows.get(number)
            if known is None:
                name = f"{held.community}-{number}"
                row = await self._store.insert(LIST, name, OWNER, "here", one.document())
            elif known[0] is not one:
                row = await self._store.update(known[1], body=one.document())
            else:
                continue
            rows[number] = (one, row)
        await self._drop_other_lists(held)

    async def _drop_other_lists(self, held: Held) -> None:
        rows = self._lists[held.community]
        for number in set(rows) - {one.number for one in held.membership.lists}:
            await self._store.delete(rows.pop(number)[1])

    async def _drop_lists(self, community: str) -> None:
        for _, row in self._lists.pop(community, {}).values():
            await self._store.delete(row)

    async def _save_book(self) -> None:
        async with self._book_lock:
            state = self.book.state()
            if self._book_stored is None:
                self._book_stored = await self._store.insert(BOOK, ONLY, OWNER, "here", state)
            else:
                self._book_stored = await self._store.update(self._book_stored, body=state)

    async def _save_heard(self) -> None:
        async with self._heard_lock:
            await self._write_heard()

    async def _write_heard(self) -> None:
        for name, held in list(self.held.items()):
            body = {
                "records": [record.document() for record in held.gossip.records.values()],
                "places": {who: [list(one) for one in place] for who, place in held.places.items()},
            }
            stored = self._heard.get(name)
            if stored is None:
                self._heard[name] = await self._store.insert(HEARD, name, OWNER, "here", body)
            elif stored.body != body:
                self._heard[name] = await self._store.update(stored, body=body)

    def get(self, name: str) -> Held:
        """Return a community by its id or name. Raises NotFound, InvalidRequest when several have the name."""
        found = [one for one in self.held.values() if name in (one.community, one.membership.current.name)]
        if not found:
            raise NotFound(f"There is no community {name!r:.80} of ours.", remedy="gridcloud grid members")
        if len(found) > 1:
            raise InvalidRequest(f"{len(found)} communities are called {name!r:.80}.", remedy="Give its id.")
        return found[0]

    async def _forget(self, community: str) -> None:
        held = self.held.pop(community, None)
        if held is not None and held.stored is not None:
            async with held.lock:
                await self._store.delete(held.stored)
                await self._drop_lists(community)
        async with self._heard_lock:
            heard = self._heard.pop(community, None)
            if heard is not None:
                await self._store.delete(heard)
        state = self.book.state()
        mine = [one for one in state["written"] if one["community"] == community]
        if mine:
            ids, guests = {one["id"] for one in mine}, {one["guest"] for one in mine}
            guests -= {one["guest"] for one in state["written"] if one["community"] != community}
            self.book = InvitationBook.of(
                {
                    "written": [one for one in state["written"] if one["id"] not in ids],
                    "spent": {one: why for one, why in state["spent"].items() if one not in ids},
                    "guests": {who: keys for who, keys in state["guests"].items() if who not in guests},
                }
            )
            await self.save_book()
        for told in self._listeners:
            await told(community)

    async def forget_ended(self) -> list[str]:
        """Keep nothing of communities whose date has come; return their names."""
        now = self.now()
        over = [one for one in self.held.values() if one.membership.has_ended(now)]
        for held in over:
            await self.forget(held.community)
        return [held.membership.current.name for held in over]

    def when_forgotten(self, told: Callable[[str], Awaitable[None]]) -> None:
        """Have `told` called with the id of each community that is forgotten."""
        self._listeners.append(told)

    # What follows ----------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the time in milliseconds, as documents hold it."""
        return milliseconds(self._clock.now())

    def memberships(self) -> list[Membership]:
        """Return the lists of members of our communities; of one that put us out, nobody is believed any more."""
        return [held.membership for held in self.inside()]

    def inside(self) -> list[Held]:
        """Return the communities that we are in or about to come into."""
        return [held for held in self.held.values() if not held.has_put_out(self.me)]

    def known_keys(self) -> dict[str, KeyList]:
        """Return the newest key list of each institution, from whichever community it came."""
        found: dict[str, KeyList] = {}
        for held in self.held.values():
            for who, keys in held.gossip.keys.items():
                if who not in found or found[who].serial < keys.serial:
                    found[who] = keys
        return found

    def signers(self) -> Signers:
        """Return whose messages and documents are believed now."""
        return signers(self.memberships(), self.known_keys(), self.now())

    def signer(self, who: str) -> Signers:
        """Return what `signers` says of one institution: what a message needs, however many members there are."""
        return signer(self.memberships(), self.keys_of(who), who, self.now())

    def keys_of(self, who: str) -> KeyList | None:
        """Return the newest key list of an institution; None when none is known."""
        found = [held.gossip.keys[who] for held in self.held.values() if who in held.gossip.keys]
        return max(found, key=lambda one: one.serial, default=None)

    def trusted_keys(self) -> dict[str, str]:
        """Return whose each good service key of a member is now."""
        now = self.now()
        believed = self.signers().keys
        return {key: who for who, keys in believed.items() if who != self.me for key in good_keys(keys, now)}

    def records(self) -> dict[str, Record]:
        """Return the newest record of each member now that is in force."""
        now = self.now()
        found: dict[str, Record] = {}
        for held in self.held.values():
            members = held.membership.members(now)
            for who, record in held.gossip.known().items():
                newer = who not in found or found[who].serial < record.serial
                if newer and who in members and record.expires > now:
                    found[who] = record
        return found

    def profiles(self) -> dict[str, Profile]:
        """Return what those of others say; each is read once, and is the same object until a newer one comes."""
        known = self._profiles
        self._profiles = {
            who: (
                record,
                known[who][1] if who in known and known[who][0] is record else record.read_profile(),
            )
            for who, record in self.records().items()
            if who != self.me
        }
        return {who: profile for who, (_, profile) in self._profiles.items()}

    def profile(self, institution: str) -> Profile | None:
        """Return what the newest record of a member says; None when there is none."""
        now = self.now()
        found = [
            held.gossip.known()[institution]
            for held in self.held.values()
            if institution in held.gossip.known() and held.membership.is_member(institution, now)
        ]
        newest = max(found, key=lambda one: one.serial, default=None)
        return newest.read_profile() if newest is not None and newest.expires > now else None

    def addresses(self, institution: str) -> tuple[str, ...]:
        """Return where a member is reached directly: by its newest record, and its invitation where it gave us one."""
        addresses, _ = self._whereabouts(institution)
        hosts = [one for held in self.held.values() for one in held.hosts.get(institution, ())]
        return tuple(dict.fromkeys([*addresses, *hosts]))

    def relays(self, institution: str) -> tuple[str, ...]:
        """Return the members through whom a member is reached."""
        return self._whereabouts(institution)[1]

    def note_places(self, held: Held) -> None:
        """Remember where members are, by the records that were heard."""
        for who, record in held.gossip.known().items():
            if held.noted.get(who) is not record:
                profile = record.read_profile()
                held.places[who] = (profile.addresses, profile.relays)
        held.noted = dict(held.gossip.known())

    def _whereabouts(self, institution: str) -> Whereabouts:
        profile = self.profile(institution)
        if profile is not None:
            return profile.addresses, profile.relays
        known = [held.places[institution] for held in self.held.values() if institution in held.places]
        return known[0] if known else ((), ())

    def members(self) -> dict[str, str]:
        """Return who else is a member of any community of ours now, with its name, by id."""
        now = self.now()
        found: dict[str, str] = {}
        for membership in self.memberships():
            found |= {who: one.name for who, one in membership.members(now).items()}
        found.pop(self.me if self.keys else "", None)
        return found

    def shares(self, one: str, other: str) -> bool:
        """Say whether two institutions are in one community of ours now."""
        now = self.now()
        return any({one, other} <= set(membership.members(now)) for membership in self.memberships())

    def learn_guests(self, held: Held) -> None:
        """Take the keys of guests of ours whom a list took in meanwhile."""
        for who, keys in self.book.guests().items():
            if held.membership.is_listed(who) and who not in held.gossip.keys:
                held.gossip.learn(keys)

    def learn_keys(self, found: Iterable[KeyList]) -> None:
        """Take true key lists of members into every community that they are in."""
        for keys in found:
            for held in self.held.values():
                if held.membership.is_listed(keys.institution):
                    held.gossip.keys[keys.institution] = newer_key_list(
                        held.gossip.keys.get(keys.institution), keys
                    )


async def _surely(work: Coroutine[Any, Any, Result]) -> Result:
    """Do it to its end, also when whoever asked is cancelled: else the store would know a later version than we do."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise


def _places(body: dict[str, list[list[str]]]) -> dict[str, Whereabouts]:
    return {who: (tuple(addresses), tuple(relays)) for who, (addresses, relays) in body.items()}


def _digest(document: Json) -> str:
    return digest(unsigned(document))


def _ourselves(name: str, keys: KeyList) -> Json:
    return {"name": name, "keys": keys.document()}
