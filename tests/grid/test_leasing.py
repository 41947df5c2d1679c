"""Two institutions: one has no room, the other lends; what is renewed, wanted back, lost, and in the books."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gridcloud.clock import SystemClock
from gridcloud.connections.driver import Command
from gridcloud.connections.model import SSHAddress
from gridcloud.errors import ConnectionLost, GridcloudError, NotFound
from gridcloud.federation.borrowing import BorrowedState
from gridcloud.federation.encoding import milliseconds
from gridcloud.federation.leases import LentState
from gridcloud.federation.ledger import Claim, Entry, Standing, seal
from gridcloud.federation.wishes import Capacity
from gridcloud.instances.model import Reason, Request, State
from gridcloud.testing.instances import read_output
from tests.grid.towns import FAST, House, Town, found, open_house

CLOUD = {"driver": "fake", "shapes": [{"name": "small", "cpus": 2, "memory": "1GiB", "count": 2}]}
FULL = {"driver": "fake", "shapes": [{"name": "small", "cpus": 2, "memory": "1GiB", "count": 0}]}


SMALL = Request(cpus=1, memory=64 << 20)


def lender(**lending: Any) -> dict[str, Any]:
    return {"providers": {"cloud": CLOUD}, "lending": {"providers": ["cloud"], **lending}}


BORROWER = {"providers": {"own": FULL, "partners": {"driver": "peer", "purpose": "teaching"}}}


@asynccontextmanager
async def two(
    tmp_path: Path, configuration: dict[str, Any] | None = None, name: str = "Bergen"
) -> AsyncIterator[tuple[House, House]]:
    """Open a lender, Bergen, and a borrower, Oslo."""
    bergen, oslo = found(name, "Oslo")
    async with (
        open_house(tmp_path / "b", bergen, configuration or lender()) as lending,
        open_house(tmp_path / "o", oslo, BORROWER) as borrowing,
    ):
        yield lending, borrowing


async def until(done: Callable[[], Awaitable[bool]] | Callable[[], bool], seconds: float = 15) -> None:
    """Return once something holds."""
    end = time.monotonic() + seconds
    while True:
        holds = done()
        if holds if isinstance(holds, bool) else await holds:
            return
        assert time.monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.02)


def lent(house: House) -> list[LentState]:
    return [one.lent.state for one in house.leasing.lending.loans()]


def standings(house: House) -> list[Standing]:
    return [one.standing for one in house.leasing.accounts.entries()]


async def test_who_has_no_room_gets_it_at_a_partner(tmp_path: Path) -> None:
    async with two(tmp_path) as (bergen, oslo):
        instance = await oslo.obtain()
        assert instance.offer is not None
        assert instance.offer.provider == "partners"
        assert instance.offer.institution == "Bergen"
        address = instance.address
        assert isinstance(address, SSHAddress)
        connection = await oslo.connect(address)
        try:
            assert await read_output(connection, "echo", "from there") == "from there\n"
        finally:
            await connection.close()
        loan = bergen.leasing.lending.loans()[0]
        guest = await bergen.runner.records.get(loan.instance_id)
        assert guest.owner == f"ada@{oslo.town.me}"
        assert guest.state is State.READY
        assert loan.lent.wish is not None
        assert loan.lent.wish.groups == ("students",)
        await oslo.runner.stop(instance.id)
        await oslo.ended(instance.id)
        await bergen.ended(guest.id)
        await until(lambda: lent(bergen) == [LentState.ENDED])


async def test_a_lease_is_renewed_for_as_long_as_it_is_used(tmp_path: Path) -> None:
    async with two(tmp_path) as (bergen, oslo):
        instance = await oslo.obtain()
        await until(lambda: bergen.leasing.lending.loans()[0].lent.turn >= 2)
        assert lent(bergen) == [LentState.HELD]
        assert (await oslo.runner.records.get(instance.id)).state is State.READY
        guest = await bergen.runner.records.get(bergen.leasing.lending.loans()[0].instance_id)
        assert guest.expires is not None
        await oslo.runner.stop(instance.id)
        await oslo.ended(instance.id)


@pytest.mark.parametrize("name", ["Høyskolen, *.example.org [x]:22 # 'a'", "日本"])
async def test_an_institution_may_call_itself_anything(tmp_path: Path, name: str) -> None:
    async with two(tmp_path, name=name) as (_, oslo):
        instance = await oslo.obtain()
        assert instance.offer is not None
        assert instance.offer.institution == name
        assert isinstance(instance.address, SSHAddress)
        assert instance.address.host.replace("-", "").isalnum()


async def test_both_books_say_the_same(tmp_path: Path) -> None:
    async with two(tmp_path) as (bergen, oslo):
        instance = await oslo.obtain()
        await asyncio.sleep(0.3)
        await oslo.runner.stop(instance.id)
        await oslo.ended(instance.id)
        await until(lambda: standings(bergen) == standings(oslo) == [Standing.AGREED])
        assert bergen.leasing.accounts.entries() == oslo.leasing.accounts.entries()
        claim = oslo.leasing.accounts.entries()[0].claim
        assert (claim.lender, claim.borrower, claim.user) == (bergen.town.me, oslo.town.me, "ada")
        assert claim.ended > claim.began
        assert await oslo.leasing.accounts.favours()  # Bergen gave, and is owed
        assert (await bergen.leasing.accounts.favours())[oslo.town.me] == 0
        assert await bergen.leasing.accounts.reconcile() == {}
        assert await oslo.leasing.accounts.reconcile() == {}


async def test_what_is_wanted_back_is_warned_of_saved_and_left(tmp_path: Path) -> None:
    async with two(tmp_path) as (bergen, oslo):
        instance = await oslo.runner.submit("ada", SMALL, before_end=("touch", str(tmp_path / "saved")))
        instance = await oslo.runner.wait(instance.id)
        loan = bergen.leasing.lending.loans()[0]
        began = time.monotonic()
        await bergen.leasing.lending.reclaim(*loan.key, "an exam")
        ended = await oslo.ended(instance.id)
        assert time.monotonic() - began < FAST.grace / 1000
        assert ended.reason is Reason.EXPIRED
        assert (tmp_path / "saved").exists()
        told = await oslo.story(instance.id)
        assert "reclaimed: Bergen takes its machine back (an exam)" in told
        await until(lambda: lent(bergen) == [LentState.ENDED])
        assert bergen.leasing.lending.loans()[0].lent.reason.value == "returned"


async def test_what_is_run_before_the_end_is_given_up_by_a_limit_of_its_own(tmp_path: Path) -> None:
    async with two(tmp_path) as (bergen, oslo):
        instance = await oslo.runner.submit("ada", SMALL, before_end=("sleep", "60"))
        instance = await oslo.runner.wait(instance.id)
        loan = bergen.leasing.lending.loans()[0]
        await bergen.leasing.lending.reclaim(*loan.key, "an exam")
        await oslo.ended(instance.id)
        story = await oslo.story(instance.id)
        order = [story.index(one) for one in ("reclaimed:", "stopping:", "saving:", "saved:", "stopped:")]
        assert order == sorted(order)
        assert "came to nothing: It was not done within 1 s" in story
        await until(lambda: lent(bergen) == [LentState.ENDED])
        assert bergen.leasing.lending.loans()[0].lent.reason.value == "returned"


async def test_a_borrower_that_vanishes_loses_it_when_its_time_is_over(tmp_path: Path) -> None:
    async with two(tmp_path) as (bergen, oslo):
        instance = await oslo.obtain()
        connection = await oslo.connect(instance.address)  # type: ignore[arg-type]
        try:
            process = await connection.start(Command(("sleep", "600")))
            oslo.town.roads.cut.add(frozenset({bergen.town.me, oslo.town.me}))
            await until(lambda: not any(map(oslo.leasing.borrowing.usable, oslo.leasing.borrowing.leases())))
            assert lent(bergen) == [LentState.HELD], "the borrower leaves before the lender takes"
            async with asyncio.timeout(5):  # its connection was cut
                with pytest.raises(ConnectionLost):
                    await process.wait()
            await until(lambda: lent(bergen) == [LentState.ENDED])
        finally:
            await connection.close()
        ended = await oslo.ended(instance.id, 30)
        assert ended.reason is Reason.LOST
        assert "could not be renewed" in ended.detail


@pytest.mark.lab
async def test_a_way_that_is_whole_again_in_time_costs_nothing(tmp_path: Path) -> None:
    async with two(tmp_path) as (bergen, oslo):
        instance = await oslo.obtain()
        way = frozenset({bergen.town.me, oslo.town.me})
        turn = bergen.leasing.lending.loans()[0].lent.turn
        oslo.town.roads.cut.add(way)
        await asyncio.sleep(FAST.ttl / 2000)
        oslo.town.roads.cut.discard(way)
        await until(lambda: bergen.leasing.lending.loans()[0].lent.turn > turn)
        assert lent(bergen) == [LentState.HELD]
        assert (await oslo.runner.records.get(instance.id)).state is State.READY


@pytest.mark.lab
async def test_a_borrower_that_lost_its_disk_holds_nothing_and_both_say_so(tmp_path: Path) -> None:
    bergen, oslo = found("Bergen", "Oslo")
    async with open_house(tmp_path / "b", bergen, lender()) as lending:
        async with open_house(tmp_path / "o", oslo, BORROWER) as borrowing:
            await borrowing.obtain()
        async with open_house(tmp_path / "new", oslo, BORROWER) as borrowing:
            await until(lambda: lent(lending) == [LentState.ENDED])
            await until(lambda: standings(lending) == standings(borrowing) == [Standing.DISPUTED])
            assert "no such lease" in borrowing.leasing.accounts.entries()[0].dispute
            assert await lending.leasing.accounts.reconcile() == {}
            assert await lending.runner.providers.get("cloud").holdings() == []


async def test_a_machine_that_dies_is_told(tmp_path: Path) -> None:
    async with two(tmp_path) as (bergen, oslo):
        instance = await oslo.obtain()
        await bergen.runner.stop(bergen.leasing.lending.loans()[0].instance_id)
        ended = await oslo.ended(instance.id)
        assert "its machine died" in ended.detail


async def test_own_users_come_first(tmp_path: Path) -> None:
    async with two(tmp_path, lender(reclaim=True)) as (bergen, oslo):
        first, second = await oslo.obtain(), await oslo.obtain()
        refused = await bergen.runner.submit("grace", SMALL)
        with pytest.raises(GridcloudError, match="Nothing is free"):
            await bergen.runner.wait(refused.id)
        assert "there will be room by" in await until_told(bergen, refused.id, "reclaiming")
        ended = await asyncio.wait(
            [asyncio.ensure_future(oslo.ended(one.id)) for one in (first, second)],
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in ended[1]:
            task.cancel()
        await asyncio.gather(*ended[1], return_exceptions=True)
        assert len(ended[0]) == 1, "as much as is needed is taken back, and no more"
        await until(lambda: sorted(lent(bergen)) == [LentState.ENDED, LentState.HELD])
        instance = await bergen.obtain("grace")
        assert instance.state is State.READY


async def test_the_policy_decides_by_user_group_and_purpose(tmp_path: Path) -> None:
    policy = '"staff" in groups and purpose == "teaching" and "everybody" in communities and hours <= 2'
    async with two(tmp_path, lender(policy=policy)) as (_, oslo):
        with pytest.raises(GridcloudError, match="policy does not allow it"):
            await oslo.obtain("ada", time=3600)
        instance = await oslo.obtain("grace", time=3600)
        assert instance.state is State.READY
        with pytest.raises(GridcloudError, match="hours <= 2"):
            await oslo.obtain("grace", time=3 * 3600)


async def test_nothing_is_lent_while_it_is_drained_or_the_policy_is_wrong(tmp_path: Path) -> None:
    async with two(tmp_path) as (bergen, oslo):
        instance = await oslo.obtain()
        assert len(await bergen.leasing.lending.drain("new disks")) == 1
        with pytest.raises(GridcloudError, match="nothing is lent here now"):
            await oslo.obtain()
        assert "(new disks)" in await until_told(oslo, instance.id, "reclaimed")
        await oslo.ended(instance.id)
        await bergen.leasing.lending.resume()
        assert (await oslo.obtain()).state is State.READY
    async with two(tmp_path / "other", lender(policy="huors > 1")) as (_, oslo):
        with pytest.raises(GridcloudError, match="nothing is lent here now"):
            await oslo.obtain()


async def test_a_lease_opens_to_its_borrower_alone(tmp_path: Path) -> None:
    bergen, oslo, stranger = found("Bergen", "Oslo", "Rome")
    async with (
        open_house(tmp_path / "b", bergen, lender()) as lending,
        open_house(tmp_path / "o", oslo, BORROWER) as borrowing,
    ):
        instance = await borrowing.obtain()
        lease = lending.leasing.lending.loans()[0].lent.id
        link = await stranger.open_stream(bergen.me, "leases", lease)
        key = asyncssh.generate_private_key("ssh-ed25519").export_public_key()
        loop = asyncio.get_running_loop()
        with link:
            try:
                await loop.sock_sendall(link, key)
                assert await loop.sock_recv(link, 10) == b""
            except OSError:
                pass  # it was closed before
        with pytest.raises(NotFound):
            await lending.leasing.handover.serve(stranger.me, lease, link)
        address = instance.address
        assert isinstance(address, SSHAddress)
        for wrong in ({"principal": "gridcloud-lease-other"}, {"user": "root"}):
            with pytest.raises(GridcloudError):
                await borrowing.connect(address.model_copy(update=wrong))


@pytest.mark.parametrize("whose", ["Bergen", "Oslo"])
async def test_a_service_that_is_started_again_goes_on(tmp_path: Path, whose: str) -> None:
    bergen, oslo = found("Bergen", "Oslo")
    houses: dict[str, tuple[Path, Town, dict[str, Any]]] = {
        "Bergen": (tmp_path / "b", bergen, lender()),
        "Oslo": (tmp_path / "o", oslo, BORROWER),
    }
    other = next(name for name in houses if name != whose)
    slow = FAST.model_copy(update={"ttl": 12_000})
    async with open_house(*houses[other], slow) as staying:
        async with open_house(*houses[whose], slow) as leaving:
            instance = await (leaving if whose == "Oslo" else staying).obtain()
        async with open_house(*houses[whose], slow) as back:
            borrower, owner = (back, staying) if whose == "Oslo" else (staying, back)
            assert lent(owner) == [LentState.HELD]
            there = await borrower.runner.records.get(instance.id)
            assert there.state is State.READY
            connection = await borrower.connect(there.address)  # type: ignore[arg-type]
            try:
                assert await read_output(connection, "echo", "still") == "still\n"
            finally:
                await connection.close()
            await borrower.runner.stop(instance.id)
            await borrower.ended(instance.id)
            await until(lambda: lent(owner) == [LentState.ENDED])
            assert [one.lease.state for one in borrower.leasing.borrowing.leases()] in (
                [],
                [BorrowedState.LEAVING],
            )


async def until_told(house: House, subject: str, type: str) -> str:
    """Return the message of an event once it was told."""
    async with asyncio.timeout(15):
        async for event in house.store.watch(subject=subject):
            if event.type == type:
                return event.message
    raise AssertionError("it was never told")


@pytest.mark.lab
async def test_the_least_favoured_give_back_first(tmp_path: Path) -> None:
    bergen, oslo, rome = found("Bergen", "Oslo", "Rome")
    async with (
        open_house(tmp_path / "b", bergen, lender()) as lending,
        open_house(tmp_path / "o", oslo, BORROWER) as favoured,
        open_house(tmp_path / "r", rome, BORROWER) as other,
    ):
        first, second = await favoured.obtain(), await other.obtain()
        now = milliseconds(SystemClock().now())
        claim = Claim(
            lease="i-earlier-0",
            part=0,
            lender=oslo.me,
            borrower=bergen.me,
            user="bo",
            capacity=Capacity(millicores=8000),
            began=now - 7_200_000,
            ended=now,
        )
        entry = Entry(claim=claim, lender=seal(claim, oslo.key), borrower=seal(claim, bergen.key))
        await lending.store.insert("ledger", "e-earlier", oslo.me, "agreed", entry.document())
        await lending.leasing.accounts.close()
        await lending.leasing.accounts.start()
        refused = await lending.runner.submit("grace", SMALL)
        with pytest.raises(GridcloudError, match="Nothing is free"):
            await lending.runner.wait(refused.id)
        assert "Bergen takes its machine back" in await until_told(other, second.id, "reclaimed")
        assert (await favoured.runner.records.get(first.id)).notice == ""
