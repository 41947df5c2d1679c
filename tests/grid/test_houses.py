"""Whole gridclouds that lend to each other over TLS on loopback, and the contract of providers between two of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gridcloud.federation.leases import LentState
from gridcloud.federation.ledger import Standing
from gridcloud.grid.model import Way
from gridcloud.instances.driver import InstanceDriver
from gridcloud.instances.model import Reason, Request
from gridcloud.service.house import House
from gridcloud.sessions.model import State
from gridcloud.testing.instances import InstanceDriverContract, read_output
from tests.grid.offices import until
from tests.houses import end, ended, here, link, obtain, open_house, story
from tests.sessions.visit import begin, fetch, home, over, plan_back

GRID = {"listen": "127.0.0.1:0", "addresses": ["https://127.0.0.1:0"]}
QUICK = {"ttl": 8, "grace": 8, "tolerance": 1}
NOTHING = {"driver": "fake", "shapes": [{"name": "small", "cpus": 2, "memory": "1GiB", "count": 0}]}


@contextlib.asynccontextmanager
async def partners(
    tmp_path: Path, lent: dict[str, Any], names: Sequence[str] = ("Bergen",), **lending: Any
) -> AsyncIterator[list[House]]:
    """Open Oslo, which has no room of its own, and those that lend to it; Oslo comes first."""
    own: dict[str, dict[str, Any]] = {"own": NOTHING, "partners": {"driver": "peer"}}
    lent_out = {"providers": ["lent"], "trust_partners": True, **QUICK, **lending}
    async with contextlib.AsyncExitStack() as stack:
        houses: list[House] = []
        for name in ("Oslo", *names):
            folder = tmp_path / name[:1]
            folder.mkdir(parents=True, exist_ok=True)
            house = await stack.enter_async_context(
                open_house(folder, own, grid=GRID, lending=QUICK)
                if name == "Oslo"
                else open_house(folder, {"lent": lent}, grid=GRID, lending=lent_out)
            )
            await house.office.init(name)
            houses.append(house)
        oslo = houses[0]
        await oslo.office.found("north")
        for house in houses[1:]:
            _, invitation = await oslo.office.invite("north", house.office.me)
            await house.office.join(invitation, oslo.office.me)
        ids = {one.office.me for one in houses}
        await until(lambda: all(ids - {one.office.me} <= one.office.profiles().keys() for one in houses))
        yield houses


def lent(house: House) -> list[LentState]:
    return [one.lent.state for one in house.leasing.lending.loans()]


async def test_a_command_falls_over_to_a_partner_and_both_count_it(tmp_path: Path) -> None:
    async with partners(tmp_path, here(cpus=2), policy='"north" in communities') as (oslo, bergen):
        instance = await obtain(oslo)
        assert instance.offer is not None
        assert (instance.offer.source, instance.offer.terms) == ("partners (Bergen)", "for 24 h at most")
        assert await read_output(await link(oslo, instance), "echo", "from Bergen") == "from Bergen\n"
        guest = (await bergen.instances.records.live())[0]
        assert guest.owner == f"ada@{oslo.office.me}"
        assert oslo.office.status().links[0].way is Way.DIRECT
        await end(oslo, instance)
        await until(lambda: lent(bergen) == [LentState.ENDED])
        await ended(bergen, guest.id)
        await until(lambda: _standings(bergen) == _standings(oslo) == [Standing.AGREED])
        assert bergen.leasing.accounts.entries() == oslo.leasing.accounts.entries()


@pytest.mark.lab
async def test_a_partner_takes_its_machine_back(tmp_path: Path) -> None:
    async with partners(tmp_path, here(cpus=2)) as (oslo, bergen):
        asked = Request(cpus=0.25, memory=64 << 20)
        saved = tmp_path / "saved"
        # Most of the 8 s of grace are its own, however busy this computer is.
        hook = ("sh", "-c", f"sleep 2; touch {saved}")
        instance = await oslo.instances.submit("ada", asked, before_end=hook)
        instance = await oslo.instances.wait(instance.id)
        await bergen.leasing.lending.reclaim(*bergen.leasing.lending.loans()[0].key, "an exam")
        gone = await ended(oslo, instance.id)
        assert gone.reason is Reason.EXPIRED
        assert saved.exists()
        assert "Bergen takes its machine back (an exam)" in await story(oslo, instance.id)
        await until(lambda: lent(bergen) == [LentState.ENDED])


@pytest.mark.lab
async def test_a_session_goes_on_at_another_partner(tmp_path: Path) -> None:
    async with partners(tmp_path, here(cpus=2), ("Bergen", "Rome")) as houses, home() as back:
        oslo, *lenders = houses
        session = await begin(oslo, plan_back(back))
        first = await oslo.instances.records.get(session.instance_id)
        assert first.offer is not None
        assert b"here" in await fetch(session)
        lender = next(one for one in lenders if one.office.name == first.offer.institution)
        await lender.leasing.lending.drain("new disks")
        async with asyncio.timeout(40):
            async for now in oslo.sessions.lives.follow(session.id):
                if now.instance_id != session.instance_id and now.state is State.RUNNING:
                    break
        second = await oslo.instances.records.get(now.instance_id)
        assert second.offer is not None
        assert {first.offer.institution, second.offer.institution} == {"Bergen", "Rome"}
        assert now.endpoint == session.endpoint, "who uses it has that address"
        assert b"here" in await fetch(now)
        assert await fetch(now, "/back") == b"from home"
        assert "taken back by its owner" in await story(oslo, session.id)
        await oslo.sessions.stop(session.id)
        await over(oslo, session)


@pytest.mark.lab
async def test_a_machine_is_lent_through_a_relay(tmp_path: Path) -> None:
    """Neither who lends nor who borrows has a port that anybody could reach; a third member relays."""
    relay = GRID | {"relays_others": True}
    closed = {"allowed_addresses": ["127.0.0.0/8"]}  # they call a neighbour on this computer
    own: dict[str, dict[str, Any]] = {"own": NOTHING, "partners": {"driver": "peer"}}
    for name in ("r", "b", "o"):
        (tmp_path / name).mkdir()
    lent_out = {"providers": ["lent"], "trust_partners": True, **QUICK}
    async with (
        open_house(tmp_path / "r", {"own": NOTHING}, grid=relay) as rome,
        open_house(tmp_path / "b", {"lent": here(cpus=2)}, grid=closed, lending=lent_out) as bergen,
        open_house(tmp_path / "o", own, grid=closed, lending=QUICK) as oslo,
    ):
        await rome.office.init("Rome")
        await rome.office.found("north")
        for name, house in {"Bergen": bergen, "Oslo": oslo}.items():
            await house.office.init(name)
            _, invitation = await rome.office.invite("north", house.office.me)
            await house.office.join(invitation, rome.office.me)
        relays = (rome.office.me,)
        for one, other in ((bergen, oslo), (oslo, bergen)):
            await until(
                lambda one=one, other=other: (  # type: ignore[misc]
                    (there := one.office.profiles().get(other.office.me)) is not None
                    and there.relays == relays
                ),
                30,
            )
        instance = await obtain(oslo)
        assert instance.offer is not None
        assert instance.offer.institution == "Bergen"
        assert await read_output(await link(oslo, instance), "echo", "through Rome") == "through Rome\n"
        link_ = next(one for one in oslo.office.status().links if one.institution == bergen.office.me)
        assert link_.way is Way.RELAYED
        await end(oslo, instance)
        await until(lambda: lent(bergen) == [LentState.ENDED])
        await until(lambda: _standings(bergen) == _standings(oslo) == [Standing.AGREED])


def _standings(house: House) -> list[Standing]:
    return [one.standing for one in house.leasing.accounts.entries()]


@pytest.mark.lab
class TestPeerOverTLS(InstanceDriverContract):
    """The contract between two whole gridclouds; `test_peer` holds the driver to it in memory."""

    request_: ClassVar[Request] = Request(cpus=0.25, memory=64 * 1024**2)
    most: ClassVar[int] = 4

    @pytest.fixture
    async def driver(self, tmp_path: Path) -> AsyncIterator[InstanceDriver]:
        async with partners(tmp_path, here(cpus=2, memory="1GiB")) as (oslo, _):
            yield oslo.providers.get("partners")
