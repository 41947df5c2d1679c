"""A supervised connection survives cuts: with an inner one that fails on demand, and against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridcloud import connections
from gridcloud.clock import ManualClock, SystemClock
from gridcloud.connections import programs
from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.local import LocalConnection
from gridcloud.connections.model import LocalAddress, Port, Socket
from gridcloud.connections.ssh import SSHConnection
from gridcloud.connections.supervisor import Supervised
from gridcloud.errors import ConnectionLost, PortTaken, Unreachable, Untrusted
from gridcloud.testing.connections import Connect, ConnectionContract, answers, echo_server, talk
from gridcloud.testing.sshd import SSHServer

TRUE = Command(("true",))


class TestSupervised(ConnectionContract):
    @pytest.fixture
    async def connect(self, ssh_server: SSHServer, folder: Path) -> Connect:
        address = ssh_server.address(directory=str(folder))
        return lambda: Supervised.open(
            lambda: SSHConnection.open(address, ssh_server.credentials()), patience=5
        )


class Line:
    """Opens connections to this computer that can be cut, and refuses to when told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refusals: list[Exception] = []
        self.opened: list[Cuttable] = []
        self.news: list[tuple[str, str]] = []
        self.changed = asyncio.Event()
        self.clock: ManualClock | None = None
        self.times: list[float] = []

    async def dial(self) -> Connection:
        if self.clock is not None:
            self.times.append(self.clock.monotonic())
        if self.refusals:
            raise self.refusals.pop(0)
        self.opened.append(Cuttable(LocalAddress(directory=str(self.folder))))
        return self.opened[-1]

    def hear(self, state: str, detail: str) -> None:
        self.news.append((state, detail))
        self.changed.set()

    @property
    def states(self) -> list[str]:
        return [state for state, _ in self.news]


class Cuttable(LocalConnection):
    def __init__(self, address: LocalAddress) -> None:
        super().__init__(address)
        self.cut = asyncio.Event()

    async def wait_closed(self) -> None:
        await self.cut.wait()


@pytest.fixture
def line(folder: Path) -> Line:
    return Line(folder)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def supervised(line: Line, clock: ManualClock) -> AsyncIterator[Supervised]:
    opened = await Supervised.open(line.dial, clock=clock, chance=lambda: 1.0)
    opened.on_change(line.hear)
    yield opened
    await opened.close()


async def until(state: str, line: Line) -> None:
    async with asyncio.timeout(10):
        while state not in line.states:
            line.changed.clear()
            await line.changed.wait()


async def test_the_first_refusal_is_raised_at_once(line: Line, clock: ManualClock) -> None:
    line.refusals = [Unreachable("down")]
    with pytest.raises(Unreachable):
        await Supervised.open(line.dial, clock=clock)


async def test_it_comes_back_after_longer_and_longer_pauses(
    line: Line, clock: ManualClock, supervised: Supervised
) -> None:
    line.refusals = [Unreachable("down")] * 4
    line.clock = clock
    line.opened[0].cut.set()
    await clock.until_asleep()
    await clock.advance(8)
    await until("up", line)
    assert line.times == [0, 0.5, 1.5, 3.5, 7.5]
    assert line.states[0] == "lost"
    assert line.states[-1] == "up"
    assert ("reconnecting", "down") in line.news
    assert (await connections.run(supervised, TRUE)).code == 0


async def test_an_action_waits_for_the_connection_a_while(
    line: Line, clock: ManualClock, supervised: Supervised
) -> None:
    line.refusals = [Unreachable("down")] * 100
    line.opened[0].cut.set()
    await until("reconnecting", line)
    waiting = asyncio.ensure_future(supervised.start(TRUE))
    await clock.until_asleep(2)
    await clock.advance(31)
    with pytest.raises(ConnectionLost, match="30 seconds"):
        await waiting
    with pytest.raises(ConnectionLost):
        await supervised.check()


async def test_what_can_never_work_is_final(line: Line, supervised: Supervised) -> None:
    line.refusals = [Untrusted("another key")] * 100
    line.opened[0].cut.set()
    await until("reconnecting", line)
    with pytest.raises(Untrusted):
        await supervised.start(TRUE)
    assert len(line.refusals) == 99
    assert line.news[-1] == ("lost", "another key")


async def test_a_client_that_comes_during_a_cut_is_served_after_it(
    line: Line, clock: ManualClock, supervised: Supervised, here: Path
) -> None:
    async with echo_server(Port()) as echo:
        forward = await supervised.forward(echo, Socket(path=str(here / "s")))
        assert await talk(forward.endpoint, b"before") == b"before"
        line.refusals = [Unreachable("down")]
        line.opened[0].cut.set()
        await until("reconnecting", line)
        during = asyncio.ensure_future(talk(forward.endpoint, b"during"))
        await clock.until_asleep(2)
        await clock.advance(1)
        assert await during == b"during"


