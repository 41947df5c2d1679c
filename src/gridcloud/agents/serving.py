"""The SSH server that an agent is inside the connections it dialled: commands, files and ports of its instances.

A user name of this server is the id of an instance, and opens it to certificates of our authority with that
instance's principal only. All that is asked for goes through the instance's own connection, whichever driver made it:
what runs, runs within its limits, and files and ports are its own, with the rights of its user.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import asyncssh

from gridcloud.agents.file_shell import serve_by_shell
from gridcloud.agents.files import open_files
from gridcloud.agents.ports import Ports
from gridcloud.connections.driver import Command, Connection, Process, Resizable, TerminalSize
from gridcloud.connections.model import Port, Socket
from gridcloud.connections.trust import understood
from gridcloud.errors import GridcloudError, Rejected
from gridcloud.finishing import finish

__all__ = ["Account", "Serving", "serve"]

log = logging.getLogger(__name__)

T = TypeVar("T")

LOGIN = 15.0
"""Seconds for the other side to log in."""
MESSAGE = "The instance cannot be used: "


@dataclass(frozen=True, slots=True)
class Account:
    """What a user name opens."""

    principal: str
    """The name that a certificate must hold."""
    directory: str = ""
    """Where commands begin, and relative paths; empty: where the connection has them begin."""
    open: Callable[[], Awaitable[Connection]] | None = None
    """Opens the connection that commands, files and ports go through; it is closed with the SSH connection.

    Without, nothing but `subsystem` is served."""
    subsystem: Callable[[asyncssh.SSHServerProcess[bytes]], Awaitable[None]] | None = None
    """Serves what asks for the subsystem ``gridcloud``."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What all connections of an agent have in common."""

    host_key: asyncssh.SSHKey
    authority: str
    """Public key line of the authority whose certificates are accepted."""
    find: Callable[[str], Account | None]
    """Returns the account of a user name."""


async def serve(link: socket.socket, serving: Serving) -> None:
    """Serve one connected socket, which it takes over; return when that has ended, and all that ran with it.

    Raises asyncssh.Error, OSError when nobody logs in within `LOGIN` seconds.
    """
    server = _Server(serving)
    try:
        with understood():
            connection = await asyncssh.run_server(
                link,
                config=(),
                server_factory=lambda: server,
                server_host_keys=[serving.host_key],
                encoding=None,
                password_auth=False,
                kbdint_auth=False,
                gss_host=None,
                agent_forwarding=False,
                x11_forwarding=False,
                login_timeout=LOGIN,
                keepalive_interval=15,
                keepalive_count_max=3,
                line_editor=False,
            )
        try:
            await connection.wait_closed()
        except asyncio.CancelledError:
            connection.abort()
            raise
    finally:
        await finish(server.close())


