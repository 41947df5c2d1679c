"""The queue of this computer keeps the contract of schedulers, and its own promises."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from gridcloud.drivers.jobs import local_files
from gridcloud.drivers.jobs.local import LocalJobs, LocalJobsSettings
from gridcloud.jobs.driver import Phase
from gridcloud.jobs.model import Cause
from gridcloud.testing.jobs import JobDriverContract, job_context

MEMORY = 1 << 30


class TestLocalJobs(JobDriverContract):
    @pytest.fixture
    async def driver(self, tmp_path: Path) -> AsyncIterator[LocalJobs]:
        settings = LocalJobsSettings(driver="local", cpus=1, memory=MEMORY)
        driver = LocalJobs(settings, job_context(tmp_path / "scheduler"))
        yield driver
        await driver.close()

    async def test_keeps_within_its_cores_and_the_order(self, driver: LocalJobs, tmp_path: Path) -> None:
        note = 'echo "+$1" >>"$2"; sleep 0.3; echo "-$1" >>"$2"'
        jobs = [
            self.job("sh", "-c", note, "sh", str(number), str(tmp_path / "notes"), cpus=cpus)
            for number, cpus in enumerate((0.5, 0.5, 1.0, 0.5))
        ]
        await self.run(driver, *jobs)
        lines = (tmp_path / "notes").read_text().split()
        # The third needs all there is, and holds back the fourth though that would fit.
        assert set(lines[:2]) == {"+0", "+1"}
        assert lines[4:6] == ["+2", "-2"]
        assert lines[6:] == ["+3", "-3"]

    async def test_a_killed_frame_takes_its_job_with_it(self, driver: LocalJobs, tmp_path: Path) -> None:
        job = self.job("sh", "-c", "echo begun; sleep 500")
        await driver.submit([job])
        await self.running(driver, job.handle, b"begun")
        slip = driver._known(job.handle)
        _, frame = local_files.find_frame(slip)
        assert frame is not None
        frame.signal(signal.SIGKILL)
        frame.close()
        seen = (await self.ended(driver, [job.handle]))[job.handle]
        assert seen.cause is Cause.MACHINE
        assert seen.begun
        assert seen.end is None
        assert local_files.end_stragglers({slip.handle: slip}) == 0

    async def test_what_left_its_session_is_ended_with_it(self, driver: LocalJobs) -> None:
        job = self.job("sh", "-c", "setsid sleep 555 >/dev/null 2>&1 & echo $!; sleep 0.2")
        await self.run(driver, job)
        pid = int(await self.said(driver, job.handle))
        async with asyncio.timeout(self.seconds):
            while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def test_last_words_that_are_half_written_are_none(self, driver: LocalJobs) -> None:
        job = self.job("true")
        await self.run(driver, job)
        end = Path(driver._known(job.handle).folder) / "end.json"
        end.write_bytes(end.read_bytes()[:20])
        seen = (await driver.observe([job.handle]))[job.handle]
        assert (seen.phase, seen.end, seen.cause) == (Phase.ENDED, None, Cause.MACHINE)

    async def test_what_a_job_puts_in_the_way_is_not_followed(
        self, driver: LocalJobs, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text("correct horse")
        script = 'ln -s "$1" result.json; rm ../err.log; mkfifo ../err.log; ln -f "$1" ../out.log'
        job = self.job("sh", "-c", script, "sh", str(tmp_path / "secret"))
        await self.run(driver, job)
        for stream in local_files.NAMES:
            assert b"horse" not in await self.said(driver, job.handle, stream)

    async def test_a_number_that_a_job_wrote_is_not_signalled(
        self, driver: LocalJobs, tmp_path: Path
    ) -> None:
        slip = local_files.Slip("j-0123456789ab-1", "", str(tmp_path / "j"), 1, 1, 0, 1)
        (tmp_path / "j" / "begun").mkdir(parents=True)
        born = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        (tmp_path / "j" / "begun" / "pid").write_text(f"{os.getpid()} {born} {local_files.boot_id()}\n")
        assert local_files.find_frame(slip) == (True, None)

    async def test_a_thousand_are_cancelled(self, driver: LocalJobs) -> None:
        jobs = [self.job("sleep", "500", cpus=1) for _ in range(1000)]
        began = time.monotonic()
        assert await driver.submit(jobs) == {}
        handles = [job.handle for job in jobs]
        await driver.cancel(handles)
        seen = await self.ended(driver, handles)
        assert sum(one.begun for one in seen.values()) <= 1
        await driver.remove(handles)
        assert time.monotonic() - began < 60

    async def test_a_full_disk_does_not_keep_its_last_words(self, driver: LocalJobs) -> None:
        job = self.job("sh", "-c", "ls -s ../end.new")
        await self.run(driver, job)
        # Blocks for the last words were taken before the job began.
        assert int((await self.said(driver, job.handle)).split()[0]) >= 4


async def test_jobs_of_others_are_refused_where_they_would_share_an_account(tmp_path: Path) -> None:
    driver = LocalJobs(LocalJobsSettings(driver="local"), job_context(tmp_path / "s"))
    contract = TestLocalJobs()
    try:
        job = replace(contract.job("true"), owner="no such person; rm -rf /")
        assert not (await driver.offer(job.request, job.owner)).possible
        assert "no such person" in (await driver.submit([job]))[job.handle]
        assert await driver.holdings() == []
    finally:
        await driver.close()


@pytest.mark.lab
@pytest.mark.needs_root
class TestLocalJobsAsAnotherAccount(JobDriverContract):
    owner: ClassVar[str] = "ada"

    @pytest.fixture
    async def driver(self, tmp_path: Path, account: str) -> AsyncIterator[LocalJobs]:
        with tempfile.TemporaryDirectory(prefix="gct-jobs-", dir="/var/tmp") as folder:
            Path(folder).chmod(0o711)
            settings = LocalJobsSettings(
                driver="local", cpus=1, memory=MEMORY, directory=folder, accounts={"ada": account}
            )
            driver = LocalJobs(settings, job_context(tmp_path / "scheduler"))
            yield driver
            await driver.close()


@pytest.mark.needs_root
async def test_runs_as_its_owner(tmp_path: Path, account: str) -> None:
    settings = LocalJobsSettings(driver="local", directory=str(tmp_path / "places"))
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o001)
    driver = LocalJobs(settings, job_context(tmp_path / "s"))
    contract = TestLocalJobs()
    try:
        job = replace(contract.job("sh", "-c", "id -un; echo $HOME >result.json"), owner=account)
        [seen] = await contract.run(driver, job)
        assert seen.cause is Cause.NONE, seen
        assert (await contract.said(driver, job.handle)).decode().strip() == account
        await driver.remove([job.handle])
        assert await driver.holdings() == []
    finally:
        await driver.close()
