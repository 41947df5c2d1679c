"""The far end of a pod's connection: carries sockets as `multiplexer` does, and runs commands.

An exec of Kubernetes can neither end a command's input nor signal it, and each takes a walk through the API server; so
one exec runs this program, and everything else goes through it. `pod_process` is its near end. Its text is sent to a
`python3` there, so it uses the standard library of Python 3.8 only.

A command has three channels, which name it by the near end's own key. On ``control`` the near end sends the command
(length in 8 digits, then JSON: words, environment, directory, terminal, raw), and then lines (``signal NAME``, ``resize
COLUMNS ROWS``); this end answers with lines: ``no-directory``, or ``started`` and later ``exit CODE``. Once started,
``output`` is standard input and output, ``error`` standard error. What is sent on the channel ``echo`` comes back.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import termios
from typing import Any

from gridcloud.connections.multiplexer import CHUNK, WINDOW, Multiplexer, Streams, connect_to

__all__ = ["SILENCE", "Commands", "main"]

SILENCE = 180
"""Seconds without a word from the near end after which this one takes it for dead."""

PATIENCE = 2.0
"""Seconds that commands have to end, when the connection does, before they are killed."""

FAILED = 'printf "%s: %s\\n" "$1" "$2" >&2; exit "$3"'
IN_TERMINAL = 'exec "$@" <>"$0" >&0 2>&0'
"""Opening a terminal as the leader of a session that has none makes it that session's own."""


class Commands:
    """The commands of one connection."""

    def __init__(self) -> None:
        self._started: dict[str, _Started] = {}
        self._sessions: set[int] = set()
        self._tasks: set[asyncio.Future[None]] = set()

    async def connect(self, target: bytes) -> Streams:
        """Return the streams of what the near end names. Raises OSError, ValueError, KeyError."""
        wanted = json.loads(target)
        channel = wanted.get("channel")
        if channel is None:
            return await connect_to(wanted)
        if channel in ("output", "error"):
            started: Streams = self._started[wanted["command"]].streams.pop(channel)
            return started
        ours, theirs = await _pair()
        self._spawn(_echo(ours) if channel == "echo" else self._control(wanted["command"], ours))
        return theirs

    async def end(self) -> None:
        """End every command, and what it left behind in its session."""
        for session in self._sessions:
            _strike(session, signal.SIGTERM)
        for _ in range(int(PATIENCE * 20)):
            self._sessions = {session for session in self._sessions if _members(session)}
            if not self._sessions:
                break
            await asyncio.sleep(0.05)
        for session in self._sessions:
            _strike(session, signal.SIGKILL)
        for task in self._tasks:
            task.cancel()

    async def _control(self, key: str, streams: Streams) -> None:
        reader, writer = streams
        try:
            size = int(await reader.readexactly(8))
            command = json.loads(await reader.readexactly(size))
            directory = command["directory"]
            if not os.path.isdir(directory) or not os.access(directory, os.X_OK):
                writer.write(b"no-directory\n")
                return
            started = self._started[key] = await _start(command)
            self._sessions.add(started.pid)
            writer.write(b"started\n")
            self._spawn(self._follow(started, writer))
            while True:
                words = (await reader.readline()).decode().split()
                if not words:
                    break
                if words[0] == "signal" and not started.ended.done():
                    _strike(started.pid, signal.Signals["SIG" + words[1]])
                elif words[0] == "resize" and started.terminal is not None:
                    started.terminal.resize(int(words[1]), int(words[2]))
            await asyncio.shield(started.ended)
        except (OSError, ValueError, KeyError, EOFError):
            pass
        finally:
            self._started.pop(key, None)
            writer.close()

    async def _follow(self, started: _Started, writer: asyncio.StreamWriter) -> None:
        code = await asyncio.shield(started.ended)
        if not _members(started.pid):
            self._sessions.discard(started.pid)
        writer.write(b"exit %d\n" % (code if code >= 0 else 128 - code))

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Started:
    """A command that was started: its process id, which is its session's too, and its streams by channel."""

    def __init__(self, pid: int, ended: asyncio.Future[int], streams: dict[str, Any]) -> None:
        self.pid, self.ended, self.streams = pid, ended, streams
        self.terminal: _Terminal | None = None


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """Tells of the process's end at once: what it left behind may hold its streams open."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(CHUNK, loop)
        self.ended: asyncio.Future[int] = loop.create_future()
        self._own: Any = None

    def connection_made(self, transport: Any) -> None:
        self._own = transport
        super().connection_made(transport)

    def process_exited(self) -> None:
        super().process_exited()
        if not self.ended.done():
            self.ended.set_result(self._own.get_returncode())


async def _start(command: Any) -> _Started:
    """Start a command, or in its place one that says why it does not start."""
    words, directory, size = command["words"], command["directory"], command["terminal"]
    environment = {**os.environ, **command["environment"]}
    try:
        if size is not None:
            return await _start_in_terminal(words, environment, directory, size, command.get("raw", False))
        return await _start_with_pipes(words, environment, directory)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        why = "not found" if missing else str(error.strerror)
        told = ["/bin/sh", "-c", FAILED, "sh", words[0], why, "127" if missing else "126"]
        return await _start_with_pipes(told, dict(os.environ), "/")


async def _start_with_pipes(words: list[str], environment: dict[str, str], directory: str) -> _Started:
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process, ended = await _launch(words, environment, directory, stderr=asyncio.subprocess.PIPE, **pipes)
    output = process.stdout, _Forgiving(process.stdin)
    return _Started(process.pid, ended, {"output": output, "error": (process.stderr, _Forgiving(None))})


async def _start_in_terminal(
    words: list[str], environment: dict[str, str], directory: str, size: list[int], raw: bool
) -> _Started:
    terminal = _Terminal()
    terminal.resize(size[0], size[1])
    if raw:
        terminal.make_raw()
    environment.setdefault("TERM", "xterm")
    words = ["/bin/sh", "-c", IN_TERMINAL, os.ttyname(terminal.slave), *words]
    nothing = {"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.DEVNULL}
    try:
        process, ended = await _launch(words, environment, directory, stderr=terminal.slave, **nothing)
    except BaseException:
        terminal.close()
        raise
    silence = asyncio.StreamReader()
    silence.feed_eof()
    output = await terminal.carry(ended)
    started = _Started(process.pid, ended, {"output": output, "error": (silence, _Forgiving(None))})
    started.terminal = terminal
    return started


async def _launch(words: list[str], environment: dict[str, str], directory: str, **streams: Any) -> Any:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(
        _Protocol, *words, env=environment, cwd=directory, start_new_session=True, **streams
    )
    return asyncio.subprocess.Process(transport, protocol, loop), protocol.ended


class _Terminal:
    """A pseudo-terminal, carried over a socket, since only that ends as streams do: when its last user has gone."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        os.set_blocking(self.master, False)
        self._ways: list[asyncio.Future[None]] = []

    def resize(self, columns: int, rows: int) -> None:
        """Set its size; nothing happens once it is closed."""
        if self.master >= 0:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def make_raw(self) -> None:
        """Neither echo nor gather lines."""
        modes = termios.tcgetattr(self.slave)
        modes[3] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(self.slave, termios.TCSANOW, modes)

    async def carry(self, ended: asyncio.Future[int]) -> Streams:
        """Return streams to it. ``ended``: of the process that it was made for."""
        ours, theirs = await _pair()
        self._ways = [
            asyncio.ensure_future(self._write(ours[0])),
            asyncio.ensure_future(self._read(ours[1], ended)),
        ]
        return theirs

    def close(self) -> None:
        for descriptor in (self.slave, self.master):
            if descriptor >= 0:
                os.close(descriptor)
        self.slave = self.master = -1

    async def _write(self, reader: asyncio.StreamReader) -> None:
        while True:
            data = await reader.read(CHUNK)
            if not data:
                return
            while data:
                try:
                    data = data[os.write(self.master, data) :]
                except BlockingIOError:
                    await asyncio.sleep(0.01)  # it takes 4 KiB at a time

    async def _read(self, writer: asyncio.StreamWriter, ended: asyncio.Future[int]) -> None:
        try:
            while True:
                try:
                    data = os.read(self.master, CHUNK)
                except BlockingIOError:
                    if ended.done() and self.slave >= 0:
                        os.close(self.slave)  # while it is ours, the terminal has no end
                        self.slave = -1
                    else:
                        await self._wait(ended)
                    continue
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # its last user has gone, or nobody reads any more
        finally:
            self._ways[0].cancel()
            writer.close()
            self.close()

    async def _wait(self, ended: asyncio.Future[int]) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_reader(self.master, _Once(ready))
        try:
            waits = [ready] if ended.done() else [ready, ended]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(self.master)


