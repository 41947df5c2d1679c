"""Jobs on bad days: the service is killed again and again, the disk is full, a job says things without end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gridcloud.client import AsyncClient, connect_async
from gridcloud.drivers.jobs.local import LocalJobs, LocalJobsSettings
from gridcloud.errors import GridcloudError
from gridcloud.jobs.model import Cause, State
from gridcloud.testing.jobs import JobDriverContract, job_context
from tests.houses import configure, here, machines
from tests.labs.machines import Machine

pytestmark = pytest.mark.timeout(300)

SEED = int(os.environ.get("KILL_SEED", "20"))
KILLS = int(os.environ.get("KILL_POINTS", "2"))
JOBS = 24
EACH_ONCE = Counter(str(number) for number in range(1, JOBS + 1))


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a service as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gridcloud", "serve"),
        *("--data", str(folder / "data"), "--config", str(folder / "config.yaml")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def asking(folder: Path) -> AsyncClient:
    """Return a client once the service answers."""
    async with asyncio.timeout(90):
        while True:
            with contextlib.suppress(GridcloudError):
                return await connect_async(data=folder / "data", config=folder / "config.yaml", alone=True)
            await asyncio.sleep(0.1)


async def suffer(folder: Path, notes: Path) -> None:
    """Have a sweep done while the service is killed again and again; see that each job ran once."""
    script = 'echo "$1" >>"$2"; sleep 0.2; echo "{\\"n\\": $1}" >result.json'
    chance = random.Random(SEED)
    name = ""
    for kill in range(KILLS):
        async with serving(folder) as service:
            async with await asking(folder) as client:
                if not name:
                    wish = {
                        "command": ["sh", "-c", script, "sh", "{n}", str(notes)],
                        "over": [f"n=1..{JOBS}"],
                        "request": {"cpus": 1, "memory": "32MiB"},
                    }
                    name = (await client.jobs.submit(wish)).id
                await asyncio.sleep(chance.uniform(0, 0.6) if kill else 0)
            service.kill()
    async with serving(folder), await asking(folder) as client, asyncio.timeout(120):
        shown = await client.jobs.wait(name)
        assert shown.counts == {State.DONE: JOBS}
        found = [one.results["n"] for one in await client.jobs.results(name)]
    assert found == list(range(1, JOBS + 1))


async def test_killed_again_and_again_no_job_is_lost_or_run_twice(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    configure(tmp_path, {}, schedulers={"here": {"driver": "local", "cpus": 2, "memory": "1GiB"}})
    notes = tmp_path / "notes"
    await suffer(tmp_path, notes)
    assert Counter(notes.read_text().split()) == EACH_ONCE


POOL = {"driver": "instance", "cpus": 2, "memory": "256MiB", "machines": 1, "idle": 1}


async def test_killed_again_and_again_no_machine_is_left(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    configure(tmp_path, {"here": here(cpus=2)}, schedulers={"pool": POOL})
    notes = tmp_path / "notes"
    await suffer(tmp_path, notes)
    assert Counter(notes.read_text().split()) == EACH_ONCE
    await no_machine_is_left(tmp_path)


@pytest.mark.lab
@pytest.mark.needs_root
async def test_killed_again_and_again_over_a_machine_by_ssh(tmp_path: Path, ssh_machine: Machine) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    configure(tmp_path, {"there": machines(ssh_machine)}, schedulers={"pool": POOL})
    await suffer(tmp_path, Path("/tmp/notes"))
    assert Counter(ssh_machine.execute("cat", "/tmp/notes").split()) == EACH_ONCE
    await no_machine_is_left(tmp_path)
    assert "gridcloud-jobs" not in ssh_machine.execute("find", "/root", "/home", "/var/lib", "-name", "grid*")


async def no_machine_is_left(folder: Path) -> None:
    """See that a service ends the machines of jobs, and that no provider holds anything."""
    async with serving(folder), await asking(folder) as client, asyncio.timeout(60):
        while [one for one in await client.instances() if one.scheduler]:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        assert await client.examine() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.needs_root
async def test_how_it_ended_is_told_though_the_disk_is_full(tmp_path: Path, small_disk: Path) -> None:
    settings = LocalJobsSettings(driver="local", directory=str(small_disk))
    driver = LocalJobs(settings, job_context(tmp_path / "scheduler"))
    contract = JobDriverContract()
    try:
        full = contract.job("sh", "-c", "cat /dev/zero >fill; exit 3")
        [seen] = await contract.run(driver, full)
        assert seen.end is not None
        assert (seen.cause, seen.end.exit) == (Cause.EXIT, 3)
        refused = await driver.submit([contract.job("true")])
        assert "No space" in next(iter(refused.values()))
        await driver.remove([full.handle])
        [seen] = await contract.run(driver, again := contract.job("true"))
        assert seen.cause is Cause.NONE
        await driver.remove([again.handle])
    finally:
        await driver.close()


async def test_what_is_said_without_end_is_bounded(tmp_path: Path) -> None:
    driver = LocalJobs(LocalJobsSettings(driver="local"), job_context(tmp_path / "scheduler"))
    contract = JobDriverContract()
    try:
        job = contract.job("yes", log=1 << 20, time=2)
        [seen] = await contract.run(driver, job)
        assert seen.cause is Cause.TIME
        assert sum(path.stat().st_size for path in (tmp_path / "scheduler").rglob("out.log")) < 4 << 20
        await driver.remove([job.handle])
    finally:
        await driver.close()
