"""Jobs on machines of the broker keep the contract of schedulers, and leave no machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.houses import ended, here, open_house

from gridcloud.drivers.jobs.instance import InstanceJobs, InstanceJobsSettings
from gridcloud.instances.model import Instance, State
from gridcloud.jobs.driver import Phase, Stream
from gridcloud.jobs.machines import SchedulerMachines
from gridcloud.jobs.model import Cause
from gridcloud.service.house import House
from gridcloud.settings.request import Request
from gridcloud.testing.jobs import JobDriverContract, job_context

MEBI = 1 << 20
SMALL = {"driver": "instance", "cpus": 0.5, "memory": 512 * MEBI, "machines": 2}


def make(house: House, folder: Path, **settings: Any) -> InstanceJobs:
    """Return a scheduler whose machines come from a house."""
    machines = SchedulerMachines(
        "under-test", house.instances, house.connection_to, house.admitting, house.complete
    )
    context = replace(job_context(folder), machines=machines)
    return InstanceJobs(InstanceJobsSettings.model_validate(SMALL | settings), context)


async def machines_of(house: House) -> list[Instance]:
    """Return the machines that live."""
    return [one for one in await house.instances.records.live() if one.scheduler]


async def end_machines(house: House) -> None:
    """End all machines, and see that nothing is left of them."""
    for machine in await machines_of(house):
        await house.instances.stop(machine.id)
        await ended(house, machine.id)
    assert await house.reconciliation.examine() == []


class TestInstanceJobs(JobDriverContract):
    request: ClassVar[Request] = Request(cpus=0.25, memory=128 * MEBI)

    @pytest.fixture
    async def house(self, tmp_path: Path) -> AsyncIterator[House]:
        async with open_house(tmp_path, {"here": here(cpus=2)}) as house:
            yield house
            await end_machines(house)

    @pytest.fixture
    async def driver(self, house: House, tmp_path: Path) -> AsyncIterator[InstanceJobs]:
        driver = make(house, tmp_path / "scheduler")
        yield driver
        await driver.close()

    async def test_jobs_are_packed_and_machines_end(self, driver: InstanceJobs, house: House) -> None:
        driver.settings = driver.settings.model_copy(update={"idle": 0})
        jobs = [self.job("sh", "-c", f"sleep 1; echo {number}") for number in range(6)]
        assert await driver.submit(jobs) == {}
        assert len(await machines_of(house)) == 2, "two jobs fit on each, and no more machines are allowed"
        assert await driver.keep_house() > 0
        handles = [job.handle for job in jobs]
        seen = await self.ended(driver, handles)
        assert {one.cause for one in seen.values()} == {Cause.NONE}
        assert await driver.keep_house() > 0
        for machine in await machines_of(house):
            await ended(house, machine.id)
        assert await driver.keep_house() == 0
        # What they said outlives their machines.
        assert [await self.said(driver, handle) for handle in handles] == [b"%d\n" % n for n in range(6)]
        assert (await driver.observe(handles[:1]))[handles[0]].end is not None

    async def test_a_lost_machine_loses_its_jobs(self, driver: InstanceJobs, house: House) -> None:
        job = self.job("sh", "-c", "echo begun; sleep 500")
        waits = self.job("true", cpus=0.5)
        await driver.submit([job])
        await self.running(driver, job.handle, b"begun")
        [machine] = await machines_of(house)
        await house.instances.stop(machine.id)
        await ended(house, machine.id)
        await driver.submit([waits])
        seen = await self.ended(driver, [job.handle, waits.handle])
        assert (seen[job.handle].cause, seen[job.handle].begun) == (Cause.MACHINE, True)
        assert seen[waits.handle].cause is Cause.NONE

    async def test_a_job_that_nobody_gives_a_machine_says_why(
        self, driver: InstanceJobs, house: House
    ) -> None:
        job = self.job("true", cpus=1000)
        [seen] = await self.run(driver, job)
        assert (seen.cause, seen.begun) == (Cause.MACHINE, False)
        assert "CPU" in seen.detail

    async def test_what_is_cancelled_before_its_machine_is_there_never_begins(
        self, driver: InstanceJobs, house: House
    ) -> None:
        jobs = [self.job("sh", "-c", "echo begun") for _ in range(3)]
        await driver.submit(jobs)
        handles = [job.handle for job in jobs]
        await driver.cancel(handles)
        seen = await self.ended(driver, handles)
        assert not any(one.end and not one.end.exit for one in seen.values())
        for handle in handles:
            assert await self.said(driver, handle, Stream.OUT) == b""


async def test_machines_of_one_owner_serve_no_other(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"here": here(cpus=2, share_account=True)}) as house:
        driver = make(house, tmp_path / "scheduler")
        contract = JobDriverContract()
        try:
            jobs = [replace(contract.job("true"), owner=owner) for owner in ("ada", "bob", "eve")]
            await driver.submit(jobs)
            machines = await machines_of(house)
            assert {machine.owner for machine in machines} == {"ada", "bob"}
            driver.settings = driver.settings.model_copy(update={"idle": 0})
            async with asyncio.timeout(60):
                while (await driver.observe([jobs[2].handle]))[jobs[2].handle].phase is not Phase.ENDED:
                    await driver.keep_house()
                    await asyncio.sleep(0.2)
            assert State.READY in {machine.state for machine in await machines_of(house)}
            await driver.observe([job.handle for job in jobs])
            await driver.remove([job.handle for job in jobs])
        finally:
            await driver.close()
            await end_machines(house)
