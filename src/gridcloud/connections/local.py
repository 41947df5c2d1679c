"""This computer as an instance: processes of a session each, files, ports.

A forward to a TCP port of this computer is that port itself, where any will do: nothing lies between.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import posixpath
import pwd
import signal
import struct
import termios
from asyncio.subprocess import SubprocessStreamProtocol
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil

from gridcloud.connections.driver import Command, Connection, Forward, Process, Progress, TerminalSize
from gridcloud.connections.environment import check_command, inherited, of_user
from gridcloud.connections.files import Entry, Report, copy
from gridcloud.connections.forkserver import ForkServer
from gridcloud.connections.local_files import LocalSide, move_locally
from gridcloud.connections.model import Endpoint, LocalAddress, Port
from gridcloud.connections.relay import Reader, Writer, dial_here, relay
from gridcloud.connections.shell import signal_number
from gridcloud.errors import ConnectionLost, NotFound

__all__ = ["LocalConnection", "LocalProcess"]

_LIMIT = 1 << 20  # bytes of output kept unread
_LOOK = 0.02  # seconds between looks at what is left
_UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
_PATIENCE = 10.0  # seconds for a process to come to where it waits
_GRACE = 2.0  # seconds between TERM and KILL when the connection closes

# Opening the terminal as a session leader makes it the controlling one; the words follow as arguments.
_ATTACH = 'terminal=$1; shift; exec "$@" <>"$terminal" >&0 2>&1'
_WAIT = 'kill -s STOP $$; exec "$@"'
_MISSING = 'printf "%s: %s\\n" "$1" "$2" >&2; exit "$3"'


class LocalConnection(Connection):
    """Acts on this computer, as ourselves or, where we are root, as another user."""

    def __init__(self, address: LocalAddress, fork_server: ForkServer | None = None) -> None:
        self._address = address
        self._fork_server = fork_server
        self._user = address.user if address.user and address.user != _name_of(os.geteuid()) else ""
        self._ours = LocalSide()
        self._theirs = LocalSide(self._user) if self._user else self._ours
        self._processes: set[LocalProcess] = set()
        self._forwards: list[Forward] = []
        self._closed = False

    @classmethod
    async def open(cls, address: LocalAddress, fork_server: ForkServer | None = None) -> LocalConnection:
        """Open it. Raises NotFound when the instance's folder or the user does not exist, Forbidden."""
        if address.user:
            of_user(address.user)
        connection = cls(address, fork_server)
        try:
            entry = await connection._theirs.look(address.directory, follow=True)
            if entry is None or entry.kind != "folder":
                raise NotFound(
                    f"There is no folder {address.directory!r}.", remedy="The instance was removed."
                )
        except BaseException:
            await connection.close()
            raise
        return connection

    async def start(self, command: Command) -> LocalProcess:
        self._require_open()
        check_command(command.words, command.environment)
        directory = self._place(command.directory)
        entry = await self._theirs.look(directory, follow=True)
        if entry is None or entry.kind != "folder":
            raise NotFound(f"There is no folder {directory!r} to work in.", remedy="Make it first.")
        environment = self._environment(command)
        words = (*self._address.enter, *command.words)
        if self._needs_help():
            words = ("/bin/sh", "-c", _WAIT, "sh", *words)
        if command.terminal is None:
            process = await self._spawn(words, environment, directory)
        else:
            process = await self._spawn_in_terminal(words, environment, directory, command)
        if self._needs_help():
            await self._help_in(process.pid)
        self._processes = {known for known in self._processes if not known.is_over()} | {process}
        return process

    async def fork(self, command: Command, log: str) -> int | None:
        """As `ForkServing.fork`, by the fork server given at opening."""
        self._require_open()
        if self._fork_server is None:
            return None
        check_command(command.words, command.environment)
        return await self._fork_server.fork(
            replace(command, environment=self._environment(command)),
            self._place(log),
            directory=self._place(command.directory),
            user=self._user,
            enter=self._address.enter,
        )

    def _environment(self, command: Command) -> dict[str, str]:
        return (of_user(self._user) if self._user else inherited()) | dict(command.environment)

    def _needs_help(self) -> bool:
        """Tell whether only root can move the process into the instance's limits: so with unified control groups.

        The process then waits, as the user and with the user's environment, and nothing of that reaches what root
        runs meanwhile.
        """
        return bool(self._user and self._address.enter and _UNIFIED)

    async def _help_in(self, pid: int) -> None:
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while asyncio.get_running_loop().time() < deadline and not _is_stopped(pid):
            if not psutil.pid_exists(pid):
                return
            await asyncio.sleep(0.002)
        root = await asyncio.create_subprocess_exec(
            *(*self._address.enter, "--adopt", str(pid)),
            env=inherited(),
            cwd="/",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await root.wait()  # where it fails, the process is told why when it enters itself
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def _spawn(
        self, words: tuple[str, ...], environment: dict[str, str], directory: str
    ) -> LocalProcess:
        try:
            return await self._execute(words, environment, directory, asyncio.subprocess.PIPE)
        except OSError as error:
            code = "127" if isinstance(error, FileNotFoundError) else "126"
            told = ("/bin/sh", "-c", _MISSING, "sh", words[0], error.strerror or str(error), code)
            return await self._execute(told, environment, "/", asyncio.subprocess.PIPE)

    async def _spawn_in_terminal(
        self, words: tuple[str, ...], environment: dict[str, str], directory: str, command: Command
    ) -> LocalProcess:
        master, slave = os.openpty()
        try:
            _set_size(master, command.terminal or TerminalSize())
            if command.raw:
                _set_raw(slave)
            if self._user:
                user = pwd.getpwnam(self._user)
                os.fchown(slave, user.pw_uid, -1)
            environment = {"TERM": "xterm-256color"} | environment
            attach = ("/bin/sh", "-c", _ATTACH, "sh", os.ttyname(slave), *words)
            # Given to it open: a terminal that nobody has open yet reads as one that has ended.
            process = await self._execute(attach, environment, directory, slave)
            await process.attach(os.dup(master))
            return process
        finally:
            os.close(slave)
            os.close(master)

    async def _execute(
        self, words: tuple[str, ...], environment: dict[str, str], directory: str, stream: int
    ) -> LocalProcess:
        identity: dict[str, object] = {}
        if self._user:
            user = pwd.getpwnam(self._user)
            groups = os.getgrouplist(self._user, user.pw_gid)
            identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": groups}
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: _Protocol(_LIMIT, loop),
            *words,
            stdin=stream,
            stdout=stream,
            stderr=stream,
            env=environment,
            cwd=directory,
            start_new_session=True,
            **identity,  # type: ignore[arg-type]
        )
        return LocalProcess(transport, protocol)

    async def put(self, source: Path, target: str, progress: Progress | None = None) -> None:
        self._require_open()
        await self._copy(self._ours, str(source), self._theirs, self._place(target), progress, target)

    async def get(self, source: str, target: Path, progress: Progress | None = None) -> None:
        self._require_open()
        await self._copy(
            self._theirs, self._place(source), self._ours, str(target.absolute()), progress, source
        )

    async def _copy(
        self, source: LocalSide, path: str, target: LocalSide, to: str, progress: Progress | None, label: str
    ) -> None:
        async def move(path: str, to: str, entry: Entry, report: Report) -> None:
            await move_locally(source, target, path, to, entry, report)

        await copy(source, path, target, to, move, progress, label)

    async def forward(self, remote: Endpoint, local: Endpoint) -> Forward:
        self._require_open()
        if isinstance(remote, Port) and isinstance(local, Port) and local.port in (0, remote.port):
            return Forward(remote, _nothing)

        async def dial() -> tuple[Reader, Writer]:
            if isinstance(remote, Port):
                return await dial_here(remote)
            return await asyncio.open_unix_connection(sock=await self._theirs.dial(self._place(remote.path)))

        return self._keep(await relay(local, dial))

    async def expose(self, local: Endpoint, remote: Endpoint) -> Forward:
        self._require_open()
        if isinstance(remote, Port):
            if isinstance(local, Port) and remote.port in (0, local.port):
                return Forward(local, _nothing)
            return self._keep(await relay(remote, lambda: dial_here(local)))
        remote = remote.model_copy(update={"path": self._place(remote.path)})
        bound = await self._theirs.listen(remote.path)
        return self._keep(await relay(remote, lambda: dial_here(local), bound))

    async def check(self) -> None:
        self._require_open()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for forward in self._forwards:
            await forward.close()
        await _end({process.pid for process in self._processes})
        for process in self._processes:
            process.release()
        self._theirs.close()

    def _place(self, path: str) -> str:
        return posixpath.join(self._address.directory, path) if path else self._address.directory

    def _keep(self, forward: Forward) -> Forward:
        self._forwards.append(forward)
        return forward

    def _require_open(self) -> None:
        if self._closed:
            raise ConnectionLost("The connection to this computer is closed.")


