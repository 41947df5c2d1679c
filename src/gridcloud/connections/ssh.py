"""A machine with an SSH server: commands, files by SFTP, ports in both directions, all inside SSH.

The host is verified by what the address pins, jump hosts too. Nothing of the user's own SSH set-up is read: no
configuration, no agent, no known hosts; no agent is ever forwarded. A server admits a limited number of commands per
connection (OpenSSH: MaxSessions, 10); further ones go through further connections, opened when one is refused.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from gridcloud.connections.batching import Direct
from gridcloud.connections.driver import Command, Connection, Credentials, Forward, Progress
from gridcloud.connections.environment import check_command
from gridcloud.connections.files import Entry, Report, copy
from gridcloud.connections.local_files import LocalSide
from gridcloud.connections.model import Endpoint, Port, Socket, SSHAddress
from gridcloud.connections.relay import Reader, Writer, carry, dial_here, relay
from gridcloud.connections.ssh_files import SFTPSide, download, upload
from gridcloud.connections.ssh_process import Keeper, SSHProcess, open_keeper, open_process
from gridcloud.connections.trust import Witness, host_key_kinds, known_hosts, understood, untrusted
from gridcloud.errors import ConnectionLost, Forbidden, GridcloudError, PortTaken, Unreachable

__all__ = ["SSHConnection", "Timing"]

# AES-GCM first: with it the same transfer takes two thirds of the time of ChaCha20-Poly1305.
_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
)
_CLIENTS = 512  # connections at the same time through a port exposed there: each takes one of our files
_CHECK = 10.0  # seconds that `check` may take


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: to connect; between signs of life; and how many of those may stay unanswered."""

    connect: float = 15.0
    keepalive: float = 15.0
    missed: int = 4


