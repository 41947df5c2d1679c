"""A machine of an owner who is not root, booted from a real image: who may say when it ends, and that it ends."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.drivers.test_qemu import BOOT_SECONDS, Keys
from tests.labs.virtual_machines import image_entry, missing_for_virtual_machines, prepare_image

from gridcloud import connections
from gridcloud.connections.driver import Command
from gridcloud.connections.model import SSHAddress
from gridcloud.drivers.instances.qemu import QEMUDriver
from gridcloud.drivers.instances.qemu_settings import QEMUSettings
from gridcloud.errors import Forbidden, Rejected
from gridcloud.instances.cloud import CloudSettings, arm_machine
from gridcloud.instances.first_boot import ARM, ARM_USER, ENDS, arm, arming_principal_of
from gridcloud.instances.model import Phase, Request, Spec
from gridcloud.testing.instances import driver_context, read_output

# ruff: noqa: ASYNC110 (looks at a machine, which nothing announces)

pytestmark = [pytest.mark.lab, pytest.mark.needs_root, pytest.mark.timeout(900)]


async def test_another_account_says_when_a_machine_ends_and_the_owner_does_not(tmp_path: Path) -> None:
    if missing := missing_for_virtual_machines():
        pytest.skip(f"NOT TESTED: {missing}")
    keys = Keys()
    authority = keys.authority.export_public_key().decode()
    context = driver_context(tmp_path / "provider", keys.connect, user_authority=authority)
    images = {"lab": image_entry(prepare_image())}
    entry = {"driver": "qemu", "images": images, "directory": str(tmp_path / "host"), "sudo": False}
    driver = QEMUDriver(QEMUSettings.model_validate(entry), context)
    request = Request(cpus=2, memory=1024**3)
    (offer,) = await driver.offers(request)
    spec = Spec(id="t-arm", owner="ada", request=request, offer=offer)
    handle = await driver.create(spec)
    try:
        async with asyncio.timeout(60):
            while (seen := (await driver.observe({spec.id: handle}))[spec.id]).phase is Phase.PENDING:
                await asyncio.sleep(0.2)
        assert isinstance(seen.address, SSHAddress)
        owner = await keys.connect_patiently(seen.address)
        whose = {"user": ARM_USER, "principal": arming_principal_of(spec.id)}
        for mixed in (dict([item]) for item in whose.items()):  # one's account with the other's certificate
            with pytest.raises((Forbidden, Rejected)):
                await keys.connect(seen.address.model_copy(update=mixed))
        for words in (("sudo", "-n", "id"), ("sudo", "-n", ARM, "99"), (ARM, "99")):
            assert (await connections.run(owner, Command(words=words), timeout=60)).code, words
        with pytest.raises(Rejected):
            await arm(owner, datetime.now(UTC))
        # As the drivers of clouds do it.
        cloud = CloudSettings.model_validate({"driver": "cloud", "image": "lab", "sudo": False})
        await arm_machine(cloud, context, spec.id, seen.address, datetime.now(UTC) + timedelta(hours=1))
        noted = (await read_output(owner, "cat", ENDS)).split()
        left = float(noted[1]) - float((await read_output(owner, "cat", "/proc/uptime")).split()[0])
        assert 3000 < left <= 3601
        armer = await keys.connect(seen.address.model_copy(update=whose))
        for line in ("sudo -n id", "sudo -n sh -c id", f"rm {ENDS}"):
            assert (await connections.run(armer, Command(words=tuple(line.split())), timeout=60)).code, line
        await armer.close()
        await owner.close()
        await arm_machine(cloud, context, spec.id, seen.address, datetime.now(UTC))
        async with asyncio.timeout(BOOT_SECONDS):  # its timer looks every half minute; a shutdown is emulated
            while (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.RUNNING:
                await asyncio.sleep(1)
    finally:
        await driver.destroy(spec.id, handle)
        await driver.close()