class _Protocol(SubprocessStreamProtocol):
    """Tells of the exit when it happens, not when the last child has let go of the output."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit, loop)
        self.exited = asyncio.Event()
        self.finished = False

    def process_exited(self) -> None:
        self.exited.set()
        super().process_exited()

    def connection_lost(self, exc: Exception | None) -> None:
        self.finished = True
        super().connection_lost(exc)


class LocalProcess(Process):
    """A process of this computer, leader of its own session."""

    def __init__(self, transport: asyncio.SubprocessTransport, protocol: _Protocol) -> None:
        self.pid: int = transport.get_pid()
        self._transport = transport
        self._protocol = protocol
        self._terminal: _Terminal | None = None

    async def attach(self, master: int) -> None:
        """Take the controlling side of the terminal that the process runs in."""
        self._terminal = await _Terminal.open(master)

    async def write(self, data: bytes) -> None:
        if self._terminal is not None:
            await self._terminal.write(data)
            return
        writer = self._protocol.stdin
        if writer is None or writer.is_closing():
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            writer.write(data)
            await writer.drain()

    async def close_input(self) -> None:
        if self._terminal is not None:
            await self._terminal.write(b"\x04")  # end of file, as typed
        elif self._protocol.stdin is not None:
            self._protocol.stdin.close()

    def stdout(self) -> AsyncIterator[bytes]:
        return _chunks(self._terminal.reader if self._terminal is not None else self._protocol.stdout)

    def stderr(self) -> AsyncIterator[bytes]:
        return _chunks(None if self._terminal is not None else self._protocol.stderr)

    async def wait(self) -> int:
        await self._protocol.exited.wait()
        code = self._transport.get_returncode() or 0
        return code if code >= 0 else 128 - code

    async def signal(self, name: str) -> None:
        number = signal_number(name)
        if not self._protocol.exited.is_set():
            await asyncio.to_thread(_strike, self.pid, number)

    async def resize(self, size: TerminalSize) -> None:
        """Set the terminal's size. Without a terminal nothing happens."""
        if self._terminal is not None:
            _set_size(self._terminal.master, size)

    def is_over(self) -> bool:
        """Tell whether nothing is left of it: no child in its group, no output still to be read."""
        if not self._protocol.finished or (self._terminal is not None and not self._terminal.reader.at_eof()):
            return False
        try:
            os.killpg(self.pid, 0)
        except OSError:
            self.release()
            return True
        return False

    def release(self) -> None:
        """Let go of the pipes."""
        if self._terminal is not None:
            self._terminal.close()
        self._transport.close()


