"""One command on the other side of an SSH connection, and the keeper that ends and signals such commands."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable

import asyncssh

from gridcloud.connections import shell
from gridcloud.connections.driver import Command, Process, TerminalSize
from gridcloud.connections.environment import encode_command
from gridcloud.connections.shell import signal_number
from gridcloud.errors import ConnectionLost, NotFound, TimedOut

__all__ = ["Keeper", "SSHProcess", "open_keeper", "open_process"]

_KEPT = 2 << 20  # bytes of output kept unread before the other side is told to wait
_NOISE = 64 << 10  # bytes a login may print before our program speaks
_ANSWER = 30.0  # seconds for the other side to start a shell
# No echo and no line editing while the header is read: it may hold lines longer than a terminal takes.
_RAW = {asyncssh.PTY_ICANON: 0, asyncssh.PTY_ECHO: 0}


class _Channel(asyncssh.SSHClientSession[bytes]):
    """What arrives on one SSH channel: chunks of two streams, and how the command ended."""

    def __init__(self) -> None:
        self.channel: asyncssh.SSHClientChannel[bytes] | None = None
        self.chunks: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        self.exit: int | None = None
        self.ended = asyncio.Event()
        self.on_end: Callable[[], None] | None = None
        self.on_close: Callable[[], None] | None = None
        self.over: tuple[bool, Exception | None] = (False, None)
        self._arrived = (asyncio.Event(), asyncio.Event())
        self._writable = asyncio.Event()
        self._writable.set()
        self._kept = 0
        self._paused = False

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self.channel = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        stream = 1 if datatype else 0
        self.chunks[stream].append(data)
        self._arrived[stream].set()
        self._kept += len(data)
        if self._kept > _KEPT and not self._paused and self.channel is not None:
            self._paused = True
            self.channel.pause_reading()

    def eof_received(self) -> bool:
        self._finish(None)
        return True  # keep our own direction open: the process may still read

    def exit_status_received(self, status: int) -> None:
        self._end(status)

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._end(128 + _number(signal))

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(exc if self.exit is None else None)
        self.ended.set()
        self._writable.set()
        if self.on_close is not None:
            self.on_close()
            self.on_close = None

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _end(self, code: int) -> None:
        self.exit = code
        self.ended.set()
        if self.on_end is not None:
            self.on_end()

    def _finish(self, cause: Exception | None) -> None:
        self.over = (True, self.over[1] or cause)
        for event in self._arrived:
            event.set()

    async def write(self, data: bytes) -> None:
        await self._writable.wait()
        if self.channel is not None and not self.channel.is_closing() and not self.ended.is_set():
            try:
                self.channel.write(data)
            except (BrokenPipeError, OSError):  # it ended meanwhile
                return
            await self._writable.wait()

    async def read(self, stream: int) -> bytes:
        """Return what has come, or nothing at the end of the stream."""
        while not self.chunks[stream]:
            over, cause = self.over
            if over and cause is not None:
                raise ConnectionLost(f"The connection was lost while a command ran: {cause}.") from cause
            if over:
                return b""
            self._arrived[stream].clear()
            await self._arrived[stream].wait()
        data = b"".join(self.chunks[stream])
        self.chunks[stream].clear()
        self._kept -= len(data)
        if self._paused and self._kept <= _KEPT // 2 and self.channel is not None:
            self._paused = False
            self.channel.resume_reading()
        return data

    async def read_answer(self, token: str) -> str:
        """Return what follows our token on its line; what a login printed before is thrown away."""
        seen = b""
        mark = token.encode() + b" "
        while True:
            start = seen.find(mark)
            end = seen.find(b"\n", start)
            if start >= 0 and end >= 0:
                rest = seen[end + 1 :]
                if rest:
                    self.chunks[0].appendleft(rest)
                    self._kept += len(rest)
                return seen[start + len(mark) : end].decode(errors="replace").strip()
            block = await self.read(0)
            if not block or len(seen) > _NOISE:
                told = seen or b"".join(self.chunks[1])
                raise ConnectionLost(
                    f"The login shell there did not start a program: it said {told[-300:].decode(errors='replace')!r}.",
                    remedy="Let the account have a shell that runs commands (no forced command).",
                )
            seen += block


class Keeper:
    """The program beside the commands of a connection: it signals them, and ends them when the connection ends."""

    def __init__(self, channel: _Channel, server: tuple[str, str]) -> None:
        self._channel = channel
        self._lock = asyncio.Lock()
        self.server = server
        """Process id and birth of the server process that holds this connection, at the other side."""

    async def order(self, line: str) -> None:
        """Give an order that is not answered."""
        await self._channel.write(line.encode() + b"\n")

    def forget(self, session: int) -> None:
        """A command has ended: its session is forgotten unless children of it are left."""
        channel = self._channel.channel
        if channel is not None and not channel.is_closing():
            channel.write(f"- {session}\n".encode())

    async def ask(self, line: str) -> str:
        """Give an order and return the answer. Raises ConnectionLost."""
        async with self._lock:
            await self.order(line)
            answer = b""
            while not answer.endswith(b"\n"):
                block = await self._channel.read(0)
                if not block:
                    raise ConnectionLost("The connection ended.")
                answer += block
        return answer.decode().strip()

    async def end(self) -> None:
        """Have everything ended that runs; returns when it has, or after five seconds."""
        channel = self._channel.channel
        if channel is None or channel.is_closing():
            return
        channel.write_eof()
        try:
            await asyncio.wait_for(self._channel.ended.wait(), 5)
        except TimeoutError:
            return


class SSHProcess(Process):
    """A command that runs on the other side, leader of its own session there."""

    def __init__(self, channel: _Channel, keeper: Keeper, pid: int, terminal: bool) -> None:
        self.pid = pid
        self._channel = channel
        self._keeper = keeper
        self._terminal = terminal

    def when_over(self, call: Callable[[], None]) -> None:
        """Call back when its place among the connection's sessions is free again."""
        if self._channel.channel is None or (
            self._channel.ended.is_set() and self._channel.channel.is_closing()
        ):
            call()
        else:
            self._channel.on_close = call

    async def write(self, data: bytes) -> None:
        await self._channel.write(data)

    async def close_input(self) -> None:
        if self._terminal:
            await self._channel.write(b"\x04")  # end of file, as typed
            return
        channel = self._channel.channel
        if channel is not None and not channel.is_closing() and not self._channel.ended.is_set():
            channel.write_eof()

    async def stdout(self) -> AsyncIterator[bytes]:
        while block := await self._channel.read(0):
            yield block

    async def stderr(self) -> AsyncIterator[bytes]:
        while block := await self._channel.read(1):
            yield block

    async def wait(self) -> int:
        await self._channel.ended.wait()
        if self._channel.exit is None:
            raise ConnectionLost(
                "The connection ended before the command did: its fate is unknown.",
                remedy="Start what must outlive a connection as a detached program.",
            )
        return self._channel.exit

    async def signal(self, name: str) -> None:
        number = signal_number(name)
        if not self._channel.ended.is_set():
            await self._keeper.order(f"signal {number.name.removeprefix('SIG')} {self.pid}")

    async def resize(self, size: TerminalSize) -> None:
        """Set the terminal's size. Without a terminal nothing happens."""
        if self._terminal and self._channel.channel is not None and not self._channel.ended.is_set():
            self._channel.channel.change_terminal_size(size.columns, size.rows)


