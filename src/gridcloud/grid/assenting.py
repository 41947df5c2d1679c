"""How members come to agree on the next list: drafts that go round until enough of them signed."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence

from gridcloud.errors import (
    Conflict,
    Forged,
    GridcloudError,
    InvalidRequest,
    Malformed,
    MessageRefused,
    Misdirected,
    NotFound,
    Throttled,
    UnknownSigner,
)
from gridcloud.federation.communities import MemberList, draft_next, read_list, sign_list
from gridcloud.federation.encoding import Json
from gridcloud.federation.keys import KeyList, PrivateKey, unsigned, verify
from gridcloud.federation.rounds import choose_round, put_out, signers_of
from gridcloud.grid.calling import Caller
from gridcloud.grid.circle import Circle, Held
from gridcloud.grid.links import LinkBook

__all__ = ["PROPOSAL", "PROPOSE", "Assent"]

log = logging.getLogger(__name__)

PROPOSE, PROPOSAL = "community.propose", "community.proposal"
"""Both have the body `{list}`: a list with the signatures that the sender knows; the second answers the first."""
WAITING, WAITING_EACH = 16, 4
"""Drafts of one community that are kept at a time, and of those that the same members signed."""


class Assent:
    """Drafts, signatures, and what becomes of them. `changed` is called when a list came into force."""

    def __init__(self, circle: Circle, caller: Caller, links: LinkBook, changed: Callable[[], None]) -> None:
        self._circle = circle
        self._caller = caller
        self._links = links
        self._changed = changed
        self._telling: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End what is under way. May be called twice."""
        for task in list(self._telling):
            task.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)

    async def propose(self, held: Held, draft: MemberList, root: PrivateKey | None) -> MemberList | None:
        """Put a list forward, signed by us where the root key is given; None when it is in force already.

        Raises Conflict while another one waits that may still come into force: see `rounds`.
        """
        async with held.agreeing:
            return await self._propose(held, draft, root)

    async def sign(self, held: Held, draft: MemberList, root: PrivateKey) -> MemberList | None:
        """Sign what waits; None once it is in force. Raises Conflict, NotFound."""
        async with held.agreeing:
            return await self._sign(held, draft, root)

    async def finish(self, held: Held, root: PrivateKey) -> None:
        """Sign what we had decided to sign when we were killed: nothing else of its number can be signed here."""
        async with held.agreeing:
            held.drop_stale()
            decided = held.membership.signed
            for digest, draft in list(held.proposals.items()):
                ours = root.public in {one.root for one in draft.signatures}
                newest = draft.round == max(held.membership.signed_next(), default=draft.round)
                if newest and decided.get((draft.number, draft.round)) == digest and not ours:
                    await self._sign(held, draft, root)

    async def redraft(self, held: Held, root: PrivateKey | None) -> None:
        """Put guests forward who are on no list and in no draft: another list came before theirs."""
        async with held.agreeing:
            held.drop_stale()
            members = held.membership.members(self._circle.now())
            if held.proposals or not held.guests or self._circle.me not in members:
                return
            try:
                draft = draft_next(held.membership.current, self._circle.now(), join=held.guests.values())
            except InvalidRequest as error:
                log.warning("guests of %s are let go: %s", held.membership.current.name, error)
                held.guests.clear()
                await self._circle.save(held)
                return
            await self._propose(held, draft, root)

    async def adopt(self, held: Held, branch: Sequence[MemberList]) -> None:
        """Go over to another branch of a fork, or stay; what waited on ours is dropped with it."""
        async with held.agreeing:
            ours = {one.digest() for one in held.membership.lists}
            shared = [place for place, one in enumerate(branch) if one.digest() in ours]
            other = branch[shared[-1] + 1 :] if shared else branch
            if other:
                held.membership.adopt(other)
            held.forked = ""
            held.drop_stale()
            self._circle.learn_guests(held)
            await self._circle.save(held)
        self._changed()

    async def _propose(self, held: Held, draft: MemberList, root: PrivateKey | None) -> MemberList | None:
        held.drop_stale()
        membership = held.membership
        waiting = list(held.proposals.values())
        turn = choose_round(membership.current, draft, waiting, membership.signed_next())
        draft = draft.model_copy(update={"round": turn})
        held.proposals.setdefault(draft.digest(), draft)
        if root is None:
            await self._circle.save(held)
            return draft
        return await self._sign(held, held.proposals[draft.digest()], root)

    async def _sign(self, held: Held, draft: MemberList, root: PrivateKey) -> MemberList | None:
        if draft.digest() not in held.proposals:
            raise NotFound(f"That list of {draft.name} does not wait any more.")
        held.membership.may_sign(draft, list(held.proposals.values()))
        await self._circle.save(held)  # what we sign is on the disk before anybody else has the signature
        known = held.proposals.get(draft.digest())
        if known is None:
            raise Conflict(f"Another list of {draft.name} came into force meanwhile.", remedy="Look again.")
        held.proposals[draft.digest()] = sign_list(known, root)
        await self._settle(held)
        return held.proposals.get(draft.digest())

    async def spread(self, held: Held) -> None:
        """Show what waits to all members that are reached, and take their signatures."""
        waiting = [draft for draft in held.proposals.values() if draft.signatures]
        if not waiting:
            return
        away = self._links.away()
        others = set(held.membership.members(self._circle.now())) - {self._circle.me} - away
        await asyncio.gather(*(self._show(held, who, draft) for draft in waiting for who in sorted(others)))

    async def answer(self, sender: str, kind: str, body: Json) -> tuple[str, Json]:
        """Take a draft that a member shows, with its signatures; answer with what is known of it here."""
        if kind != PROPOSE:
            raise InvalidRequest(f"Messages of the kind {kind} are not understood here.")
        held, draft = self._read(sender, body)
        async with held.agreeing:
            await self._take(held, draft)
        known = held.proposals.get(draft.digest())
        if known is None:  # it is in force by these signatures
            lists = [one for one in held.membership.lists if one.digest() == draft.digest()]
            known = lists[0] if lists else draft
        return PROPOSAL, {"list": known.document()}

    def _read(self, sender: str, body: Json) -> tuple[Held, MemberList]:
        if set(body) != {"list"} or not isinstance(body["list"], dict):
            raise Malformed(f"the body of {PROPOSE} holds a list")
        draft = read_list(body["list"])
        held = self._circle.held.get(draft.community)
        if held is None or not held.membership.is_listed(sender):
            raise Misdirected(f"{draft.community} is no community of ours and of {sender}")
        return held, draft

    async def _take(self, held: Held, draft: MemberList) -> None:
        """Take the signatures of a draft, each of which is checked; raises MessageRefused, Conflict."""
        current = held.membership.current
        if draft.digest() == current.digest():
            return
        if draft.number != current.number + 1 or draft.previous != current.digest():
            raise Conflict(f"List {draft.number} of {current.name} does not follow on list {current.number}.")
        known = held.proposals.get(draft.digest())
        believed = {member.root for member in current.members}
        signatures = {one.root: one for one in (known.signatures if known else ())}
        document = unsigned(draft.document())
        for one in draft.signatures:
            if one.root in signatures:
                continue
            if one.root not in believed:
                raise UnknownSigner(f"who is not a member signed list {draft.number} of {current.name}")
            verify(one.root, one.signature, "members", document)
            signatures[one.root] = one
        if not signatures:
            raise Forged(f"nobody signed list {draft.number} of {current.name}")
        draft = draft.model_copy(update={"signatures": tuple(one for _, one in sorted(signatures.items()))})
        if known is None:
            self._make_room(held, draft)
        held.proposals[draft.digest()] = draft
        await self._settle(held)

    def _make_room(self, held: Held, draft: MemberList) -> None:
        """Bound what waits: whoever signs much has only what it signed itself let go. Raises Conflict, Throttled."""
        waiting, name = held.proposals, f"list {draft.number} of {draft.name}"
        ours = signers_of(draft)
        if draft.round > 1 + max((one.round for one in waiting.values()), default=-1):
            raise Conflict(f"No {name} of the round before that of this one is known here.")
        if ours <= {who for one in waiting.values() if one.round == draft.round for who in signers_of(one)}:
            raise Conflict(f"Who signed {name} signed another of that round.")
        count = Counter(who for one in waiting.values() for who in signers_of(one))
        gone = put_out(held.membership.current, draft)
        many = all(count[who] >= WAITING_EACH for who in ours)
        if not many and len(waiting) < WAITING:
            return
        less = ours if many else gone
        found = [digest for digest, one in waiting.items() if one.signatures and signers_of(one) <= less]
        if not found:
            raise Throttled(f"{len(waiting)} lists of {draft.name} wait already.")
        del waiting[min(found, key=lambda digest: waiting[digest].round)]

    async def _settle(self, held: Held) -> None:
        """Put in force what enough members signed; store what is now."""
        held.drop_stale()
        threshold = held.membership.current.threshold
        done = [one for one in held.proposals.values() if len(one.signatures) >= threshold]
        if done:
            gone = put_out(held.membership.current, done[0])
            held.membership.offer(done[0])
            log.info("list %s of %s is in force", done[0].number, done[0].name)
            for keys in [held.gossip.keys[who] for who in gone if who in held.gossip.keys]:
                task = asyncio.create_task(self._tell(keys, done[0]), name="grid: farewell")
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)
        held.drop_stale()
        self._circle.learn_guests(held)
        await self._circle.save(held)
        if done:
            self._changed()

    async def _tell(self, keys: KeyList, found: MemberList) -> None:
        """Tell who was put out by which list, once: later nobody lets it in, and it would not know why."""
        item = {"kind": "list", "content": found.document()}
        body = {"community": found.community, "items": [item], "want_keys": [], "want_records": []}
        try:
            await self._caller.ask_known(keys, "gossip.give", body)
        except GridcloudError as error:
            log.info("%s is not told that it was put out: %s", keys.institution, error)

    async def _show(self, held: Held, who: str, draft: MemberList) -> None:
        try:
            kind, body = await self._caller.ask(who, PROPOSE, {"list": draft.document()})
            if kind == PROPOSAL:
                _, shown = self._read(who, body)
                if shown.digest() == draft.digest() and draft.digest() in held.proposals:
                    async with held.agreeing:
                        await self._take(held, shown)
        except MessageRefused as refusal:
            self._links.refused(refusal, who)
        except GridcloudError as error:
            log.info("list %s of %s is not shown to %s: %s", draft.number, draft.name, who, error)
