"""Jobs of a real Slurm as a provider: the contract, what Slurm refuses, and what goes wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.labs.slurm import Slurm
from tests.services import Service, open_service

from gridcloud import connections
from gridcloud.agents.listing import Listing
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.drivers.instances.slurm import SlurmDriver
from gridcloud.drivers.instances.slurm_settings import SlurmSettings
from gridcloud.instances.driver import Context
from gridcloud.instances.model import Request
from gridcloud.testing.instances import InstanceDriverContract

pytest_plugins = ["tests.labs.fixtures"]
pytestmark = [pytest.mark.needs_root]

SMALL = Request(cpus=1, memory=64 << 20, time=300)
Make = Callable[..., SlurmDriver]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path) as opened:
        yield opened


@pytest.fixture
def quiet_slurm(slurm: Slurm) -> Iterator[Slurm]:
    """A Slurm with free nodes, in whose queue the test leaves nothing."""
    slurm.wait_idle()
    yield slurm
    left = slurm.run("squeue", "--noheader", "--format=%i %j %T")
    slurm.run("scancel", "--user=root")
    assert not left


@pytest.fixture
async def make(service: Service, quiet_slurm: Slurm, tmp_path: Path) -> AsyncIterator[Make]:
    """Make a driver of the cluster, closed afterwards."""
    made: list[SlurmDriver] = []
    house = service.house

    async def connect(address: Address) -> Connection:
        return await connections.open(address, house.credentials)

    def make_driver(**settings: Any) -> SlurmDriver:
        folder = tmp_path / "provider"
        folder.mkdir(mode=0o700, exist_ok=True)
        agents = Listing(house.agents, house.switchboard)
        context = Context("cluster", house.store.installation, folder, connect, "", agents=agents)
        values = {
            "driver": "slurm",
            "url": service.url,
            "ca": service.certificate,
            "directory": str(tmp_path / "shared"),
            "command": (sys.executable, "-m", "gridcloud"),
            "environment": quiet_slurm.environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
            "wait": 0,
            "share_account": True,
            "allow_root": True,
        }
        made.append(SlurmDriver(SlurmSettings.model_validate(values | settings), context))
        return made[-1]

    yield make_driver
    for driver in made:
        await driver.close()


class TestSlurm(InstanceDriverContract):
    """The contract, on allocations of one node each."""

    request_: ClassVar[Request] = SMALL
    most = 2

    @pytest.fixture
    async def driver(self, make: Make) -> SlurmDriver:
        return make()
