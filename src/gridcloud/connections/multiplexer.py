"""Carry many socket connections, in both directions, over one pair of byte streams.

The same code runs at both ends: `container_ports` imports it here, and sends its text to a `python3` there, whose
standard input and output are the streams. So it uses the standard library of Python 3.8 only. The near end may have
any endpoint of the far end connected; the far end, which its user can replace, may only name a listener that it was
asked to open.

A frame is kind (1 byte), channel (4), length (4), payload. A sender has `WINDOW` bytes of credit per channel, given
back as the receiver's socket takes them, so that one slow reader holds up nobody else. END is a half-close. An end that
breaks these rules is cut off.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
import struct
import sys
from typing import Any, Awaitable, Callable, Coroutine, Tuple  # noqa: UP035 - Python 3.8

__all__ = ["Multiplexer", "Streams", "connect_to", "listen_on", "main"]

HEADER = struct.Struct(">BII")
READY, OPEN, DATA, CREDIT, END, CLOSE, LISTEN, LISTENING, FAILED, UNLISTEN = range(10)
WINDOW = 1 << 20
CHUNK = 1 << 16
CHANNELS = 4096
UNDER_WAY = 2 * CHANNELS
"""Answers that wait until the other end reads; one that causes more and reads none is cut off."""

Streams = Tuple[asyncio.StreamReader, asyncio.StreamWriter]  # noqa: UP006 - Python 3.8


class Multiplexer:
    """One end. ``receive`` returns b"" at the end of the stream; ``connect`` opens what the other end names."""

    def __init__(
        self,
        receive: Callable[[], Awaitable[bytes]],
        send: Callable[[bytes], Awaitable[None]],
        connect: Callable[[bytes], Awaitable[Streams]],
        near: bool,
    ) -> None:
        self._receive, self._send_bytes, self._connect, self._near = receive, send, connect, near
        self._buffer = bytearray()
        self._sending = asyncio.Lock()
        self._next = 1 if near else 2
        self._channels: dict[int, _Channel] = {}
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._servers: dict[int, tuple[asyncio.AbstractServer, dict[str, Any]]] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._ended = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serve until the stream ends; then everything that it carried is cut."""
        try:
            if not self._near:
                await self._send(READY, 0)
            while True:
                kind, number, size = HEADER.unpack(await self._take(HEADER.size))
                if size > CHUNK:
                    return  # not a frame: the other end is no longer itself
                self._handle(kind, number, await self._take(size))
                if len(self._tasks) > UNDER_WAY:
                    return
        except (EOFError, ValueError, LookupError, TypeError, RecursionError):
            pass  # the end of the stream, or of sense
        finally:
            self._ended = True
            for number in list(self._servers):
                self._stop_listening(number)
            tasks = [*self._tasks, *(channel.task for channel in self._channels.values() if channel.task)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for future in [self.ready, *self._asked.values()]:
                future.cancel()

    async def carry(self, target: bytes, streams: Streams, listener: int = 0) -> None:
        """Carry an accepted connection to ``target`` at the other end, until both directions have ended."""
        if self._ended:
            streams[1].close()
            return
        number, self._next = self._next, self._next + 2
        channel = self._channels[number] = _Channel(number)
        channel.listener = listener
        channel.task = asyncio.current_task()
        await self._serve(channel, streams, target)

    async def ask_to_listen(self, endpoint: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Have the other end listen; return the listener's number and its endpoint, which is what that end says.
        Raises OSError, of which ConnectionResetError when the stream ends first."""
        if self.has_ended():
            raise ConnectionResetError
        number, self._next = self._next, self._next + 2
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send(LISTEN, number, json.dumps(endpoint).encode())
            return number, await answer
        except asyncio.CancelledError:
            if answer.cancelled() and self.has_ended():
                raise ConnectionResetError from None
            raise
        finally:
            del self._asked[number]

    def has_ended(self) -> bool:
        """Tell whether the stream has ended."""
        return self._ended

    async def stop_listening(self, number: int) -> None:
        """Have the other end close a listener."""
        await self._send(UNLISTEN, number)

    def _handle(self, kind: int, number: int, payload: bytes) -> None:
        """Act on a frame at once: the loop that reads must never wait for the one that writes."""
        channel = self._channels.get(number)
        if kind == READY:
            if not self.ready.done():
                self.ready.set_result(None)
        elif kind == OPEN:
            # Each end numbers its own channels: a number of ours would take over another's connection.
            ours = number % 2 == (1 if self._near else 0)
            if channel is not None or ours or len(self._channels) >= CHANNELS:
                _ = self._spawn(self._send(CLOSE, number))
                return
            opened = self._channels[number] = _Channel(number)
            opened.task = self._spawn(self._open(opened, payload))
        elif kind == LISTEN and not self._near:
            _ = self._spawn(self._listen(number, json.loads(payload)))
        elif kind == UNLISTEN and not self._near:
            self._stop_listening(number)
        elif kind in (LISTENING, FAILED):
            self._answer(number, kind == LISTENING, payload)
        elif channel is not None and kind in (DATA, END):
            channel.receive(payload, kind == END)
        elif channel is not None and kind == CREDIT:
            channel.credit += int.from_bytes(payload, "big")
            channel.may_send.set()
        elif channel is not None and kind == CLOSE:
            channel.closed = True
            channel.cancel()

    async def _open(self, channel: _Channel, target: bytes) -> None:
        try:
            streams = await self._connect(target)
        except (OSError, ValueError, KeyError):
            self._channels.pop(channel.number, None)
            await self._send(CLOSE, channel.number)
            return
        except asyncio.CancelledError:
            self._channels.pop(channel.number, None)
            raise
        await self._serve(channel, streams)

    async def _serve(self, channel: _Channel, streams: Streams, target: bytes | None = None) -> None:
        reader, writer = streams
        halves = [asyncio.ensure_future(self._deliver(channel, writer))]
        whole = False
        try:
            if target is not None:
                await self._send(OPEN, channel.number, target)
            halves.append(asyncio.ensure_future(self._pump(channel, reader)))
            done, _ = await asyncio.wait(halves, return_when=asyncio.FIRST_EXCEPTION)
            whole = all(half.exception() is None for half in done)
        except asyncio.CancelledError:
            pass  # cut: by the other end, or because the forward is closed
        self._channels.pop(channel.number, None)
        for half in halves:
            half.cancel()
        if whole:
            writer.close()
        else:
            writer.transport.abort()
        await asyncio.gather(*halves, return_exceptions=True)
        if not whole and not channel.closed and not self._ended:
            await self._send(CLOSE, channel.number)

    async def _pump(self, channel: _Channel, reader: asyncio.StreamReader) -> None:
        """From the socket to the other end."""
        while True:
            while channel.credit <= 0:
                channel.may_send.clear()
                await channel.may_send.wait()
            data = await reader.read(min(CHUNK, channel.credit))
            if not data:
                await self._send(END, channel.number)
                return
            channel.credit -= len(data)
            await self._send(DATA, channel.number, data)

    async def _deliver(self, channel: _Channel, writer: asyncio.StreamWriter) -> None:
        """From the other end to the socket."""
        while True:
            data = await channel.inbox.get()
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
            channel.held -= len(data)
            await self._send(CREDIT, channel.number, len(data).to_bytes(4, "big"))

    async def _listen(self, number: int, endpoint: dict[str, Any]) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.carry(str(number).encode(), (reader, writer), number)

        try:
            server, where = await listen_on(endpoint, accept)
        except OSError as error:
            answer = {"errno": error.errno, "text": error.strerror or str(error)}
            await self._send(FAILED, number, json.dumps(answer).encode())
            return
        self._servers[number] = server, where
        await self._send(LISTENING, number, json.dumps(where).encode())

    def _answer(self, number: int, listening: bool, payload: bytes) -> None:
        asked = self._asked.get(number)
        if asked is None or asked.done():
            return
        said = json.loads(payload)
        if listening:
            asked.set_result(said)
        else:
            number = said["errno"]
            asked.set_exception(OSError(number if isinstance(number, int) else 0, str(said["text"])[:200]))

    def _stop_listening(self, number: int) -> None:
        if number in self._servers:
            server, where = self._servers.pop(number)
            server.close()
            if "path" in where:
                _unlink(where["path"])
            for channel in list(self._channels.values()):
                if channel.listener == number:
                    channel.cancel()

    async def _send(self, kind: int, number: int, payload: bytes = b"") -> None:
        async with self._sending:
            await self._send_bytes(HEADER.pack(kind, number, len(payload)) + payload)

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = await self._receive()
            if not data:
                raise EOFError
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Channel:
    """One carried connection."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.credit = WINDOW
        self.may_send = asyncio.Event()
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self.held = 0
        self.ended = False
        self.closed = False
        self.listener = 0
        self.task: asyncio.Future[Any] | None = None

    def receive(self, data: bytes, end: bool) -> None:
        self.held += len(data)
        if self.held > WINDOW or self.ended or end == bool(data):
            self.cancel()  # the other end does not keep to its credit, or to the rules
        else:
            self.ended = end
            self.inbox.put_nowait(data)

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


async def connect_to(endpoint: dict[str, Any]) -> Streams:
    """Connect to ``{"host", "port"}`` or ``{"path"}``. Raises OSError."""
    if "path" in endpoint:
        return await asyncio.open_unix_connection(endpoint["path"])
    return await asyncio.open_connection(endpoint["host"], endpoint["port"])


async def listen_on(
    endpoint: dict[str, Any], accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> tuple[asyncio.AbstractServer, dict[str, Any]]:
    """Listen, and return the server and where it listens. A socket is for its owner alone; one that nobody
    answers on is replaced. Raises OSError (EADDRINUSE when somebody listens)."""
    if "path" not in endpoint:
        server = await asyncio.start_server(accept, endpoint["host"], endpoint["port"])
        port = server.sockets[0].getsockname()[1]
        return server, {"host": endpoint["host"], "port": port}
    path = endpoint["path"]
    try:
        _, writer = await asyncio.open_unix_connection(path)
        writer.close()
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    except (FileNotFoundError, ConnectionRefusedError):
        _unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        # Nobody can connect until it listens, and a umask would reach what other threads make meanwhile.
        os.chmod(path, 0o600)
        return await asyncio.start_unix_server(accept, sock=listener), {"path": path}
    except OSError:
        listener.close()
        raise


def main() -> None:
    """Be the far end on standard input and output."""
    asyncio.run(_serve_standard_streams())


async def _serve_standard_streams() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=WINDOW)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)

    async def receive() -> bytes:
        return await reader.read(CHUNK)

    async def send(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    async def connect(target: bytes) -> Streams:
        return await connect_to(json.loads(target))

    await Multiplexer(receive, send, connect, near=False).run()


def _unlink(path: str) -> None:
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