async def test_what_listens_there_is_opened_again_at_the_same_place(
    line: Line, clock: ManualClock, supervised: Supervised, here: Path
) -> None:
    async with echo_server(Socket(path=str(here / "echo"))) as echo:
        exposed = await supervised.expose(echo, Port())
        assert await talk(exposed.endpoint, b"before") == b"before"
        line.opened[0].cut.set()
        await until("up", line)
        assert await talk(exposed.endpoint, b"after") == b"after"
        await exposed.close()
        assert not await answers(exposed.endpoint)


async def test_a_port_still_held_by_the_lost_connection_is_tried_again(
    line: Line, clock: ManualClock, supervised: Supervised, here: Path
) -> None:
    async with echo_server(Socket(path=str(here / "echo"))) as echo:
        exposed = await supervised.expose(echo, Port())
        line.refusals = [PortTaken("still held")]
        line.opened[0].cut.set()
        await clock.until_asleep()
        await clock.advance(1)
        await until("up", line)
        assert await talk(exposed.endpoint, b"after") == b"after"


async def test_a_connection_that_cannot_tell_is_asked(line: Line, clock: ManualClock, folder: Path) -> None:
    deaf: list[bool] = []

    class Mute(LocalConnection):
        async def check(self) -> None:
            if deaf:
                deaf.pop()
                raise ConnectionLost("no answer")

    async def dial() -> Connection:
        return Mute(LocalAddress(directory=str(folder)))

    supervised = await Supervised.open(dial, clock=clock)
    supervised.on_change(line.hear)
    deaf = [True]
    await clock.until_asleep()
    await clock.advance(20)
    await clock.until_asleep()
    assert line.states == []  # one silence is no loss
    deaf = [True] * 3
    await clock.advance(60)
    await until("up", line)
    await supervised.close()


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    path = folder / "here"
    path.mkdir()
    return path


async def test_over_ssh_a_lost_server_process_is_replaced_and_all_goes_on(
    ssh_server: SSHServer, folder: Path, here: Path, line: Line
) -> None:
    address = ssh_server.address(directory=str(folder))
    supervised = await Supervised.open(
        lambda: SSHConnection.open(address, ssh_server.credentials()), clock=SystemClock(), patience=10
    )
    supervised.on_change(line.hear)
    async with echo_server(Port()) as echo:
        exposed = await supervised.expose(echo, Port())
        socket = await supervised.expose(echo, Socket(path="s"))
        forward = await supervised.forward(exposed.endpoint, Port())
        command = Command(("sh", "-c", "while [ ! -e end ]; do sleep 0.05; done; echo done"))
        program = await programs.launch(supervised, command, name="p", folder="programs")
        done = await connections.run(supervised, Command(("sh", "-c", "echo $PPID")))
        os.kill(int(done.stdout), 9)
        await until("up", line)
        assert await talk(forward.endpoint, b"again") == b"again"
        assert await talk(Socket(path=str(folder / socket.endpoint.path)), b"again") == b"again"  # type: ignore[union-attr]
        (folder / "end").touch()
        assert b"".join([chunk async for chunk in programs.follow(supervised, program)]) == b"done\n"
    await supervised.close()


async def test_over_ssh_a_client_that_says_nothing_is_hung_up_on_when_the_connection_is_lost(
    ssh_server: SSHServer, folder: Path, here: Path
) -> None:
    address = ssh_server.address(directory=str(folder))
    supervised = await Supervised.open(lambda: SSHConnection.open(address, ssh_server.credentials()))
    async with echo_server(Port()) as echo:
        forward = await supervised.forward(echo, Socket(path=str(here / "s")))
        reader, writer = await asyncio.open_unix_connection(str(here / "s"))
        writer.write(b"here")
        assert await reader.readexactly(4) == b"here"
        done = await connections.run(supervised, Command(("sh", "-c", "echo $PPID")))
        os.kill(int(done.stdout), 9)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        await refused(writer)  # not half of it is left: nothing takes what we say
        assert await talk(forward.endpoint, b"again") == b"again"
    await supervised.close()


async def refused(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"there?")
                await writer.drain()
                await asyncio.sleep(0.01)
    writer.close()


async def test_over_ssh_the_ports_of_a_lingering_server_process_are_freed(
    ssh_server: SSHServer, folder: Path, here: Path
) -> None:
    address = ssh_server.address(directory=str(folder))
    lost = await SSHConnection.open(address, ssh_server.credentials())
    async with echo_server(Port()) as echo:
        taken = await lost.expose(echo, Port())
        await lost.check()
        another = await SSHConnection.open(address, ssh_server.credentials())
        with pytest.raises(PortTaken):
            await another.expose(echo, taken.endpoint)
        await another.supersede(lost)
        async with asyncio.timeout(30):
            await lost.wait_closed()
        again = await another.expose(echo, taken.endpoint)
        assert await talk(again.endpoint, b"x") == b"x"
        await another.close()
        await lost.close()
