"""gridcloud killed at random points of starting, using and stopping jobs of Slurm: no job, folder or agent is left."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gridcloud.service.house import House
from gridcloud.service.process import owning
from tests.bad_days import killing
from tests.bad_days.killing import Point, conclude, kill_at, suffer_each
from tests.bad_days.test_killed import STEPS, VICTIM
from tests.houses import configure
from tests.labs.slurm import Slurm
from tests.services import make_certificate

pytest_plugins = ["tests.labs.fixtures"]
pytestmark = [pytest.mark.lab, pytest.mark.needs_root, pytest.mark.timeout(1800)]

USUAL = 4


@contextlib.asynccontextmanager
async def open_door(folder: Path, _: dict[str, dict[str, Any]]) -> AsyncIterator[House]:
    """Open a house as the victim did, with its door."""
    from gridcloud.settings import SettingsFile

    async with owning(SettingsFile(folder / "config.yaml", {}), folder / "data") as house:
        yield house


async def test_killed_over_jobs(
    tmp_path: Path, quiet_slurm: Slurm, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = quiet_slurm.run(
        *("sbatch", "--parsable", "--job-name=gridcloud-i-stranger", "--mem=10M", "--cpus-per-task=1"),
        *("--output=/dev/null", "--wrap", "sleep 3000"),
    ).strip()
    certificate, key = make_certificate(tmp_path)
    chance = random.Random(f"{killing.SEED} slurm")
    points = [
        Point(number, chance.randint(1, STEPS), chance.uniform(0, 0.4))
        for number in range(killing.count_points(USUAL))
    ]

    async def one(point: Point) -> None:
        folder = tmp_path / f"point{point.number}"
        (folder / "data").mkdir(mode=0o700, parents=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        door = {"host": "127.0.0.1", "port": port, "certificate": str(certificate), "key": str(key)}
        shared = tmp_path / "shared" / str(point.number)
        entry = quiet_slurm.entry(f"https://localhost:{port}", certificate, shared, wait=600)
        configure(folder, {"there": entry}, limits={"orphan": 0}, service=door)
        await kill_at(point, [VICTIM[0], str(folder), *VICTIM[1:]])
        async with open_door(folder, {}) as house:
            point.mended = await killing.mend(house)
            point.leaks = await killing.look(house)
            point.live = len(await house.instances.records.live())
            point.leaks += await killing.end_all(house)
            point.leaks += [f"agent {agent.name}" for agent in await house.agents.all()]

    async def left() -> list[str]:
        jobs = quiet_slurm.run(
            "squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%i %j"
        ).splitlines()
        assert f"{stranger} gridcloud-i-stranger" in jobs, "what is not ours was touched"
        folders = [str(path) for path in tmp_path.glob("shared/*/*/*/instances/*")]
        return [job for job in jobs if not job.startswith(stranger)] + folders

    counts = await suffer_each("slurm", points, one, left)
    quiet_slurm.run("scancel", stranger)
    conclude(counts, capsys)
