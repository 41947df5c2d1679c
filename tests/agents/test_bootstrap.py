"""An agent that is one instance: what a batch job, a pod or a machine without an inbound address runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from gridcloud import connections
from gridcloud.agents.bootstrap import Bootstrap, render_enter
from gridcloud.agents.listing import Listing
from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.model import SSHAddress
from gridcloud.drivers.instances.agent import AgentDriver, AgentSettings
from gridcloud.errors import Conflict, Forbidden, InvalidRequest, NotFound
from gridcloud.instances.driver import Context, JoinedMachine
from gridcloud.testing.instances import read_output
from tests.agents.machines import dialling, enter, until
from tests.services import Service, open_service


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path) as opened:
        yield opened


def listing(service: Service) -> Listing:
    return Listing(service.house.agents, service.house.switchboard)


@contextlib.asynccontextmanager
async def bootstrapped(
    service: Service, folder: Path, token: str, home: Path | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run an agent that is one instance, as a job's script does."""
    file = folder / "token"
    file.touch(mode=0o600)
    file.write_text(token)
    words = [
        *("agent", "bootstrap", service.url, "--ca", str(service.certificate), "--as-root"),
        *("--token-file", str(file), "--state", str(folder / "state")),
        *(("--home", str(home)) if home else ()),
    ]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "SLURM_JOB_ID": "7"}
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gridcloud", *words, stdout=log, stderr=log, env=environment
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def connected(service: Service, name: str, log: Path) -> tuple[JoinedMachine, Connection]:
    await until(lambda: name in service.house.switchboard.present(), log)
    machine = next(one for one in await listing(service).machines() if one.name == name)
    address = SSHAddress(
        host=name,
        socket=machine.socket,
        user=name,
        principal=f"gridcloud-{name}",
        host_keys=(machine.host_key,),
        directory=machine.directory,
        home=machine.home,
    )
    return machine, await connections.open(address, service.house.credentials)


async def test_is_one_instance_and_ends_all_that_ran(service: Service, tmp_path: Path) -> None:
    caps = {"cpus": 2, "memory": 1 << 30}
    token = await listing(service).invite("i-job", "batch", seconds=600, caps=caps)
    home = tmp_path / "home of ada"
    home.mkdir()
    async with bootstrapped(service, tmp_path, token.reveal(), home) as agent:
        machine, connection = await connected(service, "i-job", tmp_path / "log")
        assert machine.instance_of == "batch"
        assert machine.home == str(home)
        assert (
            await read_output(connection, "sh", "-c", "pwd; echo $SLURM_JOB_ID")
            == f"{machine.directory}\n7\n"
        )
        left = "setsid sh -c 'echo $$ >left; trap : TERM; while :; do sleep 1; done' </dev/null >/dev/null 2>&1 &"
        await read_output(connection, "sh", "-c", f"{left} while [ ! -s left ]; do sleep .01; done")
        pid = int(await read_output(connection, "cat", "left"))
        assert psutil.Process(pid).is_running()

        # No other provider takes it for a machine that it may use.
        context = Context("machines", "", tmp_path, connections.open, "", agents=listing(service))  # type: ignore[arg-type]
        others = AgentDriver(AgentSettings(driver="agent"), context)
        assert [finding.message for finding in await others.check()] == ["no machine has joined"]

        # Its name is its own, and only its provider may forget it.
        with pytest.raises(Conflict):
            await listing(service).invite("i-job", "batch", seconds=600, caps=caps)
        with pytest.raises(Forbidden):
            await listing(service).forget("i-job", "other")
        agent.terminate()
        assert await agent.wait() == 143
        assert not psutil.pid_exists(pid)
        assert not (tmp_path / "state").exists()
        await connection.close()
    await listing(service).forget("i-job", "batch")
    await listing(service).forget("i-job", "batch")
    with pytest.raises(NotFound):
        await service.house.agents.get("i-job")


async def test_ends_by_itself_when_its_time_is_over(service: Service, tmp_path: Path) -> None:
    token = await listing(service).invite("i-short", "batch", seconds=600, caps={})
    async with bootstrapped(service, tmp_path, token.reveal()) as agent:
        _, connection = await connected(service, "i-short", tmp_path / "log")
        call = service.house.switchboard.call
        with pytest.raises(InvalidRequest, match="time zone"):
            await call("i-short", "arm", {"at": "2026-01-01T00:00:00"})
        with pytest.raises(InvalidRequest, match="knows no 'create'"):
            await call("i-short", "create", {})
        sleeping = await connection.start(Command(("sleep", "600")))
        await call("i-short", "arm", {"at": (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()})
        async with asyncio.timeout(20):
            assert await agent.wait() == 0
            with contextlib.suppress(Exception):
                assert await sleeping.wait() != 0
        await connection.close()


async def test_leaves_a_service_that_knows_it_no_longer(service: Service, tmp_path: Path) -> None:
    token = await listing(service).invite("i-gone", "batch", seconds=600, caps={})
    way, membership, place = await enter(service, tmp_path / "machine", token)
    here = Bootstrap(membership, tmp_path / "machine", adopt=False)
    await here.start()
    async with dialling(service, way, membership, place, here, forsaken=0.2) as task:
        await listing(service).forget("i-gone", "batch")
        async with asyncio.timeout(20):
            await task
    await here.close()
    assert not service.house.switchboard.present()


def test_no_secret_of_a_batch_system_becomes_a_word() -> None:
    told = {"SLURM_JOB_ID": "7", "SLURM_JWT": "secret", "SLURM_CPUS_ON_NODE": "2", "HOME": "/root"}
    assert render_enter(told) == ("env", "SLURM_CPUS_ON_NODE=2", "SLURM_JOB_ID=7")
    assert render_enter({}) == ()