class _Once:
    """Sets a future when it is first called."""

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def __call__(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


def _strike(session: int, number: int) -> None:
    """Signal all processes of a session."""
    try:
        os.killpg(session, number)
    except OSError:
        pass
    for pid in _members(session):
        if pid != session and _field(pid, 2) != session:
            try:
                os.kill(pid, number)
            except OSError:
                pass


def _members(session: int) -> list[int]:
    """The processes of a session, zombies left out."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if _field(pid, 3) == session]


def _field(pid: int, number: int) -> int:
    """A number of /proc/PID/stat, counted from the state as 0; -1 for a zombie or none."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:  # noqa: UP031
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] == b"Z" else int(fields[number])


class _Forgiving:
    """A command's standard input, which may end before we have said everything; None has ended already."""

    def __init__(self, writer: asyncio.StreamWriter | None) -> None:
        self._writer = writer
        self.transport = self

    def write(self, data: bytes) -> None:
        if self._writer is not None and not self._writer.transport.is_closing():
            self._writer.write(data)

    async def drain(self) -> None:
        try:
            if self._writer is not None:
                await self._writer.drain()
        except OSError:
            self._writer = None

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def abort(self) -> None:
        self.close()


async def _pair() -> tuple[Streams, Streams]:
    ours, theirs = socket.socketpair()
    return await asyncio.open_connection(sock=ours), await asyncio.open_connection(sock=theirs)


async def _echo(streams: Streams) -> None:
    reader, writer = streams
    try:
        while True:
            data = await reader.read(CHUNK)
            if not data:
                return
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def main() -> None:
    """Be the far end on standard input and output."""
    for name in ("SIGHUP", "SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))
    asyncio.run(_serve())


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=WINDOW)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    commands = Commands()

    async def receive() -> bytes:
        try:
            return await asyncio.wait_for(reader.read(CHUNK), SILENCE)
        except asyncio.TimeoutError:  # noqa: UP041 - Python 3.8
            return b""

    async def send(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    try:
        await Multiplexer(receive, send, commands.connect, near=False).run()
    finally:
        await commands.end()
