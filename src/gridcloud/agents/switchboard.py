"""Where machines that dial out are connected: their control connections, and a Unix socket that leads to each.

A machine's control connection carries SSH, reversed: the machine is the server, whose key was pinned when it joined,
and we are the client, with a certificate of our authority for that machine. So nothing in between, TLS ended early or
a relay, can steer a machine or read along. Who connects to a machine's socket here has it dial another connection, in
which it is an SSH server once more (`gridcloud.agents.serving`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncssh
from pydantic import ValidationError

from gridcloud.agents.exchange import BEAT, SILENCE, UNASKED, Exchange, plain
from gridcloud.agents.model import PROTOCOL, Agent, Report, State, principal_of
from gridcloud.agents.registry import Registry
from gridcloud.agents.splicing import MESSAGE, Messages, pair, splice
from gridcloud.clock import Clock
from gridcloud.connections.batching import Direct
from gridcloud.connections.driver import Credentials
from gridcloud.connections.model import Socket, SSHAddress
from gridcloud.connections.relay import listen_here
from gridcloud.connections.trust import Witness, host_key_kinds, known_hosts, understood, untrusted
from gridcloud.errors import (
    ConnectionLost,
    GridcloudError,
    NotAuthenticated,
    NotFound,
    TimedOut,
    Unreachable,
    Untrusted,
)

__all__ = ["LOGIN", "Presence", "Switchboard"]

log = logging.getLogger(__name__)

LOGIN = 15.0
"""Seconds for a machine that connects to prove that it is the one, and to report."""
STREAM = 30.0
"""Seconds for which the secret of a stream is good."""
KNOCKING = 256
"""Machines that connect and have not proved anything yet, at most; `ALIKE` of each name and address.

