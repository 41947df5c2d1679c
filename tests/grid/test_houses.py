"""Whole gridclouds that lend to each other over TLS on loopback, and the contract of providers between two of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gridcloud.federation.leases import LentState
from gridcloud.federation.ledger import Standing
from gridcloud.grid.model import Way
from gridcloud.instances.driver import InstanceDriver
from gridcloud.instances.model import Reason, Request
from gridcloud.service.house import House
from gridcloud.testing.instances import InstanceDriverContract, read_output
from tests.grid.offices import until
from tests.houses import end, ended, here, link, obtain, open_house, story

GRID = {"listen": "127.0.0.1:0", "addresses": ["https://127.0.0.1:0"]}
QUICK = {"ttl": 8, "grace": 5, "tolerance": 1}
NOTHING = {"driver": "fake", "shapes": [{"name": "small", "cpus": 2, "memory": "1GiB", "count": 0}]}


@contextlib.asynccontextmanager
async def two(tmp_path: Path, lent: dict[str, Any], **lending: Any) -> AsyncIterator[tuple[House, House]]:
    """Open Bergen, which lends, and Oslo, which has no room of its own."""
    for name in ("b", "o"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    own: dict[str, dict[str, Any]] = {"own": NOTHING, "partners": {"driver": "peer"}}
    async with (
        open_house(
            tmp_path / "b", {"lent": lent}, grid=GRID, lending={"providers": ["lent"], **QUICK, **lending}
        ) as bergen,
        open_house(tmp_path / "o", own, grid=GRID, lending=QUICK, session={}) as oslo,
    ):
        if not bergen.office.initialised:
            await bergen.office.init("Bergen")
            await oslo.office.init("Oslo")
            await bergen.office.found("north")
            _, invitation = await bergen.office.invite("north", oslo.office.me)
            await oslo.office.join(invitation, bergen.office.me)
        await until(lambda: oslo.office.me in bergen.office.profiles())
        await until(lambda: bergen.office.me in oslo.office.profiles())
        yield bergen, oslo


def lent(house: House) -> list[LentState]:
    return [one.lent.state for one in house.leasing.lending.loans()]


async def test_a_command_falls_over_to_a_partner_and_both_count_it(tmp_path: Path) -> None:
    async with two(tmp_path, here(cpus=2), policy='"north" in communities') as (bergen, oslo):
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


async def test_a_partner_takes_its_machine_back(tmp_path: Path) -> None:
    async with two(tmp_path, here(cpus=2)) as (bergen, oslo):
        asked = Request(cpus=0.25, memory=64 << 20)
        saved = tmp_path / "saved"
        instance = await oslo.instances.submit("ada", asked, before_end=("touch", str(saved)))
        instance = await oslo.instances.wait(instance.id)
        await bergen.leasing.lending.reclaim(*bergen.leasing.lending.loans()[0].key, "an exam")
        gone = await ended(oslo, instance.id)
        assert gone.reason is Reason.EXPIRED
        assert saved.exists()
        assert "Bergen takes its machine back (an exam)" in await story(oslo, instance.id)
        await until(lambda: lent(bergen) == [LentState.ENDED])


def _standings(house: House) -> list[Standing]:
    return [one.standing for one in house.leasing.accounts.entries()]


@pytest.mark.lab
class TestPeerOverTLS(InstanceDriverContract):
    """The contract between two whole gridclouds; `test_peer` holds the driver to it in memory."""

    request_: ClassVar[Request] = Request(cpus=0.25, memory=64 * 1024**2)
    most: ClassVar[int] = 4

    @pytest.fixture
    async def driver(self, tmp_path: Path) -> AsyncIterator[InstanceDriver]:
        async with two(tmp_path, here(cpus=2, memory="1GiB")) as (_, oslo):
            yield oslo.providers.get("partners")
