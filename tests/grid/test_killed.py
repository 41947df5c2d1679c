"""Lender or borrower is killed by the system at each step of a lease and at any moment; the next one goes on, and
nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gridcloud.errors import GridcloudError
from gridcloud.federation.leases import LentState
from gridcloud.federation.ledger import Standing
from gridcloud.instances.model import FINAL, Request, State
from gridcloud.service.house import House
from gridcloud.testing.instances import read_output
from tests.grid.offices import until
from tests.grid.test_houses import NOTHING, QUICK
from tests.houses import ended, here, link, open_house
from tests.services import free_port

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

POINTS = int(os.environ.get("KILL_POINTS", "4"))
CHANCE = random.Random(int(os.environ.get("KILL_SEED", "20")))
MOMENTS = [CHANCE.uniform(0, 1.5) for _ in range(POINTS)]
TO_LENDER, TO_BORROWER = ("lease.ask", "lease.accept", "lease.end"), ("lease.status", "ledger.claims")
HEARD, SENT = ("comes", "taken"), ("goes", "answered")
STEPS = {
    "Bergen": [
        f"{at} {kind}"
        for ats, kinds in ((HEARD, TO_LENDER), (SENT, TO_BORROWER))
        for kind in kinds
        for at in ats
    ],
    "Oslo": [
        f"{at} {kind}"
        for ats, kinds in ((SENT, TO_LENDER), (HEARD, TO_BORROWER))
        for kind in kinds
        for at in ats
    ],
}


class Pair:
    """Bergen, which lends, and Oslo, which has no room of its own: members of one community, both closed."""

    def __init__(self, folder: Path) -> None:
        self.folders = {name: folder / name[:1] for name in ("Bergen", "Oslo")}
        self.ports = {name: free_port() for name in self.folders}
        for one in self.folders.values():
            one.mkdir()

    def open(self, name: str) -> contextlib.AbstractAsyncContextManager[House]:
        place = f"127.0.0.1:{self.ports[name]}"
        grid: dict[str, Any] = {"listen": place, "addresses": [f"https://{place}"]}
        if name == "Bergen":
            lending = {"providers": ["lent"], "trust_partners": True, **QUICK}
            return open_house(self.folders[name], {"lent": here(cpus=2)}, grid=grid, lending=lending)
        own: dict[str, dict[str, Any]] = {"own": NOTHING, "partners": {"driver": "peer"}}
        return open_house(self.folders[name], own, grid=grid, lending=QUICK)

    async def acquaint(self) -> None:
        async with self.open("Bergen") as bergen, self.open("Oslo") as oslo:
            await bergen.office.init("Bergen")
            await oslo.office.init("Oslo")
            await bergen.office.found("north")
            _, invitation = await bergen.office.invite("north", oslo.office.me)
            await oslo.office.join(invitation, bergen.office.me)
            await until(lambda: oslo.office.me in bergen.office.profiles())
            await until(lambda: bergen.office.me in oslo.office.profiles())

    @contextlib.asynccontextmanager
    async def victim(self, name: str, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run one in a process of its own until it is killed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.grid.victim", str(self.folders[name]), *words),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(60):
                assert (await process.stdout.readline()).strip() == b"open"
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def conclude(self, oslo: House, bergen: House) -> None:
        """See that both sides are done with each other, and agree."""
        await until(lambda: not oslo.leasing.borrowing.leases(), 60)
        await until(
            lambda: all(one.lent.state is LentState.ENDED for one in bergen.leasing.lending.loans()), 60
        )
        for house in (bergen, oslo):
            entries = house.leasing.accounts.entries
            await until(lambda entries=entries: all(one.standing is Standing.AGREED for one in entries()), 90)  # type: ignore[misc]
        assert bergen.leasing.accounts.entries() == oslo.leasing.accounts.entries()
        assert await bergen.instances.records.live() == []
        assert await bergen.providers.get("lent").holdings() == []
        assert await oslo.providers.get("partners").holdings() == []


async def use_and_end(oslo: House, instance_id: str) -> None:
    """Use an instance if it came to be one, and end it."""
    async with asyncio.timeout(60):
        async for instance in oslo.instances.records.follow(instance_id):
            if instance.state is State.READY:
                with contextlib.suppress(GridcloudError):  # its lender may be on its way back
                    assert await read_output(await link(oslo, instance), "echo", "here") == "here\n"
                break
            if instance.state in FINAL:
                return
    await oslo.instances.stop(instance_id)
    await ended(oslo, instance_id, 60)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_the_lender_is_killed(tmp_path: Path, moment: float) -> None:
    pair = Pair(tmp_path)
    await pair.acquaint()
    async with pair.open("Oslo") as oslo:
        async with pair.victim("Bergen"):
            instance = await oslo.instances.submit("ada", Request(cpus=0.25, memory=64 << 20))
            await asyncio.sleep(moment)
        async with pair.open("Bergen") as bergen:
            await use_and_end(oslo, instance.id)
            await pair.conclude(oslo, bergen)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_the_borrower_is_killed(tmp_path: Path, moment: float) -> None:
    pair = Pair(tmp_path)
    await pair.acquaint()
    async with pair.open("Bergen") as bergen:
        async with pair.victim("Oslo", "i-abcdefgh"):
            await asyncio.sleep(moment)
        async with pair.open("Oslo") as oslo:
            with contextlib.suppress(GridcloudError):
                await use_and_end(oslo, "i-abcdefgh")
            await pair.conclude(oslo, bergen)


async def _killed(victim: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(90):
        assert await victim.wait() == -signal.SIGKILL, "it never came to that step"


@pytest.mark.parametrize("step", STEPS["Bergen"])
async def test_the_lender_is_killed_at_a_step(tmp_path: Path, step: str) -> None:
    pair = Pair(tmp_path)
    await pair.acquaint()
    async with pair.open("Oslo") as oslo:
        async with pair.victim("Bergen", "", step) as victim:
            instance = await oslo.instances.submit("ada", Request(cpus=0.25, memory=64 << 20))
            using = asyncio.create_task(use_and_end(oslo, instance.id))
            await _killed(victim)
        async with pair.open("Bergen") as bergen:
            await using
            await pair.conclude(oslo, bergen)


@pytest.mark.parametrize("step", STEPS["Oslo"])
async def test_the_borrower_is_killed_at_a_step(tmp_path: Path, step: str) -> None:
    pair = Pair(tmp_path)
    await pair.acquaint()
    async with pair.open("Bergen") as bergen:
        async with pair.victim("Oslo", "i-abcdefgh", step) as victim:
            await _killed(victim)
        async with pair.open("Oslo") as oslo:
            await use_and_end(oslo, "i-abcdefgh")
            await pair.conclude(oslo, bergen)
