"""A certificate that ends while it is in use."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from pathlib import Path

import pytest

from gridcloud import connections
from gridcloud.connections.driver import Command
from gridcloud.identity.ssh import SSHCredentials
from gridcloud.sessions.model import State
from tests.houses import link, machines, open_house
from tests.labs.machines import Machine
from tests.sessions.visit import begin, fetch, over


@pytest.mark.lab  # for the time that it takes
@pytest.mark.needs_root
async def test_a_session_outlives_the_certificate_that_it_was_reached_by(
    tmp_path: Path, ssh_machine: Machine
) -> None:
    """The connection goes on, and the next one has a new certificate: the old one would be refused."""
    async with open_house(tmp_path, {"far": machines(ssh_machine)}) as house:
        house.credentials = SSHCredentials(house.authority, seconds=20)
        session = await begin(house)
        instance = await house.instances.records.get(session.instance_id)
        assert getattr(instance.address, "principal", ""), "it is reached by certificate"
        pid = await fetch(session, "/pid")
        await asyncio.sleep(21)
        assert await fetch(session, "/pid") == pid
        there = await link(house, instance)
        assert (await connections.run(there, Command(("echo", "well")))).stdout == b"well\n"
        with contextlib.suppress(subprocess.CalledProcessError):  # the one that it runs by ends, too
            ssh_machine.execute("pkill", "-f", "sshd: .*@")
        async with asyncio.timeout(60):
            assert await fetch(session, "/pid") == pid
        assert (await house.sessions.lives.get(session.id)).state is State.RUNNING
        await house.sessions.stop(session.id)
        assert (await over(house, session)).state is State.ENDED
