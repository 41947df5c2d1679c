"""In a community where records are kept by some members only, whoever is needed is looked up and reached."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable
from pathlib import Path

import pytest

from gridcloud.errors import MessageRefused, Unreachable
from gridcloud.federation import gossip, ring
from gridcloud.federation.encoding import Json
from gridcloud.federation.ring import Ring, shard_of
from gridcloud.grid import seeking
from tests.grid.offices import Place, places, until

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")


def _held(place: Place) -> gossip.Gossip:
    return next(iter(place.office._circle.held.values())).gossip


async def test_member_that_gossip_does_not_bring_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The numbers of the protocol would take a hundred institutions with sockets; six are as many as four are to three.
    monkeypatch.setattr(gossip, "ring_of", lambda members: Ring(members, copies=1, everybody=3))
    monkeypatch.setattr(ring, "GUIDED", ring.SHARDS)
    monkeypatch.setattr(seeking, "SCOUTED", 0)  # nobody is known by chance
    async with places(tmp_path, *NAMES) as everybody:
        host, *guests = everybody
        for place in everybody:
            place.office.doorway.handle("test", _say)
        await host.office.found("north")
        for guest in guests:
            _, invitation = await host.office.invite("north", guest.office.me)
            await guest.office.join(invitation, host.office.me)
        await until(lambda: all(len(_held(one).keys) == len(NAMES) for one in everybody), 60)
        guide = _held(host).ring.keepers(0)[0]
        by_id = {one.office.me: one for one in everybody}
        await until(lambda: len(_held(by_id[guide]).records) == len(NAMES), 60)
        await until(lambda: all(guide in _held(one).records for one in everybody), 60)
        for asker in everybody:
            mine = _held(asker)
            await until(functools.partial(_keeps_all, mine, by_id), 60)
            _forget_places(asker)
            kept_elsewhere = [who for who in by_id if not mine.ring.keeps(mine.me, who)]
            for who in kept_elsewhere:
                assert who not in mine.records
                assert await _ask(asker, who) == ("test.said", {"by": asker.office.me})
                assert who in mine.known()
        asker = next(one for one in everybody if _held(one).sought)
        who = next(iter(_held(asker).sought))
        assert asker.office.profiles()[who].addresses == by_id[who].office._addresses()
        assert not any(
            refusal.what == "a record that it passed on"
            for one in everybody
            for refusal in one.office.status().refusals
        )
        assert shard_of(who) not in _held(asker).ring.shards(asker.office.me)


async def _ask(asker: Place, who: str) -> tuple[str, Json]:
    """Ask again for as long as a guide may take to answer on a machine with other work."""
    for _ in range(20):
        try:
            return await asker.office.caller.ask(who, "test.say", {})
        except Unreachable:
            await asyncio.sleep(0.5)
    return await asker.office.caller.ask(who, "test.say", {})


def _forget_places(place: Place) -> None:
    """Have one know of nobody where it is but of those whose records it keeps, as when they have all moved."""
    held = next(iter(place.office._circle.held.values()))
    held.gossip.forget(place.office._circle.now())  # what it kept while there were fewer members
    held.places, held.noted, held.hosts = {}, {}, {}
    place.office._circle.note_places(held)


async def _say(sender: str, kind: str, body: Json) -> tuple[str, Json]:
    return "test.said", {"by": sender}


def _keeps_all(mine: gossip.Gossip, members: Iterable[str]) -> bool:
    return all(who in mine.records for who in members if mine.ring.keeps(mine.me, who))


async def test_who_is_no_member_is_told_nothing(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        await alpha.office.found("north")
        await beta.office.found("south")
        body = _held(alpha).seek(3).document()
        with pytest.raises(MessageRefused):
            await alpha.office._gossiping.answer(beta.office.me, "gossip.seek", body)
