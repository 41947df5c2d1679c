"""Institutions that found, invite, join, sign, leave, and are put out; and all of it again after a kill."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gridcloud.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    MessageRefused,
    Replayed,
    Revoked,
    UnknownSigner,
    Untrusted,
)
from gridcloud.federation.communities import draft_next, sign_list
from gridcloud.federation.encoding import Json
from gridcloud.federation.keys import spoken
from gridcloud.grid import office
from gridcloud.grid.model import Way
from gridcloud.grid.office import Office
from tests.grid.offices import OPEN, Place, acquaint, places, until


def _echo(office: Office) -> None:
    async def answer(sender: str, kind: str, body: Json) -> tuple[str, Json] | None:
        return ("test.echo", {"of": sender} | body) if body else None

    office.doorway.handle("test", answer)


async def test_two_institutions_exchange_an_envelope(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        _echo(beta.office)
        found = await acquaint(alpha, beta)
        assert [one.name for one in found.members if one.ourselves] == ["alpha"]
        assert found.number == 2
        kind, body = await alpha.office.caller.ask(beta.office.me, "test.say", {"words": "hello"})
        assert (kind, body) == ("test.echo", {"of": alpha.office.me, "words": "hello"})
        assert await alpha.office.caller.ask(beta.office.me, "test.say", {}) == ("", {})
        link = alpha.office.status().links[0]
        assert link.way is Way.DIRECT
        assert link.last_heard is not None
        assert abs(link.skew or 0) < 5
        assert not alpha.office.status().warnings
        assert not alpha.office.status().refusals


async def test_nothing_is_open_before_init(tmp_path: Path) -> None:
    """Between institutions, promise K."""
    async with places(tmp_path, "alpha", begin=False) as (alpha,):
        assert alpha.office.doorway.port == 0
        assert alpha.office.status().standing is None
        with pytest.raises(InvalidRequest, match="grid init"):
            await alpha.office.found("north")
        standing = await alpha.office.init("alpha")
        assert alpha.office.doorway.port
        assert standing.fingerprint == spoken(alpha.office.me)
        assert standing == await alpha.office.init("alpha")
        with pytest.raises(Conflict):
            await alpha.office.init("another")
        kept = list((alpha.folder / "grid").iterdir())
        assert kept
        assert all(path.stat().st_mode & 0o077 == 0 for path in [*kept, alpha.folder / "grid"])


async def test_invitation_is_for_its_guest_and_works_once(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        await alpha.office.found("north")
        given, invitation = await alpha.office.invite("north", spoken(beta.office.me))
        with pytest.raises(UnknownSigner):
            await beta.office.join(invitation, gamma.office.me)  # another fingerprint was heard
        with pytest.raises(InvalidRequest):
            await beta.office.join(invitation, "12345 67890")
        await beta.office.join(invitation, alpha.office.me)
        await until(lambda: not beta.office.community("north").joining)
        with pytest.raises(Conflict):
            await beta.office.join(invitation, alpha.office.me)
        assert alpha.office.status().invitations[0].spent.endswith("used it")
        await beta.office.forget("north")
        await beta.office.join(invitation, alpha.office.me)  # the answer was lost, as far as it knows
        await until(lambda: not beta.office.community("north").joining)
        assert any(one.error == Replayed.__name__ for one in alpha.office.status().refusals)
        _, third = await alpha.office.invite("north", gamma.office.me)
        await alpha.office.withdraw(third["invitation"]["id"])
        with pytest.raises(Exception, match="withdrawn"):
            await gamma.office.join(third, alpha.office.me)
        assert not gamma.office.communities()
        assert given.spent == ""


async def test_an_address_at_which_nobody_comes_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(office, "SILENCE", 0.0)  # not to wait for five minutes
    async with places(tmp_path, "alpha", "beta", begin=False) as (alpha, beta):
        beta.settings = OPEN.model_copy(update={"addresses": ("https://127.0.0.1:1",)})
        for place in (alpha, beta):
            await place.office.init(place.name)
        await acquaint(alpha, beta)
        (warning,) = beta.office.status().warnings
        assert "is https://127.0.0.1:1 reached from outside" in warning
        assert alpha.office.status().warnings == ()


async def test_lists_need_as_many_signatures_as_agreed(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma", "delta") as (alpha, beta, gamma, delta):
        await acquaint(alpha, beta, gamma)
        assert await alpha.office.change("north", threshold=2) is None
        await until(lambda: all(one.office.community("north").threshold == 2 for one in (beta, gamma)))
        _, invitation = await alpha.office.invite("north", delta.office.me)
        joining = await delta.office.join(invitation, alpha.office.me)
        assert joining.joining
        await until(lambda: bool(beta.office.community("north").proposals))
        (waiting,) = beta.office.community("north").proposals
        assert waiting.needed == 2
        assert waiting.signed == (alpha.office.me,)
        assert "delta" in waiting.joining[0]
        assert delta.office.me not in alpha.office.members()
        assert await beta.office.sign("north") is None
        await until(lambda: not delta.office.community("north").joining)
        await until(lambda: delta.office.me in gamma.office.members())
        await until(lambda: delta.office.me in alpha.office.profiles())
        revoking = await gamma.office.revoke("north", "delta", "the project is over")
        assert revoking is not None
        assert revoking.signed_here
        assert "the project is over" in revoking.revoking[0]
        await until(lambda: bool(alpha.office.community("north").proposals))
        assert await alpha.office.sign("north") is None
        await until(lambda: delta.office.me not in gamma.office.members())
        await until(lambda: delta.office.community("north").revoked == "the project is over")
        assert not delta.office.members()
        await delta.office.forget("north")
        with pytest.raises(UnknownSigner):
            await gamma.office.caller.ask("0" * 32, "test.say", {})
        with pytest.raises(Revoked):
            await gamma.office.caller.ask(delta.office.me, "test.say", {})


async def test_who_is_put_out_cannot_prevent_it_by_lists_of_its_own(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        await acquaint(alpha, beta, gamma)
        assert await alpha.office.change("north", threshold=2) is None
        await until(lambda: all(one.office.community("north").threshold == 2 for one in (beta, gamma)))
        held = gamma.office._circle.get("north")
        root = gamma.office._keyring.root(gamma.office.me)
        for days in range(1, 4):  # more than one of a number, which no gridcloud signs
            ends = gamma.office._circle.now() + days * 86_400_000
            draft = sign_list(
                draft_next(held.membership.current, gamma.office._circle.now(), ends=ends), root
            )
            for one in (alpha, beta):
                body = {"list": draft.document()}
                if days == 1:
                    await gamma.office.caller.ask(one.office.me, "community.propose", body)
                else:
                    with pytest.raises(Conflict, match="signed another"):
                        await gamma.office.caller.ask(one.office.me, "community.propose", body)
        with pytest.raises(Conflict, match="waits"):
            await alpha.office.change("north", threshold=3)
        revoking = await alpha.office.revoke("north", "gamma", "it blocks what others want")
        assert revoking is not None
        await until(lambda: len(beta.office.community("north").proposals) == 2)
        assert await beta.office.sign("north", digest=revoking.digest) is None
        await until(lambda: gamma.office.me not in alpha.office.members())
        assert not alpha.office.community("north").proposals


async def test_lists_that_split_the_members_hold_up_nothing(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma", "delta") as (alpha, beta, gamma, delta):
        everybody = (alpha, beta, gamma, delta)
        await acquaint(*everybody)
        assert await alpha.office.change("north", threshold=3) is None
        await until(lambda: all(one.office.community("north").threshold == 3 for one in everybody))
        one, other = await asyncio.gather(
            alpha.office.change("north", threshold=2), gamma.office.change("north", threshold=4)
        )
        assert one is not None
        assert other is not None
        await until(lambda: all(len(place.office.community("north").proposals) == 2 for place in everybody))
        assert await beta.office.sign("north", digest=one.digest)
        with pytest.raises(Conflict, match="was signed here"):
            await gamma.office.sign("north", digest=one.digest)
        with pytest.raises(Conflict, match="waits for signatures"):
            await alpha.office.change("north", threshold=1)
        assert await delta.office.sign("north", digest=other.digest)

        def signatures(place: Place) -> list[int]:
            return [len(draft.signed) for draft in place.office.community("north").proposals]

        await until(lambda: all(signatures(place) == [2, 2] for place in everybody))
        third = await alpha.office.change("north", threshold=1)
        assert third is not None
        await until(lambda: all(len(signatures(place)) == 3 for place in everybody))
        for place in (beta, gamma):
            await place.office.sign("north", digest=third.digest)
        await until(lambda: all(place.office.community("north").threshold == 1 for place in everybody))


async def test_who_would_take_another_name_is_seen(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        await acquaint(alpha, beta)
        assert await alpha.office.change("north", threshold=2) is None
        held = alpha.office._circle.get("north")
        renamed = [
            one.model_copy(update={"name": "gamma"}) if one.institution == beta.office.me else one
            for one in held.membership.current.members
        ]
        draft = draft_next(held.membership.current, alpha.office._circle.now(), join=renamed)
        held.proposals[draft.digest()] = draft
        (shown,) = alpha.office.community("north").proposals
        assert shown.joining == (f"gamma ({beta.office.me}), called beta until now",)


async def test_member_leaves_and_keeps_nothing(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        await acquaint(alpha, beta, gamma)
        told: list[str] = []

        async def note(community: str) -> None:
            told.append(community)

        beta.office.when_forgotten(note)
        assert await beta.office.leave("north")
        assert told == [alpha.office.community("north").community]
        assert not beta.office.communities()
        assert not await beta.store.find("grid.community")
        assert not await beta.store.find("grid.heard")
        await until(lambda: beta.office.me not in gamma.office.members())
        await until(lambda: beta.office.me not in alpha.office.members())


async def test_community_ends_by_itself_and_leaves_nothing(tmp_path: Path) -> None:
    """Between institutions, promise J."""
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        await alpha.office.found("summer", ends=datetime.now(UTC) + timedelta(hours=1))
        await acquaint(alpha, beta, community="summer")
        await alpha.close()
        alpha.clock.seconds = 7200.0
        await alpha.open()
        assert not alpha.office.communities()
        assert not alpha.office.status().invitations
        for kind in ("grid.community", "grid.heard"):
            assert not await alpha.store.find(kind)
        assert beta.office.me not in str([one.body for one in await alpha.store.find("grid.invitations")])


async def test_nothing_is_lost_when_killed(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        _echo(beta.office)
        beta.prepare = _echo
        await acquaint(alpha, beta)
        port = beta.office.doorway.port
        await beta.kill()
        beta.settings = beta.settings.model_copy(
            update={"listen": f"127.0.0.1:{port}", "addresses": (f"https://127.0.0.1:{port}",)}
        )
        await beta.open()
        assert beta.office.name == "beta"
        assert alpha.office.me in beta.office.members()
        kind, _ = await alpha.office.caller.ask(beta.office.me, "test.say", {"words": "again"})
        assert kind == "test.echo"
        await beta.office.caller.ask(alpha.office.me, "gossip.greet", _greeting(beta))


def _greeting(place: Place) -> Json:
    (held,) = place.office._circle.held.values()
    return held.gossip.greet("").document()


async def test_root_key_may_be_kept_elsewhere(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        root = await alpha.office.take_root_out()
        assert alpha.office.standing().root_here, "it may be lost on its way"
        with pytest.raises(Untrusted):
            await alpha.office.drop_root(await beta.office.take_root_out())
        for _ in range(2):
            assert not (await alpha.office.drop_root(root)).root_here
        with pytest.raises(Conflict):
            await alpha.office.take_root_out()
        with pytest.raises(Forbidden, match="root key"):
            await alpha.office.found("north")
        await alpha.office.found("north", root=root)
        _, invitation = await alpha.office.invite("north", beta.office.me)
        await beta.office.join(invitation, alpha.office.me)
        (waiting,) = alpha.office.community("north").proposals
        assert waiting.signed == ()
        assert not alpha.office.standing().root_here
        with pytest.raises(Exception, match="not of"):
            await alpha.office.sign("north", root=await beta.office.take_root_out())
        with pytest.raises(Conflict, match="looked at"):
            await alpha.office.sign("north", digest="A" * 43, root=root)
        assert await alpha.office.sign("north", digest=waiting.digest, root=root) is None
        await until(lambda: not beta.office.community("north").joining)


async def test_fork_is_told_and_a_person_ends_it(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        await acquaint(alpha, beta, gamma)
        soon = datetime.now(UTC) + timedelta(days=1)
        await asyncio.gather(  # before either hears of the other
            alpha.office.change("north", ends=soon),
            beta.office.change("north", ends=soon + timedelta(days=1)),
        )
        await until(lambda: "two true lists" in beta.office.community("north").forked)
        await until(lambda: "two true lists" in alpha.office.community("north").forked)
        assert any("two true lists" in one for one in alpha.office.status().warnings)
        found = await beta.office.adopt("north", alpha.office.branch("north"))
        assert found.ends == alpha.office.community("north").ends
        for place in (alpha, gamma):
            await place.office.adopt("north", alpha.office.branch("north"))
        await until(lambda: not any(one.office.community("north").forked for one in (alpha, beta, gamma)))
        with pytest.raises(MessageRefused):
            await beta.office.adopt("north", [{"version": 1}])
        assert await gamma.office.change("north", threshold=2) is None
        await until(lambda: all(one.office.community("north").threshold == 2 for one in (alpha, beta)))