class _Terminal:
    """The controlling side of a pseudo-terminal."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.reader = asyncio.StreamReader(limit=_LIMIT)
        self._transports: list[asyncio.BaseTransport] = []
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    async def open(cls, master: int) -> _Terminal:
        terminal = cls(master)
        loop = asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(terminal.reader)
        reading, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(master, "rb", 0))
        writing_protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
        writing, _ = await loop.connect_write_pipe(
            lambda: writing_protocol, os.fdopen(os.dup(master), "wb", 0)
        )
        terminal._writer = asyncio.StreamWriter(writing, writing_protocol, None, loop)
        terminal._transports = [reading, writing]
        return terminal

    async def write(self, data: bytes) -> None:
        if self._writer is None or self._writer.is_closing():
            return
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    def close(self) -> None:
        for transport in self._transports:
            transport.close()


async def _chunks(reader: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    if reader is None:
        return
    while True:
        try:
            block = await reader.read(1 << 18)
        except OSError:  # a terminal whose last process has gone answers with an error, not an end
            return
        if not block:
            return
        yield block


def _set_size(terminal: int, size: TerminalSize) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))


def _set_raw(terminal: int) -> None:
    modes = termios.tcgetattr(terminal)
    modes[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(terminal, termios.TCSANOW, modes)


def _is_stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


async def _nothing() -> None:
    return


def _members(sessions: set[int]) -> list[int]:
    """Return the processes of these sessions, whatever group they moved to."""
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) in sessions and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except (OSError, psutil.Error):  # it ended while we looked
            continue
    return found


def _strike(session: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        os.killpg(session, number)  # at once for all that stayed in the group
    for pid in _members({session}):
        with contextlib.suppress(OSError):
            if os.getpgid(pid) != session:
                os.kill(pid, number)


async def _end(sessions: set[int]) -> None:
    """TERM, then KILL what is left; return when all are gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = await asyncio.to_thread(_members, sessions) if sessions else []
        if not left:
            return
        for session in {_session_of(pid) for pid in left} - {0}:
            await asyncio.to_thread(_strike, session, number)
        for _ in range(int(_GRACE / _LOOK)):
            if not await asyncio.to_thread(_members, sessions):
                return
            await asyncio.sleep(_LOOK)


def _session_of(pid: int) -> int:
    """Return the session of a process, 0 when it has ended."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0