async def open_keeper(connection: asyncssh.SSHClientConnection) -> Keeper:
    """Start the keeper of a connection. Raises ConnectionLost, TimedOut, asyncssh.ChannelOpenError."""
    channel, answer = await _open(connection, shell.KEEPER, b"", None)
    pid, _, born = answer.partition(" ")
    return Keeper(channel, (pid, born))


async def open_process(
    connection: asyncssh.SSHClientConnection,
    keeper: Keeper,
    command: Command,
    directory: str,
    enter: tuple[str, ...],
) -> SSHProcess:
    """Start a command. Raises NotFound for the directory, ConnectionLost, TimedOut, asyncssh.ChannelOpenError."""
    header = encode_command((*enter, *command.words), command.environment, directory, raw=command.raw)
    channel, answer = await _open(connection, shell.START, header, command.terminal)
    if not answer.isdecimal():
        raise NotFound(f"There is no folder {directory!r} to work in.", remedy="Make it first.")
    # Registered before it may go on: from here on the keeper ends it, whatever happens to us.
    await keeper.order(f"+ {answer}")
    pid = int(answer)
    channel.on_end = lambda: keeper.forget(pid)
    await channel.write(b"go\n")
    return SSHProcess(channel, keeper, pid, command.terminal is not None)


async def _open(
    connection: asyncssh.SSHClientConnection, program: str, header: bytes, terminal: TerminalSize | None
) -> tuple[_Channel, str]:
    options: dict[str, object] = {}
    if terminal is not None:
        size = (terminal.columns, terminal.rows)
        options = {
            "term_type": "xterm-256color",
            "term_size": size,
            "term_modes": _RAW,
            "request_pty": "force",
        }
    session = _Channel()
    await connection.create_session(
        lambda: session,
        shell.command_line(program),
        encoding=None,
        env=None,
        send_env=None,
        **options,  # type: ignore[arg-type]
    )
    token = secrets.token_hex(16)
    try:
        await session.write(token.encode() + b"\n" + header)
        return session, await asyncio.wait_for(session.read_answer(token), _ANSWER)
    except BaseException as error:
        if session.channel is not None:
            session.channel.close()
        if isinstance(error, TimeoutError):
            raise TimedOut(f"No shell answered there within {_ANSWER:g} seconds.") from error
        raise


def _number(name: str) -> int:
    try:
        return int(signal.Signals[f"SIG{name.partition('@')[0]}"])
    except KeyError:
        return 0