class SSHConnection(Connection):
    """Acts on a machine through SSH."""

    def __init__(
        self, address: SSHAddress, main: asyncssh.SSHClientConnection, another: Callable[[], Awaitable[_Link]]
    ) -> None:
        self._address = address
        self._main = main
        self._another = another
        self._links: list[_Link] = []
        self._lock = asyncio.Lock()
        self._keeper: asyncio.Task[Keeper] | None = None
        self._sftp: asyncio.Task[SFTPSide] | None = None
        self._ours = LocalSide()
        self._forwards: list[Forward] = []
        self._closed = False

    @classmethod
    async def open(
        cls, address: SSHAddress, credentials: Credentials, timing: Timing | None = None
    ) -> SSHConnection:
        """Open it. Raises Unreachable within the time given, Untrusted, Forbidden."""

        async def another() -> _Link:
            return await _connect(address, credentials, timing or Timing())

        link = await another()
        connection = cls(address, link.connection, another)
        connection._links.append(link)
        return connection

    async def start(self, command: Command) -> SSHProcess:
        check_command(command.words, command.environment)
        directory = self._place(command.directory)
        keeper = await self._kept()
        refusal: Exception | None = None
        for link in list(self._links):
            if link.full:
                continue
            try:
                return await self._start_on(link, keeper, command, directory)
            except asyncssh.ChannelOpenError as error:
                self._require_open()
                link.full, refusal = True, error
        async with self._lock:
            for link in self._links:
                if not link.full:  # another command opened one while we waited
                    break
            else:
                link = await self._another()
                self._links.append(link)
        try:
            return await self._start_on(link, keeper, command, directory)
        except asyncssh.ChannelOpenError as error:
            if link.running:
                link.full = True
                return await self.start(command)
            raise Forbidden(
                f"{self._address.host} lets no command run: {refusal or error}.",
                remedy="Let its SSH server give this account sessions (MaxSessions).",
            ) from error

    async def _start_on(self, link: _Link, keeper: Keeper, command: Command, directory: str) -> SSHProcess:
        link.running += 1
        try:
            process = await open_process(link.connection, keeper, command, directory, self._address.enter)
        except asyncssh.ChannelOpenError:
            link.running -= 1
            raise
        except (asyncssh.Error, OSError) as error:
            link.running -= 1
            raise self._lost(error) from error
        except BaseException:
            link.running -= 1
            raise
        process.when_over(link.release)
        return process

    async def put(self, source: Path, target: str, progress: Progress | None = None) -> None:
        side = await self._files()

        async def move(path: str, to: str, entry: Entry, report: Report) -> None:
            await upload(side, self._ours, path, to, entry, report)

        await copy(self._ours, str(source), side, self._place(target), move, progress, target)

    async def get(self, source: str, target: Path, progress: Progress | None = None) -> None:
        side = await self._files()

        async def move(path: str, to: str, entry: Entry, report: Report) -> None:
            await download(side, self._ours, path, to, entry, report)

        await copy(side, self._place(source), self._ours, str(target.absolute()), move, progress, source)

    async def forward(self, remote: Endpoint, local: Endpoint) -> Forward:
        self._require_open()
        return self._keep(await relay(local, lambda: self.dial(remote)))

    async def dial(self, remote: Endpoint) -> tuple[Reader, Writer]:
        """As `relay.Dialing`."""
        self._require_open()
        try:
            if isinstance(remote, Port):
                return await self._main.open_connection(remote.host, remote.port, encoding=None)
            path = await self._place_socket(remote.path)
            return await self._main.open_unix_connection(path, encoding=None)
        except asyncssh.Error as error:
            raise self._lost(error) from error

    async def expose(self, local: Endpoint, remote: Endpoint) -> Forward:
        self._require_open()
        if isinstance(remote, Socket):
            remote = Socket(path=await self._place_socket(remote.path))
        clients: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]) -> None:
            task = asyncio.current_task()
            if task is None or len(clients) >= _CLIENTS:
                writer.channel.abort()
                return
            clients.add(task)
            task.add_done_callback(clients.discard)
            try:
                near_reader, near_writer = await dial_here(local)
            except OSError:
                writer.channel.abort()
                return
            await carry(reader, writer, near_reader, near_writer)

        listener = await self._listen_there(remote, serve)
        if isinstance(remote, Port):
            remote = Port(host=remote.host, port=listener.get_port())

        closing = False

        async def close() -> None:
            nonlocal closing
            if not closing:  # asked twice, some servers hang up: they know of no such listener any more
                closing = True
                listener.close()
            for task in list(clients):
                task.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            if isinstance(remote, Socket) and not self._closed:
                await self._remove_socket(remote.path)

        return self._keep(Forward(remote, close))

    async def _listen_there(
        self, remote: Endpoint, serve: Callable[..., Awaitable[None]]
    ) -> asyncssh.SSHListener:
        try:
            if isinstance(remote, Port):
                return await self._main.start_server(
                    lambda *_: serve, remote.host, remote.port, encoding=None
                )
            path = remote.path
            try:
                return await self._main.start_unix_server(lambda *_: serve, path, encoding=None)
            except asyncssh.ChannelListenError:
                if not await self._is_stale(path):
                    raise
                await self._remove_socket(path)
                return await self._main.start_unix_server(lambda *_: serve, path, encoding=None)
        except asyncssh.ChannelListenError as error:
            name = f"{remote.host}:{remote.port}" if isinstance(remote, Port) else remote.path
            raise PortTaken(
                f"{self._address.host} does not let us listen on {name}: somebody else does, or its SSH server"
                " does not allow it.",
                remedy="Choose another port, or allow it there (AllowTcpForwarding, AllowStreamLocalForwarding).",
            ) from error
        except (asyncssh.Error, OSError) as error:
            raise self._lost(error) from error

    async def _is_stale(self, path: str) -> bool:
        """Tell whether a socket there is left over from a server that ended: it refuses whoever connects."""
        entry = await (await self._files()).look(path, follow=False)
        if entry is None or entry.kind != "other":
            return False
        try:
            _, writer = await self._main.open_unix_connection(path, encoding=None)
        except asyncssh.ChannelOpenError:
            return True
        writer.close()
        return False

    async def _remove_socket(self, path: str) -> None:
        try:
            await (await self._files()).remove(path)
        except GridcloudError:  # a stale socket file is replaced by whoever listens there next
            return

    async def check(self) -> None:
        try:
            keeper = await self._kept()
            await asyncio.wait_for(keeper.ask("ping"), _CHECK)
        except TimeoutError as error:
            raise ConnectionLost(f"{self._address.host} has not answered for {_CHECK:g} seconds.") from error

    async def supersede(self, earlier: Connection) -> None:
        """End what an earlier connection to the same machine left there: its server process holds our ports
        until it notices, which may take hours when the network swallowed the end."""
        keeper = earlier._keeper if isinstance(earlier, SSHConnection) else None
        if keeper is None or not keeper.done() or _failed(keeper):
            return
        pid, born = keeper.result().server
        if pid and born:
            await (await self._kept()).ask(f"end {pid} {born}")

    async def wait_closed(self) -> None:
        """Return when the connection has ended, for whatever reason."""
        await self._main.wait_closed()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for forward in self._forwards:
            await forward.close()
        for task in (self._keeper, self._sftp):
            if task is not None and not task.done():
                task.cancel()
        if self._keeper is not None and self._keeper.done() and not _failed(self._keeper):
            await self._keeper.result().end()
        for link in reversed(self._links):
            await link.close()

    async def _kept(self) -> Keeper:
        self._require_open()
        if self._keeper is None or (self._keeper.done() and _failed(self._keeper)):
            self._keeper = asyncio.ensure_future(open_keeper(self._main))
        try:
            return await asyncio.shield(self._keeper)
        except (asyncssh.Error, OSError) as error:
            raise self._lost(error) from error

    async def _files(self) -> SFTPSide:
        self._require_open()
        if self._sftp is None or (self._sftp.done() and _failed(self._sftp)):
            self._sftp = asyncio.ensure_future(self._open_files())
        try:
            return await asyncio.shield(self._sftp)
        except (asyncssh.Error, OSError) as error:
            raise self._lost(error) from error

    async def _open_files(self) -> SFTPSide:
        return SFTPSide(
            await self._main.start_sftp_client(path_encoding="utf-8", path_errors="surrogateescape")
        )

    def _place(self, path: str) -> str:
        return posixpath.join(self._address.directory, path) if path else self._address.directory

    async def _place_socket(self, path: str) -> str:
        """Return where a socket lies, absolute: a server forwards sockets from a directory of its own choosing."""
        path = self._place(path)
        if path.startswith("/"):
            return path
        try:
            return posixpath.join(str(await (await self._files()).client.realpath(".")), path)
        except (asyncssh.Error, OSError) as error:
            raise self._lost(error) from error

    def _keep(self, forward: Forward) -> Forward:
        self._forwards.append(forward)
        return forward

    def _require_open(self) -> None:
        if self._closed or self._main.is_closed():
            raise ConnectionLost(f"The connection to {self._address.host} is closed.")

    def _lost(self, error: Exception) -> GridcloudError:
        if isinstance(error, TimeoutError):
            return Unreachable(f"{self._address.host} does not answer.")
        return ConnectionLost(f"The connection to {self._address.host} was lost: {error}.")


