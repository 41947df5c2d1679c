"""What a member may try with leases and gets nothing by: the leases of others, long promises, floods, false words."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gridcloud.clock import SystemClock
from gridcloud.errors import Forbidden, GridcloudError, InvalidRequest, Malformed, Throttled
from gridcloud.federation.encoding import Json, milliseconds
from gridcloud.federation.leases import (
    Accept,
    Ask,
    End,
    LentState,
    Offer,
    Offers,
    Reason,
    Renew,
    Status,
    read_message,
    write_message,
)
from gridcloud.federation.wishes import Capacity, Wish
from gridcloud.grid import lending
from tests.grid.test_leasing import BORROWER, SMALL, lender, two
from tests.grid.towns import House, found, open_house

ONE = Capacity(millicores=1000, memory=64)
HUGE = Capacity(millicores=1_000_000, memory=1_000_000)
MORE = Capacity(millicores=8000, memory=65536)


def accept(lease: str = "x-lease", **changes: Any) -> Accept:
    wish = Wish(need="n", capacity=ONE, seconds=600, user="eve")
    before = milliseconds(SystemClock().now()) + 4000
    offer = Offer(capacity=ONE, ttl=3000, seconds=600, before=before)
    given = {"lease": lease, "wish": wish, "offer": offer} | changes
    return Accept(**given)


async def tell(house: House, sender: str, message: Any) -> Status:
    answer = await house.leasing.lending.answer(sender, *write_message(message))
    assert answer is not None
    status = read_message(*answer)
    assert isinstance(status, Status)
    return status


async def test_nobody_touches_the_lease_of_another(tmp_path: Path) -> None:
    async with two(tmp_path) as (bergen, oslo):
        await oslo.obtain()
        loan = bergen.leasing.lending.loans()[0]
        eve = "0" * 32
        ended = await tell(bergen, eve, End(lease=loan.lent.id, before=loan.lent.before))
        assert ended.state is LentState.ENDED  # a lease of that name of its own, which never began
        assert (await tell(bergen, eve, Renew(lease="i-other", turn=9))).reason is Reason.UNKNOWN
        assert bergen.leasing.lending.loans()[0].lent.state is LentState.HELD
        lease = oslo.leasing.borrowing.leases()[0].lease
        false = Status(lease=lease.id, serial=99, state=LentState.ENDED, before=0)
        with pytest.raises(Forbidden):
            await oslo.leasing.borrowing.answer(eve, *write_message(false))
        assert oslo.leasing.borrowing.usable(oslo.leasing.borrowing.leases()[0])


async def test_an_acceptance_is_judged_by_what_the_lender_says(tmp_path: Path) -> None:
    async with two(tmp_path, lender(longest="10m", policy="cpus <= 2")) as (bergen, oslo):
        who = oslo.town.me
        wish = Wish(need="n", capacity=ONE, seconds=86400, user="eve")
        offer = accept().offer.model_copy(update={"seconds": 86400})
        long = await tell(bergen, who, accept("x-long", wish=wish, offer=offer))
        assert (long.state, long.why) == (LentState.ENDED, "600 s is the longest that a machine is lent for")
        large = wish.model_copy(update={"capacity": HUGE, "seconds": 60})
        assert "cpus <= 2" in (await tell(bergen, who, accept("x-large", wish=large))).why
        far = accept().offer.model_copy(update={"before": milliseconds(SystemClock().now()) + 10**9})
        with pytest.raises(InvalidRequest):
            await tell(bergen, who, accept("x-far", offer=far))
        late = accept().offer.model_copy(update={"before": 1000})
        assert "ended" in (await tell(bergen, who, accept("x-late", offer=late))).why
        assert [one for one in await bergen.runner.records.live() if "@" in one.owner] == []


async def test_a_flood_of_leases_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A thousand real ones would take a minute.
    monkeypatch.setattr(lending, "REMEMBERED", 5)
    async with two(tmp_path) as (bergen, oslo):
        for number in range(5):
            await tell(bergen, oslo.town.me, End(lease=f"x-{number}", before=accept().offer.before))
        with pytest.raises(Throttled):
            await tell(bergen, oslo.town.me, End(lease="x-more", before=accept().offer.before))
        assert (await tell(bergen, "0" * 32, End(lease="x-0", before=accept().offer.before))).serial


async def test_who_asks_much_at_once_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "ASKED", 2)  # each of thirty would be a machine
    async with two(tmp_path) as (bergen, oslo):
        desk = bergen.leasing.lending
        async with desk._accepting:  # as if a provider thought about one
            asked = [asyncio.create_task(tell(bergen, oslo.town.me, accept(f"x-{one}"))) for one in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Throttled, match="judged"):
                await tell(bergen, oslo.town.me, accept("x-more"))
            other = asyncio.create_task(tell(bergen, "0" * 32, accept("x-other")))
            await asyncio.sleep(0)
            assert not other.done()
        answers = await asyncio.gather(*asked, other)
        assert len(answers) == 3
        assert not desk._asked


@pytest.mark.parametrize("body", [{}, {"lease": "../../etc"}, {"lease": "x-1", "turn": -1}, {"lease": 7}])
async def test_what_is_no_message_is_refused(tmp_path: Path, body: Json) -> None:
    async with two(tmp_path) as (bergen, oslo):
        for kind in ("lease.accept", "lease.renew", "lease.nothing", "lease.end"):
            with pytest.raises(Malformed):
                await bergen.leasing.lending.answer(oslo.town.me, kind, body)
        with pytest.raises(Malformed):
            await oslo.leasing.borrowing.answer(bergen.town.me, "lease.status", body)


@pytest.mark.parametrize(
    ("price", "host_key"),
    [
        ("NaN EUR", "-----BEGIN NONSENSE"),
        ("1E+999999999 EUR", "ssh-rsa AAAAB3NzaC1yc2EAAAABAQAAAAGA"),  # a key whose modulus is below nought
    ],
)
async def test_a_lender_that_lies_is_passed_over(tmp_path: Path, price: str, host_key: str) -> None:
    liar, oslo = found("Liar", "Oslo")
    said: list[str] = []

    async def answer(sender: str, kind: str, body: Json) -> tuple[str, Json] | None:
        said.append(kind)
        message = read_message(kind, body)
        now = milliseconds(SystemClock().now())
        if isinstance(message, Ask):
            offer = Offer(
                shape="container \u00e9",
                capacity=MORE,
                ttl=3000,
                seconds=60,
                before=now + 5000,
                price=price,
            )
            # Of the first, a year could be claimed after its end; the second would be waited for until the year 9999.
            far = offer.model_copy(update={"shape": "container far", "ttl": 366 * 86_400_000})
            never = offer.model_copy(update={"shape": "container far", "before": 253_402_300_799_999})
            # A year of the third would be owed for an hour of a core.
            huge = offer.model_copy(update={"shape": "container far", "capacity": HUGE})
            return write_message(Offers(need=message.wish.need, offers=(far, never, huge, *(offer,) * 61)))
        if isinstance(message, Accept):
            told = {"host_key": host_key, "directory": "../../../etc"}
            status = Status(
                lease=message.lease,
                serial=1,
                state=LentState.HELD,
                before=0,
                expires=now + 60_000,
                connection=told,
            )
            return write_message(status)
        lease = getattr(message, "lease", "x-none")
        return write_message(Status(lease=lease, serial=9, state=LentState.ENDED, before=0))

    liar.handle("lease", answer)
    liar.open = True
    async with open_house(tmp_path / "o", oslo, BORROWER) as house:
        offers = [one for one in await house.runner.providers.offers(SMALL) if one.available]
        assert offers
        assert all(one.shape.cpus == 8 for one in offers), "what would be owed, as it is claimed"
        assert all(not one.priced for one in offers)
        assert all("far" not in one.shape.name for one in offers)
        with pytest.raises(GridcloudError):
            await house.obtain()
        assert await house.leasing.borrowing.machines("partners") == []
        assert "lease.end" in said, "what cannot be reached is given back"
