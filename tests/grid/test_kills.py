"""Either service dies at every step of a lease: it goes on once started again, nothing is left, the books agree."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from gridcloud.errors import Conflict
from gridcloud.federation.leases import LentState
from gridcloud.federation.ledger import Standing
from gridcloud.instances.model import FINAL, Request, State
from tests.grid.test_leasing import BORROWER, lender
from tests.grid.towns import FAST, House, Town, found, open_house

STEPS = (
    "lease.ask comes to Bergen",
    "lease.ask was taken by Bergen",
    "lease.accept comes to Bergen",
    "lease.accept was taken by Bergen",
    "lease.status comes to Oslo",
    "lease.status was taken by Oslo",
    "lease.end comes to Bergen",
    "lease.end was taken by Bergen",
    "ledger.claims comes to Oslo",
    "ledger.claims was taken by Oslo",
)
QUICK = {("lease.accept was taken by Bergen", "Oslo"), ("lease.status was taken by Oslo", "Bergen")}
CASES = [
    pytest.param(step, victim, marks=[] if (step, victim) in QUICK else [pytest.mark.lab])
    for step in STEPS
    for victim in ("Bergen", "Oslo")
]
INSTANCE = "i-abcdefgh"
TERMS = FAST.model_copy(update={"ttl": 6000})


@pytest.mark.parametrize(("step", "victim"), CASES)
async def test_a_service_dies_at_a_step(tmp_path: Path, step: str, victim: str) -> None:
    bergen, oslo = found("Bergen", "Oslo")
    houses: dict[str, House] = {}
    places: dict[str, tuple[Path, Town, dict[str, Any]]] = {
        "Bergen": (tmp_path / "b", bergen, lender()),
        "Oslo": (tmp_path / "o", oslo, BORROWER),
    }
    killed = asyncio.Event()

    async def strike(words: str) -> None:
        if words == step and not killed.is_set():
            killed.set()
            houses[victim].town.open = False
            await houses[victim].store.close()  # what is not in it by now never will be

    bergen.roads.strike = strike
    other = "Oslo" if victim == "Bergen" else "Bergen"
    async with open_house(*places[other], TERMS) as staying:
        houses[other] = staying
        async with open_house(*places[victim], TERMS) as dying:
            houses[victim] = dying
            driving = asyncio.create_task(drive(houses))
            dead = asyncio.create_task(killed.wait())
            async with asyncio.timeout(40):
                await asyncio.wait({driving, dead}, return_when=asyncio.FIRST_COMPLETED)
            assert killed.is_set(), f"it never came to: {step}"
            driving.cancel()
            await asyncio.gather(driving, dead, return_exceptions=True)
        async with open_house(*places[victim], TERMS) as back:
            houses[victim] = back
            async with asyncio.timeout(60):
                await drive(houses)
            await see_that_nothing_is_left(houses["Bergen"], houses["Oslo"])


async def drive(houses: dict[str, House]) -> None:
    """Have an instance that is borrowed, then end it; from wherever it is by now, to the end of it in both books."""
    oslo, bergen = houses["Oslo"], houses["Bergen"]
    with contextlib.suppress(Conflict):
        await oslo.runner.submit("ada", Request(cpus=1, memory=64 << 20), instance_id=INSTANCE)
    async for instance in oslo.runner.records.follow(INSTANCE):
        assert len(await bergen.runner.records.find(states=[State.READY])) <= 1
        if instance.state is State.READY or instance.state in FINAL:
            break
    await oslo.runner.stop(INSTANCE)
    await oslo.ended(INSTANCE, 40)
    while any(one.lent.state is not LentState.ENDED for one in bergen.leasing.lending.loans()) or any(  # noqa: ASYNC110
        entry.standing is not Standing.AGREED
        for house in houses.values()
        for entry in house.leasing.accounts.entries()
    ):
        await asyncio.sleep(0.05)


async def see_that_nothing_is_left(bergen: House, oslo: House) -> None:
    assert await bergen.runner.providers.get("cloud").holdings() == []
    assert await oslo.runner.providers.get("partners").holdings() == []
    assert bergen.leasing.accounts.entries() == oslo.leasing.accounts.entries()
    assert await bergen.leasing.accounts.reconcile() == await oslo.leasing.accounts.reconcile() == {}
