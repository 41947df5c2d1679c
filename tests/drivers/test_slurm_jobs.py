"""Jobs of a real Slurm keep the contract of schedulers: each test's jobs are elements of arrays."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest
from tests.labs.slurm import Slurm
from tests.services import open_service

from gridcloud.drivers.jobs.slurm import SlurmJobs, SlurmJobsSettings, render_script
from gridcloud.errors import InvalidSettings
from gridcloud.jobs.model import Cause, State
from gridcloud.settings.request import Request
from gridcloud.testing.jobs import JobDriverContract, job_context

pytest_plugins = ["tests.labs.fixtures"]


def settings_of(slurm: Slurm, folder: Path) -> SlurmJobsSettings:
    return SlurmJobsSettings.model_validate(
        {
            "driver": "slurm",
            "directory": str(folder),
            "environment": {**slurm.environment, "PATH": os.environ["PATH"]},
            "allow_root": True,
            "array": 50,
        }
    )


async def noted(driver: SlurmJobs, handle: str, name: str) -> str:
    """Return what a job's folder says of its element."""
    return (Path((await driver.place(handle)).folder).parent / name).read_text().strip()


@pytest.mark.lab
@pytest.mark.needs_root
class TestSlurmJobs(JobDriverContract):
    request: ClassVar[Request] = Request(cpus=1, memory=128 << 20)
    impossible: ClassVar[Request] = Request(cpus=1000)
    seconds: ClassVar[float] = 100
    poll: ClassVar[float] = 0.3

    @pytest.fixture
    async def driver(self, quiet_slurm: Slurm, tmp_path: Path) -> AsyncIterator[SlurmJobs]:
        driver = SlurmJobs(settings_of(quiet_slurm, tmp_path / "shared"), job_context(tmp_path / "scheduler"))
        yield driver
        await driver.close()

    async def test_many_are_few_arrays(self, driver: SlurmJobs, quiet_slurm: Slurm) -> None:
        jobs = [self.job("sh", "-c", f"echo {number}") for number in range(60)]
        assert await driver.submit(jobs) == {}
        tokens = {(await noted(driver, job.handle, "token")).split()[0] for job in jobs}
        assert len(tokens) == 2, "50 are the most in one"
        seen = await self.ended(driver, [job.handle for job in jobs])
        assert {one.cause for one in seen.values()} == {Cause.NONE}
        assert [await self.said(driver, job.handle) for job in (jobs[0], jobs[59])] == [b"0\n", b"59\n"]

    async def test_what_slurm_ended_itself_has_its_cause(self, driver: SlurmJobs, quiet_slurm: Slurm) -> None:
        job = self.job("sh", "-c", "echo begun; sleep 500")
        await driver.submit([job])
        await self.running(driver, job.handle, b"begun")
        element = await noted(driver, job.handle, "job")
        quiet_slurm.run("scancel", element)
        seen = (await self.ended(driver, [job.handle]))[job.handle]
        assert seen.cause is Cause.MACHINE

    async def test_an_answer_that_was_lost_makes_no_second_job(
        self, driver: SlurmJobs, quiet_slurm: Slurm
    ) -> None:
        job = self.job("sh", "-c", "echo ran; sleep 1")
        await driver.submit([job])
        (Path((await driver.place(job.handle)).folder).parent / "job").unlink()
        assert await driver.submit([job]) == {}
        await self.ended(driver, [job.handle])
        assert await self.said(driver, job.handle) == b"ran\n"


def test_the_script_of_an_array() -> None:
    script = render_script("/shared/it's", ["j-a-1", "j-b-2"], {"A": "b c"}, "module load python\n")
    assert script == (
        "#!/bin/sh\n# Jobs of gridcloud: an element of the array runs one of them.\numask 077\n"
        "export A='b c'\nmodule load python\nset -- j-a-1 j-b-2\nshift \"$SLURM_ARRAY_TASK_ID\"\n"
        'export GRIDCLOUD_JOB="$1"\n'
        "exec sh '/shared/it'\"'\"'s'/\"$1\"/frame '/shared/it'\"'\"'s'/\"$1\"\n"
    )


@pytest.mark.lab
@pytest.mark.needs_root
async def test_a_sweep_to_its_table(quiet_slurm: Slurm, tmp_path: Path) -> None:
    entry = settings_of(quiet_slurm, tmp_path / "shared").model_dump(mode="json", exclude_defaults=True)
    async with open_service(tmp_path, schedulers={"cluster": entry}) as service, service.admin() as client:
        wish = {
            "command": [
                "sh",
                "-c",
                'echo "{\\"square\\": $(($1 * $1))}" >result.json; [ $1 != 3 ]',
                "sh",
                "{n}",
            ],
            "over": ["n=1..4"],
            "outputs": ["result.json"],
            "request": {"cpus": 1, "memory": "64MiB", "time": "5m"},
        }
        async with asyncio.timeout(100):
            shown = await client.jobs.wait((await client.jobs.submit(wish)).id)
        assert shown.counts == {State.DONE: 3, State.FAILED: 1}
        results = await client.jobs.results(shown.id)
        assert [one.results.get("square") for one in results] == [1, 4, None, 16]
        await client.jobs.fetch(results[3].id, tmp_path / "got")
        assert (tmp_path / "got" / "result.json").read_text() == '{"square": 16}\n'
        assert await client.jobs.clean(shown.id) == 4


async def test_without_slurm_it_says_so(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("sh", "id"):
        (programs / program).symlink_to(f"/usr/bin/{program}")
    settings = SlurmJobsSettings.model_validate(
        {
            "driver": "slurm",
            "directory": str(tmp_path / "shared"),
            "environment": {"PATH": str(programs)},
        }
    )
    driver = SlurmJobs(settings, job_context(tmp_path / "scheduler"))
    try:
        [finding] = await driver.check()
        assert not finding.ok
        assert finding.remedy
        assert not (await driver.offer(Request(), "ada")).possible
    except InvalidSettings:
        pytest.fail("what is wrong is told, not raised")
    finally:
        await driver.close()