Who comes when there are as many takes the place of who has waited longest: a machine proves itself in a moment, so that
strangers who only wait keep nobody out.
"""
ALIKE = 2
STREAMS = 256
"""Streams of one machine at the same time."""


@dataclass(slots=True)
class Presence:
    """A machine that is connected."""

    name: str
    address: str
    since: datetime
    report: Report
    host_key: str


@dataclass(eq=False, slots=True)
class _Line:
    presence: Presence
    exchange: Exchange
    authority: str
    """Whose certificates the machine believes, as a public key line."""
    task: asyncio.Task[Any] = field(init=False)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    streams: set[asyncio.Task[Any]] = field(default_factory=set)
    ready: bool = False
    replaced: bool = False


@dataclass(eq=False, slots=True)
class _Expected:
    """A stream that a machine was told to dial."""

    hash: bytes
    taken: asyncio.Future[Messages]
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Switchboard:
    """The machines that are connected now. ``folder`` (0700, a short path) holds their sockets."""

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        credentials: Credentials,
        clock: Clock,
        *,
        beat: float = BEAT,
        silence: float = SILENCE,
    ) -> None:
        self._folder = folder
        self._registry = registry
        self._credentials = credentials
        self._clock = clock
        self._beat = beat
        self._silence = silence
        self._lines: dict[str, _Line] = {}
        self._expected: dict[str, _Expected] = {}
        self._knocking: dict[asyncio.Timeout, str] = {}
        self._lost: dict[str, str] = {}

    def present(self) -> Mapping[str, Presence]:
        """Return the machines that are connected, by name."""
        return {name: line.presence for name, line in self._lines.items() if line.ready}

    def absence(self, name: str) -> str:
        """Say why a machine is not connected; empty when it is."""
        line = self._lines.get(name)
        if line is not None and line.ready:
            return ""
        return self._lost.get(name) or "it has not connected since this service started"

    def socket_to(self, name: str) -> Path:
        """Return the socket that leads to a machine while it is connected; the same one each time."""
        place = f"{self._folder}\0{name}".encode()
        return self._folder / f"{hashlib.sha256(place).hexdigest()[:12]}.sock"

    async def call(self, name: str, call: str, arguments: Mapping[str, Any], timeout: float = 8.0) -> Any:
        """Have a machine do something; return its answer. Raises Unreachable, TimedOut, or what it raises."""
        line = self._lines.get(name)
        if line is None or not line.ready:
            raise Unreachable(f"The machine {name} is not connected: {self.absence(name)}.")
        try:
            return await line.exchange.call(call, arguments, timeout)
        except ConnectionLost:
            raise Unreachable(f"The machine {name} was lost while it was asked.") from None
        except TimedOut:
            raise TimedOut(f"The machine {name} did not answer within {timeout:g} s.") from None

    # What machines open ----------------------------------------------------------------------------------------

    async def expected(self, name: str) -> Agent:
        """Return the machine that may open a control connection by this name. Raises NotAuthenticated."""
        with contextlib.suppress(NotFound):
            agent = await self._registry.get(name)
            if agent.host_key:
                return agent
        raise NotAuthenticated(
            f"No machine named {name!r:.60} has joined.", remedy="gridcloud agent join URL --token-file FILE"
        )

    async def attend(self, agent: Agent, address: str, messages: Messages) -> None:
        """Serve a control connection from a network address to its end; the caller closes it.

        Raises what keeps it from being one.
        """
        authority = self._registry.trust().authority
        one, reader, writer = await pair()
        carrying = asyncio.create_task(splice(reader, writer, messages, close=False), name="agent: control")
        try:
            async with asyncio.timeout(LOGIN) as limit:
                with self._knock(f"{agent.name} {address}", limit) as knocked:
                    connection = await self._log_in(agent, one)
                    try:
                        await self._converse(agent, address, authority, connection, limit, knocked)
                    finally:
                        connection.abort()
                        await connection.wait_closed()
        except TimeoutError:
            raise Unreachable(
                f"{agent.name} did not log in within {LOGIN:g} s, or too many came after it."
            ) from None
        finally:
            one.close()
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)

    def claim(self, stream: str, secret: str) -> _Expected:
        """Return the stream that a machine was told to dial, once. Raises NotAuthenticated."""
        expected = self._expected.get(stream)
        known = expected.hash if expected is not None else _hash("nobody")
        same = hmac.compare_digest(known, _hash(secret))
        if expected is None or not same:
            raise NotAuthenticated("Nobody waits for this stream.")
        del self._expected[stream]
        return expected

    async def carry(self, expected: _Expected, messages: Messages) -> None:
        """Carry what a claimed stream waits for, to its end."""
        if expected.taken.done():  # given up meanwhile
            return
        expected.taken.set_result(messages)
        await expected.over.wait()

    async def dismiss(self, name: str) -> None:
        """Cut the connection of a machine, if it has one."""
        line = self._lines.get(name)
        if line is not None:
            line.task.cancel()
            await line.over.wait()

    async def forget(self, name: str) -> None:
        """Cut the connection of what is no machine any more, and know nothing of it."""
        await self.dismiss(name)
        self._lost.pop(name, None)

    async def close(self) -> None:
        """Cut all. May be called twice."""
        for name in list(self._lines):
            await self.dismiss(name)

    # Their control connections -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _knock(self, key: str, limit: asyncio.Timeout) -> Iterator[contextlib.ExitStack]:
        alike = [other for other, theirs in self._knocking.items() if theirs == key]
        if len(alike) >= ALIKE or len(self._knocking) >= KNOCKING:
            longest = alike[0] if len(alike) >= ALIKE else next(iter(self._knocking))
            del self._knocking[longest]
            if not longest.expired():
                longest.reschedule(asyncio.get_running_loop().time())
        self._knocking[limit] = key
        with contextlib.ExitStack() as stack:
            stack.callback(self._knocking.pop, limit, None)
            yield stack

    async def _log_in(self, agent: Agent, link: socket.socket) -> asyncssh.SSHClientConnection:
        place = SSHAddress(host=agent.name, user="gridcloud", host_keys=(agent.host_key,))
        witness = Witness()
        options = asyncssh.SSHClientConnectionOptions(
            config=None,
            client_factory=lambda: witness,
            known_hosts=known_hosts(place),
            server_host_key_algs=host_key_kinds(place),
            username="gridcloud",
            client_keys=[await self._credentials.user_certificate(principal_of(agent.name))],
            agent_path=None,
            agent_forwarding=False,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_host=None,
            compression_algs=["none"],  # what a machine says could otherwise be unpacked a thousandfold
            login_timeout=LOGIN,
        )
        try:
            with understood():
                return await asyncssh.connect(agent.name, tunnel=Direct(link=link), options=options)
        except asyncssh.HostKeyNotVerifiable as error:
            raise untrusted(place, witness.seen, error.reason) from error
        except asyncssh.PermissionDenied as error:
            raise Untrusted(f"{agent.name} does not take our certificate.") from error
        except (asyncssh.Error, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise Unreachable(f"{agent.name} cannot be spoken to: {plain(str(error))}.") from error

    async def _converse(
        self,
        agent: Agent,
        address: str,
        authority: str,
        connection: asyncssh.SSHClientConnection,
        limit: asyncio.Timeout,
        knocked: contextlib.ExitStack,
    ) -> None:
        first: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        presence: Presence | None = None

        def notice(kind: str, content: Any) -> None:
            if kind != "report":
                return
            try:
                report = Report.model_validate(content)
            except ValidationError as error:
                raise ConnectionLost(
                    f"{agent.name} reports what is no report: {error.error_count()} mistakes."
                ) from None
            if presence is not None:
                presence.report = report
            elif not first.done():
                first.set_result(report)

        try:
            process = await connection.create_process(subsystem="gridcloud", encoding=None)
        except asyncssh.Error as error:
            raise Untrusted(f"{agent.name} is no agent: {plain(str(error))}.") from error
        exchange = Exchange(
            process.stdout, process.stdin, notice=notice, silence=self._silence, unasked=UNASKED
        )
        running = asyncio.create_task(exchange.run(), name=f"agent: {agent.name}")
        try:
            waiting: set[asyncio.Future[Any]] = {running, first}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                await running
                raise Unreachable(f"{agent.name} reported nothing.")
            report = first.result()
            if report.protocol != PROTOCOL:
                raise Untrusted(
                    f"{agent.name} speaks version {report.protocol} of the protocol, we speak {PROTOCOL}.",
                    remedy="Run the same version of gridcloud on both sides.",
                )
            limit.reschedule(None)
            knocked.close()
            presence = Presence(agent.name, address, self._clock.now(), report, agent.host_key)
            if (await self._registry.get(agent.name)).state is State.REMOVED:
                await self._dismiss_for_good(agent, exchange)
                return
            await self._keep(presence, exchange, authority, running)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    @staticmethod
    async def _dismiss_for_good(agent: Agent, exchange: Exchange) -> None:
        """Have a machine that was removed end everything and leave."""
        try:
            await exchange.call("remove", {}, 60)
        except GridcloudError as error:
            log.warning("%s was removed and does not leave: %s", agent.name, error)

    async def _keep(
        self, presence: Presence, exchange: Exchange, authority: str, running: asyncio.Task[None]
    ) -> None:
        """Have a machine be connected until its connection ends; the earlier one of the same machine ends now."""
        name = presence.name
        while (earlier := self._lines.get(name)) is not None:
            earlier.replaced = True
            earlier.task.cancel()
            await earlier.over.wait()
        line = _Line(presence, exchange, authority)
        line.task = asyncio.create_task(self._live(line, running), name="agent")
        self._lines[name] = line
        why = "its service was stopped"
        try:
            server = await self._listen(line)
            try:
                words, labels = f"from {presence.address}", presence.report.labels
                known = await self._registry.saw(name, presence.address, "connected", words, labels)
                if known.state is State.REMOVED:  # while it waited for its earlier connection to end
                    await self._dismiss_for_good(known, exchange)
                line.ready = known.state is not State.REMOVED and known.host_key == presence.host_key
                if not line.ready:
                    line.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({line.task})
                    why = _reason(line)
            finally:
                server.close()
                streams = set(line.streams)
                for stream in streams:
                    stream.cancel()
                await asyncio.gather(*streams, return_exceptions=True)
                self.socket_to(name).unlink(missing_ok=True)
        finally:
            line.task.cancel()
            await asyncio.gather(line.task, return_exceptions=True)
            if self._lines.get(name) is line:
                del self._lines[name]
            self._lost[name] = f"{why}, {self._clock.now():%Y-%m-%d %H:%M:%S} UTC"
            line.over.set()
            with contextlib.suppress(GridcloudError):  # a store that is closed by now has nothing to note
                await self._registry.saw(name, presence.address, "lost", why)

    async def _live(self, line: _Line, running: asyncio.Task[None]) -> None:
        pinging = asyncio.create_task(self._ping(line), name="agent: pings")
        try:
            await running
        finally:
            pinging.cancel()
            await asyncio.gather(pinging, return_exceptions=True)

    async def _ping(self, line: _Line) -> None:
        while True:
            await line.exchange.tell("ping", None)
            await self._inform(line)
            await self._clock.sleep(self._beat)

    async def _inform(self, line: _Line) -> None:
        """Tell a machine that our authority was rotated: it would not believe our next certificate."""
        trust = self._registry.trust()
        if trust.authority != line.authority:
            line.authority = trust.authority
            await line.exchange.tell("authority", trust.model_dump(mode="json"))

    # Its streams ---------------------------------------------------------------------------------------------------

    async def _listen(self, line: _Line) -> asyncio.Server:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        bound = listen_here(Socket(path=os.fspath(self.socket_to(line.presence.name))))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 (a coroutine that runs is one's)
            if len(line.streams) >= STREAMS:
                writer.transport.abort()
                return
            line.streams.add(task)
            try:
                await self._stream(line, reader, writer)
            except (GridcloudError, OSError, TimeoutError) as error:
                log.info("no stream to %s: %s", line.presence.name, error or type(error).__name__)
            except asyncio.CancelledError:
                return
            finally:
                line.streams.discard(task)
                writer.transport.abort()

        return await asyncio.start_unix_server(serve, sock=bound, limit=MESSAGE)

    async def _stream(self, line: _Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream, secret = secrets.token_hex(8), secrets.token_urlsafe(24)
        taken: asyncio.Future[Messages] = asyncio.get_running_loop().create_future()
        expected = _Expected(_hash(secret), taken)
        self._expected[stream] = expected
        try:
            await self._inform(line)
            await line.exchange.tell("dial", {"stream": stream, "secret": secret})
            async with asyncio.timeout(STREAM):
                messages = await taken
            await splice(reader, writer, messages)
        finally:
            self._expected.pop(stream, None)
            taken.cancel()
            expected.over.set()


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def _reason(line: _Line) -> str:
    if line.replaced:
        return "it connected anew"
    if line.task.cancelled():
        return "it was cut off"
    error = line.task.exception()
    return str(error).rstrip(".") if error is not None else "it hung up"
