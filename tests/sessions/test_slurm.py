"""Commands, sessions and the example in jobs of a real Slurm: as people at a terminal and a hub use them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from gridcloud.connections.model import Socket
from gridcloud.sessions.model import State
from gridcloud.testing.sshd import SSHServer
from tests.houses import ended, story
from tests.labs.slurm import Slurm
from tests.services import make_certificate, open_service
from tests.sessions.visit import begin, fetch, home, over, plan_back
from tests.spawner.kernel import open_kernel
from tests.spawner.test_far import REACH
from tests.spawner.uphouse import UpHouse
from tests.unit.distributions import write_distribution

pytest_plugins = ["tests.labs.fixtures"]
pytestmark = pytest.mark.needs_root

FOAM = Path(__file__).parents[2] / "examples" / "foam" / "foam.py"
DOOR = 18443


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """See that the driver is found by its name, where the tree's own entry points are not installed anew."""
    if not entry_points(group="gridcloud.instances", name="slurm"):
        points = {"slurm": "gridcloud.drivers.instances.slurm:SlurmDriver"}
        folder = write_distribution(tmp_path, "slurm-driver", "instances", points, {})
        monkeypatch.syspath_prepend(folder)
        # What is started as a process of its own finds it likewise.
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    return tmp_path


@pytest.fixture
def login_node(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """How a login node is reached by SSH."""
    folder = tmp_path / "sshd"
    folder.mkdir()
    with SSHServer(folder) as server:
        host = {"host": "127.0.0.1", "port": server.port, "user": server.user, "host_keys": server.host_key}
        yield {"login": host, "key": f"file:{folder / 'user_key'}"}


def run_program(folder: Path, *words: str, seconds: float = 100) -> subprocess.CompletedProcess[bytes]:
    """Run gridcloud as a person does, at the service in ``folder``."""
    environment = {
        **os.environ,
        "GRIDCLOUD_CONFIG": str(folder / "config.yaml"),
        "GRIDCLOUD_DATA": str(folder / "data"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    return subprocess.run(
        [sys.executable, "-m", "gridcloud", *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
    )


async def test_a_session_and_a_command_in_jobs_through_a_login_node(
    tmp_path: Path, quiet_slurm: Slurm, login_node: dict[str, Any]
) -> None:
    async with open_service(tmp_path) as service:
        shared = tmp_path / "it's shared"
        entry = quiet_slurm.entry(service.url, service.certificate, shared, **login_node)
        service.house.settings_file.path.write_text(
            json.dumps(
                {"providers": {"cluster": entry}, "service": service.house.settings().service.model_dump()}
            )
        )
        house = service.house
        async with home() as back:
            session = await begin(house, plan_back(back))
            assert await fetch(session) == b"here"
            assert await fetch(session, "/back") == b"from home"
            assert isinstance(session.remote, Socket)
            (job,) = quiet_slurm.run("squeue", "--noheader", "--states=RUNNING", "--format=%k").split()
            assert job == f"gridcloud:{house.store.installation}:cluster"
            await house.sessions.stop(session.id)
            last = await over(house, session)
        assert last.state is State.ENDED, await story(house, session.id)
        assert (await ended(house, session.instance_id)).handle is None

        (tmp_path / "input.txt").write_text("from here\n")
        words = ("run", "--memory", "128MiB", "--put", "input.txt", "--get", "result.txt", "--", "sh", "-c")
        done = await asyncio.to_thread(
            run_program, tmp_path, *words, "cat input.txt; echo result > result.txt; exit 3"
        )
        assert done.returncode == 3, done
        assert done.stdout == b"from here\n"
        assert (tmp_path / "result.txt").read_text() == "result\n"
        assert await house.providers.get("cluster").holdings() == []
        assert await house.reconciliation.examine() == []
        assert await house.agents.all() == []
        assert not list(shared.glob("*/cluster/instances/*"))


@pytest.mark.lab
@pytest.mark.timeout(600)
async def test_the_example_runs_in_a_job(tmp_path: Path, quiet_slurm: Slurm) -> None:
    async with open_service(tmp_path) as service:
        entry = quiet_slurm.entry(service.url, service.certificate, tmp_path / "shared")
        service.house.settings_file.path.write_text(
            json.dumps(
                {"providers": {"cluster": entry}, "service": service.house.settings().service.model_dump()}
            )
        )
        shutil.copy(FOAM, tmp_path)
        words = ("run", "--cpus", "1", "--memory", "1GiB", "--put", "foam.py", "--get", "foam.json", "--")
        done = await asyncio.to_thread(
            run_program, tmp_path, *words, sys.executable, "foam.py", "--size", "80", seconds=500
        )
        assert done.returncode == 0, done
        result = json.loads((tmp_path / "foam.json").read_text())
        assert abs(result["found_pores"] - result["true_pores"]) <= 0.1 * result["true_pores"]


@pytest.mark.lab
@pytest.mark.timeout(600)
async def test_a_notebook_in_a_job(tmp_path: Path, quiet_slurm: Slurm) -> None:
    """A user of a hub gets JupyterLab in a job, whose kernel reaches the hub."""
    certificate, key = make_certificate(tmp_path)
    entry = quiet_slurm.entry(f"https://localhost:{DOOR}", certificate, tmp_path / "shared")
    door = {"host": "127.0.0.1", "port": DOOR, "certificate": str(certificate), "key": str(key)}
    house = UpHouse(tmp_path, {"cluster": entry}, service=door)
    house.start()
    try:
        async with house.api() as client:
            path = await house.spawn(client, "ada", {"cpus": 1, "memory": "1GiB"})
            (job,) = quiet_slurm.run("squeue", "--noheader", "--states=RUNNING", "--format=%i").split()
            async with open_kernel(client, path) as kernel:
                assert (await kernel.run(REACH)).startswith("ada /")
                assert (await kernel.run("import os; print(os.environ['SLURM_JOB_ID'])")).strip() == job
            await house.stop_server(client, "ada")
    finally:
        house.stop()
