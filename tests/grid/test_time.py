"""Clocks that differ, keys that end, records that are over, and programs that die between two steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gridcloud.errors import Expired, GridcloudError, MessageRefused, StorageFull
from gridcloud.federation.encoding import Json
from gridcloud.federation.envelopes import sign
from gridcloud.grid.replays import Journal
from tests.grid.offices import OPEN, OffClock, Place, acquaint, places, until

DAY = 86_400.0


async def test_clocks_that_differ_are_told(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        beta.clock.seconds = 45.0
        await acquaint(alpha, beta)  # within what is tolerated
        await until(lambda: any(re.search("4[0-9] s ahead", one) for one in alpha.office.status().warnings))
        beta.clock.seconds = 3600.0
        with pytest.raises(Expired, match="behind"):
            await alpha.office.caller.ask(beta.office.me, "gossip.greet", _greeting(alpha))
        assert any(re.search("3(599|60[0-9]) s ahead", one) for one in alpha.office.status().warnings)
        assert any(one.error == "Expired" for one in beta.office.status().refusals)
        with pytest.raises(GridcloudError, match="ahead"):
            await beta.office.caller.ask(alpha.office.me, "gossip.greet", _greeting(beta))
        beta.clock.seconds = 0.0
        assert await alpha.office.caller.ask(beta.office.me, "gossip.greet", _greeting(alpha))


@pytest.mark.parametrize(
    ("seconds", "why"), [(45.0, ""), (-45.0, ""), (3600.0, "ahead of ours"), (-3600.0, "is a clock wrong")]
)
async def test_whose_clock_was_wrong_from_the_beginning_is_told(
    tmp_path: Path, seconds: float, why: str
) -> None:
    async with places(tmp_path, "alpha", "beta", begin=False) as (alpha, beta):
        beta.clock.seconds = seconds
        for place in (alpha, beta):
            await place.office.init(place.name)
        if not why:
            await acquaint(alpha, beta)
            return
        await alpha.office.found("north")
        _, invitation = await alpha.office.invite("north", beta.office.me)
        with pytest.raises(MessageRefused, match=why):
            await beta.office.join(invitation, alpha.office.me)


async def test_service_keys_are_made_anew_before_they_end(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        await acquaint(alpha, beta)
        first = alpha.office.service_key().public
        for days, keys in ((21, 2), (27, 2), (31, 1)):
            await _travel(days * DAY, alpha, beta)
            kept = len(list((alpha.folder / "grid").glob("service-*.pem")))
            assert kept == len(alpha.office.standing().keys)
            good = [one for one in alpha.office.standing().keys if one.valid_until > alpha.clock.now()]
            assert len(good) == keys, days
            assert (alpha.office.service_key().public == first) is (days < 26)
            assert await beta.office.caller.ask(alpha.office.me, "gossip.greet", _greeting(beta))
            assert await alpha.office.caller.ask(beta.office.me, "gossip.greet", _greeting(alpha))
        assert beta.office.status().warnings == ()


async def test_root_that_is_elsewhere_is_asked_for_in_time(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha") as (alpha,):
        root = await alpha.office.take_root_out()
        await alpha.office.drop_root(root)
        alpha.clock.seconds = 21 * DAY
        assert "ends in 8 days" in alpha.office.status().warnings[0]
        await alpha.office.rotate(root=root)
        assert alpha.office.status().warnings == ()
        assert len(alpha.office.standing().keys) == 2


async def test_members_find_each_other_when_all_were_away(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        await acquaint(alpha, beta, gamma)
        for place in (beta, gamma):
            port = place.office.doorway.port
            await place.close()
            place.settings = OPEN.model_copy(
                update={"listen": f"127.0.0.1:{port}", "addresses": (f"https://127.0.0.1:{port}",)}
            )
            place.clock.seconds = 3 * DAY
        await alpha.close()  # who invited both does not come back
        await beta.open()
        await gamma.open()
        await until(lambda: gamma.office.me in beta.office.profiles())
        await alpha.open()


async def test_accepted_messages_are_remembered_across_a_kill(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        await acquaint(alpha, beta)
        letter = sign(
            beta.office.service_key(),
            OffClock(),
            kind="gossip.greet",
            sender=beta.office.me,
            recipient=alpha.office.me,
            body=_greeting(beta),
        )
        mail = alpha.office.doorway._mail
        assert mail is not None
        mail.open(letter, beta.office.me)
        await alpha.kill()
        await alpha.open()
        mail = alpha.office.doorway._mail
        assert mail is not None
        with pytest.raises(GridcloudError, match="accepted before"):
            mail.open(letter, beta.office.me)


def test_memory_is_not_believed_after_the_computer_went_down(tmp_path: Path) -> None:
    path = tmp_path / "nonces"

    def not_before(*, known: bool = True) -> int:
        journal = Journal(path, OffClock(), known=known)
        journal.close()
        return int(journal.cache.state()["not_before"])

    assert not not_before(known=False)  # the first start
    assert not not_before()
    path.unlink()
    assert not_before()  # it should be there
    path.write_text("another-boot 0\n")
    assert not_before()
    path.write_text("garbage")
    assert not_before()
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("writes", range(4))
async def test_host_that_dies_while_a_guest_joins(
    tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between institutions, promise H."""
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        await alpha.office.found("north")
        port = alpha.office.doorway.port
        _, invitation = await alpha.office.invite("north", beta.office.me)
        # A disk that takes so many writes more: what a kill leaves behind, at each of the steps.
        _fill_disk(alpha, writes, monkeypatch)
        try:
            await beta.office.join(invitation, alpha.office.me)
        except GridcloudError:
            pass
        monkeypatch.undo()
        await alpha.kill()
        alpha.settings = OPEN.model_copy(
            update={"listen": f"127.0.0.1:{port}", "addresses": (f"https://127.0.0.1:{port}",)}
        )
        await alpha.open()
        if not beta.office.communities() or beta.office.community("north").joining:
            await beta.office.join(invitation, alpha.office.me)
        await until(lambda: not beta.office.community("north").joining)
        names = [one.name for one in alpha.office.community("north").members]
        assert sorted(names) == ["alpha", "beta"]
        assert alpha.office.community("north").number == 2


def _fill_disk(place: Place, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [writes]

    def limited(write: Any) -> Any:
        async def perform(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise StorageFull("The disk is full.")
            return await write(*arguments, **named)

        return perform

    # A real disk that is full at the n-th write of one store cannot be had.
    for name in ("insert", "update"):
        monkeypatch.setattr(place.store, name, limited(getattr(place.store, name)))


async def _travel(seconds: float, *travellers: Place) -> None:
    for place in travellers:
        place.clock.seconds = seconds
    for place in travellers:
        place.office._gossiping.tell_anew()
    names = {place.office.me for place in travellers}
    await until(lambda: all(names - {one.office.me} <= set(one.office.profiles()) for one in travellers))
    serials = [one.office._circle.our_keys().serial for one in travellers]
    await until(
        lambda: all(
            [keys.serial if (keys := one.office.keys_of(other.office.me)) else 0 for other in travellers]
            == serials
            for one in travellers
        )
    )


def _greeting(place: Place) -> Json:
    (held,) = place.office._circle.held.values()
    return held.gossip.greet("").document()
