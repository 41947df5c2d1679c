"""A connection into a container, through its engine's API: nothing of the container is published to a network.

A command is an `exec` of the engine. Files go as a tar stream through `tar` there, so that they are the
container's user's own. Ports, in both directions, go through one relay program there (`multiplexer`).
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Awaitable, Callable
from typing import Any, Self

from gridcloud.connections.container_ports import BOOT, Relaying
from gridcloud.connections.container_process import ContainerProcess
from gridcloud.connections.driver import Command, Process
from gridcloud.connections.engine import Engine
from gridcloud.connections.environment import check_command, encode_command
from gridcloud.connections.model import ContainerAddress
from gridcloud.connections.relayed import RelayedConnection
from gridcloud.connections.shell import KEEPER, START
from gridcloud.errors import ConnectionLost, GridcloudError, NotFound, Rejected, Unreachable

__all__ = ["ContainerConnection"]

# Within a terminal the header must be neither echoed nor taken for a line of at most 4 KiB.
TERMINAL_START = "stty -icanon -echo 2>/dev/null; echo ready; " + START


class ContainerConnection(RelayedConnection):
    """A connection to one running container. `open` makes it."""

    def __init__(self, address: ContainerAddress, engine: Engine) -> None:
        self.address = address
        self._engine = engine
        self._short = address.container[:12]
        super().__init__(f"container {self._short}")
        self._keeper: asyncio.Task[ContainerProcess] | None = None
        self._relaying: asyncio.Task[Relaying] | None = None
        self._processes: set[ContainerProcess] = set()
        self._closed = False

    @classmethod
    async def open(cls, address: ContainerAddress) -> Self:
        """Return a connection to a container that runs. Raises Unreachable, Forbidden, InvalidSettings."""
        connection = cls(address, Engine(address.engine))
        try:
            await connection.check()
        except BaseException:
            await connection._engine.close()
            raise
        return connection

    async def start(self, command: Command) -> Process:
        check_command(command.words, command.environment)
        self._check_open()
        keeper = await self._once("_keeper", self._start_keeper)
        process = await self._begin(command)
        try:
            # Registered before it may go on: from here on the keeper ends it, whatever happens to us.
            await keeper.write(f"+ {process.session}\n".encode())
            process.on_end = lambda: keeper.write(f"- {process.session}\n".encode())
            process.on_signal = lambda name: keeper.write(f"signal {name} {process.session}\n".encode())
            await process.write(b"go\n")
        except BaseException:
            await process.abandon()
            raise
        return process

    async def check(self) -> None:
        self._check_open()
        relay = self._relaying
        if relay is not None and relay.done() and not (relay.exception() or relay.result().alive):
            raise ConnectionLost(f"The relay in container {self._short} has ended.")
        try:
            async with asyncio.timeout(10):
                why = await self._why_stopped()
        except (TimeoutError, Unreachable) as error:
            raise ConnectionLost(f"Container {self._short} cannot be asked for: {error}") from error
        if why:
            raise ConnectionLost(why)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._close_forwards()
        if self._relaying is not None:
            await self._quietly(self._end_relay(self._relaying))
        if self._keeper is not None:
            await self._quietly(self._end_all(self._keeper))
        await asyncio.gather(*(process.abandon() for process in list(self._processes)))
        await self._engine.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionLost(f"The connection to container {self._short} is closed.")

    async def _begin(self, command: Command) -> ContainerProcess:
        terminal = command.terminal is not None
        directory = posixpath.join(self.address.directory, command.directory)
        header = b"gridcloud\n" + encode_command(
            command.words, command.environment, directory, raw=command.raw
        )
        process = await self._execute(TERMINAL_START if terminal else START, terminal)
        try:
            if command.terminal:
                await process.resize(command.terminal)
                await process.first_line()
            await process.write(header)
            said = await process.first_line()
            token, _, session = said.partition(b" ")
            if token != b"gridcloud":
                raise await self._refusal(process, said)
            if not session.isdigit():
                raise NotFound(f"There is no folder {directory!r} to work in.", remedy="Make it first.")
            process.session = int(session)
        except BaseException:
            await process.abandon()
            raise
        return process

    async def _execute(self, program: str, terminal: bool) -> ContainerProcess:
        body: dict[str, Any] = {
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": terminal,
            "Cmd": ["/bin/sh", "-c", program],
        }
        if self.address.user:
            body["User"] = self.address.user
        try:
            made = await self._engine.call("POST", f"/containers/{self.address.container}/exec", body)
            streams = await self._engine.stream(
                f"/exec/{made['Id']}/start", {"Detach": False, "Tty": terminal}
            )
        except GridcloudError as error:
            why = await self._why_lost(error)
            if why or isinstance(error, Unreachable):
                raise ConnectionLost(why or str(error)) from error
            raise
        process = ContainerProcess(self._engine, made["Id"], streams, terminal, self._why_stopped)
        process.on_close = self._processes.discard
        self._processes.add(process)
        return process

    async def _refusal(self, process: ContainerProcess, said: bytes) -> GridcloudError:
        """Why a command could not even begin: the engine says so in place of the command's output."""
        rest = (said + await process.rest()).decode(errors="replace").strip()
        why = await self._why_stopped()
        if why:
            return ConnectionLost(why)
        return Rejected(
            f"Container {self._short} cannot run /bin/sh: {rest or 'the engine does not say why'}"
        )

    async def _once(self, name: str, start: Callable[[], Awaitable[Any]]) -> Any:
        """Return what ``start`` gives, started at most once, whoever asks first; a failed start is tried again."""
        task = getattr(self, name)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.ensure_future(start())
            setattr(self, name, task)
        return await asyncio.shield(task)

    async def _start_keeper(self) -> ContainerProcess:
        """Start what signals processes, and ends all of them when we are gone, however that came."""
        keeper = await self._execute(KEEPER, False)
        await keeper.write(b"keeper\n")
        await keeper.first_line()
        return keeper

    async def _end_all(self, starting: asyncio.Task[ContainerProcess]) -> None:
        keeper = await starting
        await keeper.close_input()
        # Output that nobody reads would keep an engine from noticing that a command, even the keeper, has ended.
        others = [process for process in self._processes if process is not keeper]
        await asyncio.gather(*(process.abandon() for process in others))
        async with asyncio.timeout(5):
            await keeper.wait()

    async def _relay(self) -> Relaying:
        relaying: Relaying = await self._once("_relaying", self._start_relay)
        if not relaying.alive:
            raise ConnectionLost(f"The relay in container {self._short} has ended.")
        return relaying

    async def _start_relay(self) -> Relaying:
        process = await self.start(Command(("python3", "-c", BOOT)))
        relaying = Relaying(process, f"Container {self._short}")
        await relaying.begin()
        return relaying

    async def _end_relay(self, starting: asyncio.Task[Relaying]) -> None:
        relaying = await starting
        await relaying.end()

    async def _why_stopped(self) -> str:
        """Return why the container does not run, "" when it does. Raises Unreachable."""
        try:
            state = (await self._engine.call("GET", f"/containers/{self.address.container}/json"))["State"]
        except NotFound:
            return f"Container {self._short} is gone."
        if state.get("Running"):
            return f"Container {self._short} is paused." if state.get("Paused") else ""
        why = (
            "used more memory than it has"
            if state.get("OOMKilled")
            else f"ended with {state.get('ExitCode')}"
        )
        return f"Container {self._short} {why}."

    async def _why_lost(self, error: GridcloudError) -> str:
        try:
            return await self._why_stopped()
        except GridcloudError:
            return str(error)