class _Server(asyncssh.SSHServer):
    """One connection: who logged in, and what runs for them."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._account = Account("")
        self._ssh: asyncssh.SSHServerConnection | None = None
        self._opening: asyncio.Task[Connection] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._ports = Ports(self._opened)
        self._closed = False

    async def close(self) -> None:
        """End what runs, once the connection has ended."""
        self._closed = True
        running = set(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._ports.close()
        if self._opening is not None:
            with contextlib.suppress(GridcloudError):
                await (await self._opening).close()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._ssh = conn

    def begin_auth(self, username: str) -> bool:
        account = self._serving.find(username)
        if account is not None and self._ssh is not None:
            self._account = account
            line = f'cert-authority,principals="{account.principal}" {self._serving.authority}'
            self._ssh.set_authorized_keys(asyncssh.import_authorized_keys(line))
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
        return _Session(self.handle)

    # Ports: of the instance's own loopback and its sockets, nothing of the network around it.

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Awaitable[asyncssh.SSHTCPSession[bytes]] | bool:
        if self._account.open is None or not _is_loopback(dest_host) or not 0 < dest_port < 65536:
            return False
        return self._ports.dial(Port(host=dest_host, port=dest_port))

    def server_requested(
        self, listen_host: str, listen_port: int
    ) -> Awaitable[asyncssh.SSHListener | bool] | bool:
        if (
            self._account.open is None
            or not _is_loopback(listen_host)
            or self._ssh is None
            or listen_port > 65535
        ):
            return False
        return self._ports.listen(Port(host=listen_host, port=listen_port), self._ssh)

    def unix_connection_requested(self, dest_path: str) -> Awaitable[asyncssh.SSHUNIXSession[bytes]] | bool:
        if self._account.open is None:
            return False
        return self._ports.dial_socket(Socket(path=dest_path))

    def unix_server_requested(self, listen_path: str) -> Awaitable[asyncssh.SSHListener | bool] | bool:
        if self._account.open is None or self._ssh is None:
            return False
        return self._ports.listen_socket(Socket(path=listen_path), self._ssh)

    # Commands ------------------------------------------------------------------------------------------------

    async def handle(self, channel: asyncssh.SSHServerProcess[bytes]) -> None:
        """Run what was asked for on a channel to its end."""
        task = asyncio.current_task()
        if task is not None:
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        try:
            if self._closed:  # it was asked for just before: nobody would end it
                channel.close()
            elif channel.subsystem == "gridcloud" and self._account.subsystem is not None:
                await self._account.subsystem(channel)
                channel.exit(0)
            elif self._account.open is None or channel.subsystem not in (None, "sftp"):
                channel.exit(127)
            elif channel.subsystem:
                await self._serve_files(channel)
            else:
                await self._run(channel)
        except GridcloudError as error:
            channel.stderr.write(f"{MESSAGE}{error}\n".encode())
            channel.exit(255)
        except (asyncssh.Error, OSError):  # the other side has gone
            channel.close()

    async def _run(self, channel: asyncssh.SSHServerProcess[bytes]) -> None:
        connection = await self._opened()
        words = ("/bin/sh", "-c", channel.command) if channel.command else ("/bin/sh", "-l")
        columns, rows = channel.term_size[:2] if channel.term_type else (0, 0)
        terminal = TerminalSize(columns or 80, rows or 24) if channel.term_type else None
        raw = channel.term_modes.get(asyncssh.PTY_ICANON) == 0
        told = {"GRIDCLOUD_AGENT": "1"}
        command = Command(words, told, directory=self._account.directory, terminal=terminal, raw=raw)
        process = await finish(connection.start(command))
        await self._carry(channel, process, process.stdout())

    async def _serve_files(self, channel: asyncssh.SSHServerProcess[bytes]) -> None:
        connection = await self._opened()
        client = str(channel.get_extra_info("client_version", ""))
        try:
            process, output = await finish(open_files(connection, self._account.directory, client))
        except Rejected as error:
            log.info("files are served by a shell: %s", error)
            await serve_by_shell(connection, self._account.directory, channel)
            channel.exit(0)
            return
        await self._carry(channel, process, output)

    async def _carry(
        self, channel: asyncssh.SSHServerProcess[bytes], process: Process, output: AsyncIterator[bytes]
    ) -> None:
        """Have a channel be a process's input and output until that ends."""
        feeding = asyncio.create_task(_feed(channel, process), name="agent: input")
        reading = [
            asyncio.create_task(_pass_on(output, channel.stdout), name="agent: output"),
            asyncio.create_task(_pass_on(process.stderr(), channel.stderr), name="agent: errors"),
        ]
        try:
            code = await process.wait()
            # What it left running may hold its output open for as long as it likes.
            await asyncio.wait(reading, timeout=1.0)
            if code > 128:
                with contextlib.suppress(ValueError):
                    channel.exit_with_signal(_name(code - 128))
                    return
            channel.exit(code)
        finally:
            for task in (feeding, *reading):
                task.cancel()
            await asyncio.gather(feeding, *reading, return_exceptions=True)

    async def _opened(self) -> Connection:
        if self._opening is None:
            assert self._account.open is not None  # noqa: S101 (asked before)
            self._opening = asyncio.ensure_future(self._account.open())
        return await asyncio.shield(self._opening)


class _Session(asyncssh.SSHServerProcess[bytes]):
    """A command or a subsystem. asyncssh itself would serve this machine's files to who asks for files."""

    def __init__(self, handle: Callable[[asyncssh.SSHServerProcess[bytes]], Awaitable[None]]) -> None:
        super().__init__(handle, None, 3, False)

    def subsystem_requested(self, subsystem: str) -> bool:
        return True

    def session_started(self) -> None:
        stdin, stdout = asyncssh.SSHReader(self, self._chan), asyncssh.SSHWriter(self, self._chan)
        stderr = asyncssh.SSHWriter(self, self._chan, asyncssh.EXTENDED_DATA_STDERR)
        handling = self._start_process(stdin, stdout, stderr)
        if handling is not None:
            _ = self._chan.get_connection().create_task(handling, self._chan.logger)


async def _feed(channel: asyncssh.SSHServerProcess[bytes], process: Process) -> None:
    while True:
        try:
            block = await channel.stdin.read(1 << 16)
        except asyncssh.TerminalSizeChanged as change:
            if isinstance(process, Resizable):
                await process.resize(TerminalSize(change.width, change.height))
            continue
        except asyncssh.BreakReceived:
            continue
        except asyncssh.SignalReceived as received:
            await process.signal(received.signal)
            continue
        if not block:
            await process.close_input()
            return
        await process.write(block)


async def _pass_on(source: AsyncIterator[bytes], target: asyncssh.SSHWriter[bytes]) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        async for block in source:
            target.write(block)
            await target.drain()


def _is_loopback(host: str) -> bool:
    if host == "localhost":  # an empty one means all addresses to who listens
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(number: int) -> str:
    return signal.Signals(number).name.removeprefix("SIG")
