"""The ground under clouds that boot nothing: real sshd, real checks, gone with the machine."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gridcloud.connections.driver import Command
from gridcloud.connections.model import SSHAddress
from gridcloud.errors import ConnectionLost, Forbidden, Unreachable, Untrusted
from gridcloud.instances.first_boot import FirstBoot, HostKeys, arm, principal_of, render_user_data
from gridcloud.testing.instances import read_output
from tests.labs.ground import Ground, missing_for_ground

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(missing_for_ground() is not None, reason=f"NOT TESTED: {missing_for_ground()}"),
]


async def test_a_machine_from_its_user_data_to_its_end(tmp_path: Path) -> None:
    running: dict[str, str] = {}
    async with Ground(lambda: dict(running)) as ground:
        keys = HostKeys(tmp_path)
        boot = FirstBoot("i-one", keys.key("i-one"), ground.authority.user_authority, user="root")
        running["192.0.2.7"] = render_user_data(boot)
        address = SSHAddress(
            host="192.0.2.7",
            user="root",
            host_keys=(keys.key("i-one").public,),
            principal=principal_of("i-one"),
        )
        connection = await ground.connect(address)
        try:
            assert await read_output(connection, "echo", "hello") == "hello\n"
            at = datetime.now(UTC) + timedelta(minutes=5)
            await arm(connection, at)
            noted = int((await read_output(connection, "cat", "/var/lib/gridcloud-machine/ends")).split()[0])
            assert abs(noted - at.timestamp()) <= 2
            assert ground.armed("192.0.2.7").read_text().split()[0] == str(noted)
            assert not Path("/var/lib/gridcloud-machine").exists()
            with pytest.raises(Untrusted):
                await ground.connect(address.model_copy(update={"host_keys": (keys.key("i-two").public,)}))
            with pytest.raises(Forbidden):
                await ground.connect(address.model_copy(update={"principal": principal_of("i-two")}))
            with pytest.raises(Unreachable):
                await ground.connect(address.model_copy(update={"host": "192.0.2.8"}))
            process = await connection.start(Command(("sleep", "600")))
            running.clear()
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionLost):
                    await process.wait()
        finally:
            await connection.close()
