"""The oci driver's contract: Oracle's books on our server, and a real sshd behind each machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.labs.ground import Ground, missing_for_ground
from tests.labs.oracle import Oracle

from gridcloud.drivers.instances.oci import OCIDriver
from gridcloud.drivers.instances.oci_settings import OCISettings
from gridcloud.errors import NotFound, Untrusted
from gridcloud.instances.first_boot import HostKeys
from gridcloud.instances.model import Phase
from gridcloud.testing.instances import InstanceDriverContract, read_output

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(missing_for_ground() is not None, reason=f"NOT TESTED: {missing_for_ground()}"),
]

SHAPE = "VM.Standard.E4.Flex"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Oracle]:
    with Oracle() as cloud:
        cloud.tenancy.seconds = 0.05
        cloud.tenancy.add_compartment("lab")
        cloud.tenancy.hosts[SHAPE] = 114  # of each availability domain: one machine of the largest size
        yield cloud


@pytest.fixture(scope="module")
def config(cloud: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cloud.write_config(tmp_path_factory.mktemp("oci"))


@pytest.fixture
async def ground(cloud: Oracle) -> AsyncIterator[Ground]:
    async with Ground(cloud.look) as ground:
        yield ground


class TestOCIDriver(InstanceDriverContract):
    most = 3

    @pytest.fixture
    async def driver(
        self, cloud: Oracle, config: Path, ground: Ground, tmp_path: Path
    ) -> AsyncIterator[OCIDriver]:
        settings = OCISettings(
            driver="oci",
            compartment="lab",
            config_file=config,
            image="Canonical-Ubuntu-24.04-*",
            shapes=(SHAPE,),
            allow_from=("192.0.2.0/24",),
            endpoint=cloud.url,
            user="root",
        )
        driver = OCIDriver(settings, ground.context(tmp_path / "driver"))
        yield driver
        await driver.close()

    async def test_a_machine_notes_when_it_ends_itself(self, driver: OCIDriver, ground: Ground) -> None:
        spec = await self.spec(driver)
        handle = await driver.create(spec)
        address = (await self.running(driver, spec, handle)).address
        assert address is not None
        at = datetime.now(UTC) + timedelta(minutes=7)
        await driver.arm(spec.id, handle, at)
        connection = await self.connect(driver, address)
        try:
            said = await read_output(connection, "cat", "/var/lib/gridcloud-machine/ends")
        finally:
            await connection.close()
        assert abs(int(said.split()[0]) - at.timestamp()) <= 2
        await driver.destroy(spec.id, handle)
        with pytest.raises(NotFound):
            await driver.arm(spec.id, handle, at)

    async def test_another_host_key_is_not_believed(self, driver: OCIDriver) -> None:
        spec = await self.spec(driver)
        handle = await driver.create(spec)
        other = HostKeys(driver.context.folder).key("t-other").public
        forged = handle.model_copy(update={"data": {**handle.data, "host_key": other}})
        seen = await self.running(driver, spec, forged)
        assert seen.address is not None
        with pytest.raises(Untrusted):
            await self.connect(driver, seen.address)

    async def test_the_network_waits_for_machines_on_their_way_out(
        self, driver: OCIDriver, cloud: Oracle
    ) -> None:
        spec = await self.spec(driver)
        handle = await driver.create(spec)
        await self.running(driver, spec, handle)
        cloud.tenancy.seconds = 1
        try:
            await driver.destroy(spec.id, handle)
        finally:
            cloud.tenancy.seconds = 0.05
        assert await self.phase(driver, spec, handle) is Phase.GONE
        async with asyncio.timeout(10):
            await driver.destroy("shared", None)
        assert await driver.holdings() == []