class _Link:
    """One SSH connection with those it goes through."""

    def __init__(self, connection: asyncssh.SSHClientConnection, through: _Link | None) -> None:
        self.connection = connection
        self.running = 0
        self.full = False
        self._through = through

    def release(self) -> None:
        self.running -= 1
        self.full = False

    async def close(self) -> None:
        self.connection.close()
        try:
            await asyncio.wait_for(self.connection.wait_closed(), 2)
        except TimeoutError:
            self.connection.abort()
        if self._through is not None:
            await self._through.close()


async def _connect(address: SSHAddress, credentials: Credentials, timing: Timing) -> _Link:
    """Open one connection, through the jump hosts, each verified. Raises Unreachable, Untrusted, Forbidden."""
    hosts = known_hosts(address)
    if address.principal:
        keys: list[object] = [await credentials.user_certificate(address.principal)]
    else:
        keys = [await credentials.private_key(address.key)]
    through = await _connect(address.jump, credentials, timing) if address.jump is not None else None
    witness = Witness()
    options = asyncssh.SSHClientConnectionOptions(
        config=None,
        client_factory=lambda: witness,
        known_hosts=hosts,
        server_host_key_algs=host_key_kinds(address),
        username=address.user,
        client_keys=keys,
        agent_path=None,
        agent_forwarding=False,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        encryption_algs=_CIPHERS,
        compression_algs=["none"],  # what a hostile machine says would be unpacked a thousandfold
        connect_timeout=timing.connect,
        login_timeout=timing.connect,
        keepalive_interval=timing.keepalive,
        keepalive_count_max=timing.missed,
    )
    try:
        async with asyncio.timeout(timing.connect):
            with understood():
                connection = await asyncssh.connect(
                    address.host,
                    address.port,
                    tunnel=through.connection if through is not None else Direct(address.socket),
                    options=options,
                )
    except BaseException as error:
        if through is not None:
            await through.close()
        if isinstance(error, (asyncssh.Error, OSError)):
            raise _refusal(address, witness, error, timing) from error
        raise
    return _Link(connection, through)


def _refusal(address: SSHAddress, witness: Witness, error: Exception, timing: Timing) -> GridcloudError:
    """Return why the connection could not be opened."""
    where = f"{address.host}:{address.port}"
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return untrusted(address, witness.seen, error.reason)
    if isinstance(error, asyncssh.KeyExchangeFailed) and "host key" in error.reason.lower():
        return untrusted(address, None, error.reason)
    if isinstance(error, asyncssh.PermissionDenied):
        which = (
            f"a certificate for {address.principal!r}"
            if address.principal
            else f"key {address.key or 'our own'!r}"
        )
        return Forbidden(
            f"{where} does not let {address.user!r} in with {which}.",
            remedy="Add the public key to authorized_keys there, or name another key or user.",
        )
    if isinstance(error, TimeoutError):
        return Unreachable(
            f"{where} did not answer within {timing.connect:g} seconds.", remedy="Is it up? A firewall?"
        )
    return Unreachable(f"{where} cannot be reached: {error}.", remedy="Check address, port and network.")


def _failed(task: asyncio.Task[Keeper] | asyncio.Task[SFTPSide]) -> bool:
    return task.cancelled() or task.exception() is not None
