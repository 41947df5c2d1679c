"""Cuts of a real network: machines of their own whose packets vanish."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.labs.machines import Lab, Machine

from gridcloud import connections
from gridcloud.connections import programs
from gridcloud.connections.driver import Command
from gridcloud.connections.model import Port, SSHAddress
from gridcloud.connections.ssh import SSHConnection, Timing
from gridcloud.connections.supervisor import Supervised
from gridcloud.errors import ConnectionLost, Unreachable
from gridcloud.testing.connections import Connect, ConnectionContract, FileCredentials, echo_server, talk

pytestmark = pytest.mark.needs_root

QUICK = Timing(connect=1.0, keepalive=0.2, missed=3)


def address_of(machine: Machine, **changes: object) -> SSHAddress:
    known = {
        "host": machine.host,
        "port": machine.port,
        "user": machine.user,
        "host_keys": (machine.host_key,),
    }
    return SSHAddress.model_validate(known | changes)


@pytest.fixture(scope="class")
def pair(ssh_lab: Lab) -> Iterator[tuple[Machine, Machine]]:
    """Two machines, the second behind the first, which the tests of a class share."""
    gate = asyncio.run(ssh_lab.start(ssh_lab.unused_name()))
    hidden = asyncio.run(ssh_lab.start(ssh_lab.unused_name(), behind=gate, root_login=False))
    yield gate, hidden
    for machine in (hidden, gate):
        ssh_lab.stop(machine)


class TestMachineBehindAnother(ConnectionContract):
    """As an ordinary user of a machine that only another machine reaches."""

    @pytest.fixture
    def connect(self, pair: tuple[Machine, Machine]) -> Connect:
        gate, hidden = pair
        folder = hidden.execute("runuser", "-u", "user", "--", "mktemp", "-d", "-p", "/home/user").strip()
        address = address_of(hidden, jump=address_of(gate), directory=folder)
        return lambda: connections.open(address, FileCredentials(hidden.private_key))


async def test_a_black_hole_is_noticed_and_the_connection_comes_back(ssh_machine: Machine) -> None:
    credentials = FileCredentials(ssh_machine.private_key)
    address = address_of(ssh_machine)
    news: asyncio.Queue[str] = asyncio.Queue()
    supervised = await Supervised.open(lambda: SSHConnection.open(address, credentials, QUICK), patience=20)
    supervised.on_change(lambda state, _: news.put_nowait(state))
    async with echo_server(Port()) as echo:
        exposed = await supervised.expose(echo, Port())
        forward = await supervised.forward(exposed.endpoint, Port())
        assert await talk(forward.endpoint, b"before") == b"before"
        count = "n=0; while [ $n -lt 60 ]; do n=$((n+1)); echo $n; sleep 0.05; done"
        program = await programs.launch(supervised, Command(("sh", "-c", count)), name="p", folder="/tmp/p")
        process = await supervised.start(Command(("sleep", "60")))
        ssh_machine.cut()
        async with asyncio.timeout(10):
            assert await news.get() == "lost"
        with pytest.raises(ConnectionLost):
            await process.wait()
        waiting = asyncio.ensure_future(talk(forward.endpoint, b"during"))
        waiting_too = asyncio.ensure_future(connections.run(supervised, Command(("echo", "here"))))
        await asyncio.sleep(0.3)
        ssh_machine.heal()
        # The server's process of the lost connection still holds the port: it is ended first.
        assert await waiting == b"during"
        assert (await waiting_too).stdout == b"here\n"
        log = b"".join([chunk async for chunk in programs.follow(supervised, program)])
        assert log == b"".join(b"%d\n" % n for n in range(1, 61))
    await supervised.close()


async def test_a_short_cut_is_not_even_noticed(ssh_machine: Machine) -> None:
    connection = await SSHConnection.open(address_of(ssh_machine), FileCredentials(ssh_machine.private_key))
    process = await connection.start(Command(("cat",)))
    ssh_machine.cut()
    await process.write(b"through")
    await asyncio.sleep(0.3)
    ssh_machine.heal()
    async with asyncio.timeout(20):
        assert await anext(process.stdout()) == b"through"
    await connection.close()


async def test_power_loss_is_told_and_the_machine_is_then_unreachable(
    ssh_machine: Machine, tmp_path: Path
) -> None:
    credentials = FileCredentials(ssh_machine.private_key)
    connection = await SSHConnection.open(address_of(ssh_machine), credentials, QUICK)
    process = await connection.start(Command(("sleep", "60")))
    (tmp_path / "big").write_bytes(bytes(50 << 20))
    copying = asyncio.ensure_future(connection.put(tmp_path / "big", "big"))
    ssh_machine.kill()
    async with asyncio.timeout(15):
        with pytest.raises(ConnectionLost):
            await copying
        with pytest.raises(ConnectionLost):
            await process.wait()
        with pytest.raises(Unreachable):
            await SSHConnection.open(address_of(ssh_machine), credentials, QUICK)
        await connection.close()
