"""A connection that survives cuts: it reconnects, and its forwards stay open meanwhile.

What listens here is ours and stays: a client that arrives while the connection is down waits for it. What listens
there is opened again at the same place. A command that ran when the connection was cut is lost and says so; what
must outlive a cut is started as a detached program (`gridcloud.connections.programs`).
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gridcloud.clock import Clock, SystemClock
from gridcloud.connections.driver import (
    Command,
    Connection,
    Ending,
    ForkServing,
    Forward,
    Process,
    Progress,
    Superseding,
)
from gridcloud.connections.model import Endpoint, Socket
from gridcloud.connections.relay import Dialing, Reader, Writer, dial_here, relay
from gridcloud.errors import ConnectionLost, GridcloudError, NotFound, PortTaken, Rejected

__all__ = ["State", "Supervised"]

State = Literal["up", "lost", "reconnecting"]

_FIRST = 0.5  # seconds before the second try; doubled each time
_LONGEST = 30.0
_INTERVAL = 15.0  # seconds between checks of a connection that does not notice its end by itself
_MISSED = 3


@dataclass(slots=True)
class _Exposed:
    """Something of ours that listens there, and how it is open at the moment."""

    local: Endpoint
    remote: Endpoint
    open: Forward


class Supervised(Connection):
    """Wraps what opens a connection. ``patience`` is how many seconds an action waits for a lost one to return."""

    def __init__(
        self,
        dial: Callable[[], Awaitable[Connection]],
        *,
        clock: Clock | None = None,
        patience: float = 30.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._dial = dial
        self._clock = clock or SystemClock()
        self._patience = patience
        self._chance = chance
        self._listeners: list[Callable[[State, str], None]] = []
        self._connection: Connection | None = None
        self._changed = asyncio.Event()
        self._failure: GridcloudError | None = None
        self._watch: asyncio.Task[None] | None = None
        self._forwards: list[Forward] = []
        self._exposed: list[_Exposed] = []
        self._inner: dict[str, asyncio.Task[Forward]] = {}
        self._folder: Path | None = None
        self._closed = False
        self.state: State = "reconnecting"

    @classmethod
    async def open(
        cls,
        dial: Callable[[], Awaitable[Connection]],
        *,
        clock: Clock | None = None,
        patience: float = 30.0,
        chance: Callable[[], float] = random.random,
    ) -> Supervised:
        """Connect for the first time and watch over it from then on. Raises what ``dial`` raises."""
        supervised = cls(dial, clock=clock, patience=patience, chance=chance)
        supervised._connection = await dial()
        supervised._tell("up", "")
        supervised._watch = asyncio.ensure_future(supervised._supervise())
        return supervised

    def on_change(self, listener: Callable[[State, str], None]) -> None:
        """Call ``listener`` with the new state and what happened, from now on."""
        self._listeners.append(listener)

    async def start(self, command: Command) -> Process:
        return await (await self._current()).start(command)

    async def put(self, source: Path, target: str, progress: Progress | None = None) -> None:
        await (await self._current()).put(source, target, progress)

    async def get(self, source: str, target: Path, progress: Progress | None = None) -> None:
        await (await self._current()).get(source, target, progress)

    async def fork(self, command: Command, log: str) -> int | None:
        """As `ForkServing.fork`, where the connection can."""
        connection = await self._current()
        return await connection.fork(command, log) if isinstance(connection, ForkServing) else None

    async def forward(self, remote: Endpoint, local: Endpoint) -> Forward:
        async def dial() -> tuple[Reader, Writer]:
            connection = await self._current()
            if isinstance(connection, Dialing):
                return await connection.dial(remote)
            return await dial_here((await self._through(connection, remote)).endpoint)

        forward = await relay(local, dial)
        self._forwards.append(forward)
        return forward

    async def expose(self, local: Endpoint, remote: Endpoint) -> Forward:
        connection = await self._current()
        opened = await connection.expose(local, remote)
        exposed = _Exposed(local, opened.endpoint, opened)
        self._exposed.append(exposed)

        async def close() -> None:
            if exposed in self._exposed:
                self._exposed.remove(exposed)
                await exposed.open.close()

        return Forward(opened.endpoint, close)

    async def check(self) -> None:
        if self._connection is None:
            raise self._failure or ConnectionLost("The connection is lost; it is being opened again.")
        await self._connection.check()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        for forward in self._forwards:
            await forward.close()
        await self._leave(self._connection)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _current(self) -> Connection:
        """Return the connection, waiting for a lost one to return. Raises ConnectionLost, or why it never will."""
        if self._connection is None and not self._closed and self._failure is None:
            waiting = asyncio.ensure_future(self._until_changed())
            patience = asyncio.ensure_future(self._clock.sleep(self._patience))
            try:
                await asyncio.wait([waiting, patience], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (waiting, patience):
                    task.cancel()
                await asyncio.gather(waiting, patience, return_exceptions=True)
        if self._failure is not None:
            raise self._failure
        if self._connection is None or self._closed:
            how = (
                "is closed"
                if self._closed
                else f"is lost and did not return within {self._patience:g} seconds"
            )
            raise ConnectionLost(f"The connection {how}.")
        return self._connection

    async def _until_changed(self) -> None:
        while self._connection is None and self._failure is None and not self._closed:
            self._changed.clear()
            await self._changed.wait()

    async def _through(self, connection: Connection, remote: Endpoint) -> Forward:
        """Return the present connection's own forward to ``remote``: a socket that nobody else can reach."""
        key = remote.model_dump_json()
        opening = self._inner.get(key)
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception() is not None)):
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="gridcloud-"))  # mode 0700
            socket = Socket(path=str(self._folder / f"{self._clock.new_id('f')}"))
            opening = self._inner[key] = asyncio.ensure_future(connection.forward(remote, socket))
        return await asyncio.shield(opening)

    async def _supervise(self) -> None:
        while self._connection is not None:
            await self._until_lost(self._connection)
            lost, self._connection = self._connection, None
            self._tell("lost", "The connection was lost.")
            await self._leave(lost)
            await self._reconnect(lost)

    async def _until_lost(self, connection: Connection) -> None:
        if isinstance(connection, Ending):
            await connection.wait_closed()
            return
        missed = 0
        while missed < _MISSED:
            await self._clock.sleep(_INTERVAL)
            try:
                await connection.check()
                missed = 0
            except GridcloudError:
                missed += 1

    async def _reconnect(self, lost: Connection) -> None:
        tries = 0
        while self._connection is None:
            if tries:
                pause = min(_LONGEST, _FIRST * 2 ** (tries - 1))
                await self._clock.sleep(pause * (0.5 + self._chance() / 2))  # not everybody at once
            tries += 1
            self._tell("reconnecting", f"Try {tries}.")
            try:
                self._connection = await self._open_again(lost)
            except GridcloudError as error:
                if isinstance(error, (Rejected, NotFound)) and not isinstance(error, PortTaken):
                    self._failure = error
                    self._tell("lost", str(error))
                    return
                self._tell("reconnecting", str(error))
        self._tell("up", "")

    async def _open_again(self, lost: Connection) -> Connection:
        connection = await self._dial()
        try:
            if isinstance(connection, Superseding):
                await connection.supersede(lost)
            for exposed in self._exposed:
                exposed.open = await connection.expose(exposed.local, exposed.remote)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _leave(self, connection: Connection | None) -> None:
        """Let go of a connection, dead or alive."""
        forwards, self._inner = list(self._inner.values()), {}
        for opening in forwards:
            opening.cancel()
        await asyncio.gather(*forwards, return_exceptions=True)
        if connection is not None:
            try:
                await asyncio.wait_for(connection.close(), 10)
            except (TimeoutError, GridcloudError):  # it is lost: there is nobody to say goodbye to
                return

    def _tell(self, state: State, detail: str) -> None:
        self.state = state
        self._changed.set()
        for listener in self._listeners:
            listener(state, detail)
