"""Where other institutions come in: a listener with mutual TLS that knows who is there before it reads anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from weakref import WeakSet

from aiohttp import web

from gridcloud.agents.splicing import MESSAGE, pair, splice
from gridcloud.clock import Clock
from gridcloud.errors import (
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    Malformed,
    MessageRefused,
    NotFound,
    PortTaken,
    Throttled,
    Unavailable,
    UnknownSigner,
)
from gridcloud.federation.allowances import Allowance
from gridcloud.federation.encoding import MAXIMUM_BYTES, Json
from gridcloud.grid.certificates import proven
from gridcloud.grid.links import LinkBook
from gridcloud.grid.mail import Mail
from gridcloud.grid.seal import Seal

__all__ = ["Admission", "Doorway", "GuestHandler", "MessageHandler", "StreamHandler", "WebMessages"]

log = logging.getLogger(__name__)

MessageHandler: TypeAlias = Callable[[str, str, Json], Awaitable[tuple[str, Json] | None]]
"""`async (sender, kind, body)`: called with a member's accepted message; returns kind and body of the answer, or None.

It has stored what it changed when it returns. A GridcloudError that it raises is told to the sender by its class and
message.
"""
StreamHandler: TypeAlias = Callable[[str, str, socket.socket], Awaitable[None]]
"""`async (sender, id, socket)`: called with a member that TLS proved, and a non-blocking Unix socket to talk to it.

It returns when the stream is over, and is cancelled when the member went or the door closes; the socket is closed then.
"""
Admission: TypeAlias = Callable[[str, str], Awaitable[None]]
"""`async (sender, id)`: raises NotFound or Forbidden, which the member is told in place of a stream."""
GuestHandler: TypeAlias = Callable[[bytes], Awaitable[bytes]]
"""`async (data)`: takes the message of somebody who proved nothing by TLS, and returns the answer."""

HANDSHAKES = 128
"""Connections that have not finished TLS yet; who comes when there are as many takes the place of the oldest."""
HANDSHAKES_EACH = 32
"""The same of one source: an IPv4 address, or a network /64 of IPv6, of which one computer may have all."""
GUESTS, GUESTS_EACH = 32, 8
GUEST_SECONDS = 30.0
"""Connections of guests, who proved nothing, in all and of one source, and how long each may stay."""
STREAMS = 256
"""Streams of one member."""
CONNECTIONS = STREAMS + 64
"""Connections of one member; further ones are not taken, since the earlier may carry streams."""
REMEMBERED = 4096
"""Senders whose allowance is remembered before those are forgotten who have all of it again."""
READ = 30.0
"""Seconds for a message to come in."""
SHAKE = 15.0
"""Seconds for TLS."""
FAULTS = 60.0
"""Seconds between two faults of ours that are written down in full."""
GRACE = 5.0
"""Seconds for the second end of a stream to be done after the first."""


class WebMessages:
    """A websocket of aiohttp's server, as `splice` takes it."""

    def __init__(self, websocket: web.WebSocketResponse) -> None:
        self._websocket = websocket

    async def receive(self) -> bytes:
        """Return the next binary message, empty once there is none any more."""
        message = await self._websocket.receive()
        return message.data if message.type is web.WSMsgType.BINARY else b""

    async def send(self, data: bytes, /) -> None:
        """Send a binary message. Raises OSError once the other side has gone."""
        try:
            await self._websocket.send_bytes(data)
        except RuntimeError as error:  # it was closed meanwhile
            raise ConnectionResetError(str(error)) from error

    async def close(self) -> None:
        """Close it. May be called twice."""
        await self._websocket.close()


class Doorway:
    """Takes messages and streams of members. `Office.doorway` is the one to use; it may take relayed ones only."""

    def __init__(self, links: LinkBook, clock: Clock) -> None:
        self._links = links
        self._clock = clock
        self._seal: Seal | None = None
        self._mail: Mail | None = None
        self._handlers: dict[str, MessageHandler] = {}
        self._streams: dict[str, tuple[StreamHandler, Admission | None]] = {}
        self._routes: list[web.RouteDef] = []
        self._guests_handler: GuestHandler | None = None
        self.visited = False
        """Whether a member or a guest has come to us since we began."""
        self._allowance = Allowance()
        self._guest_allowance = Allowance(messages=60, per_second=1, bytes_per_second=1 << 16)
        self._runner: web.AppRunner | None = None
        self._listener: socket.socket | None = None
        self._pausing: asyncio.TimerHandle | None = None
        self._shaking: dict[asyncio.Task[None], str] = {}
        self._open: dict[str, list[asyncio.Transport]] = {}
        self._transports: WeakSet[asyncio.Transport] = WeakSet()
        self._streaming: dict[str, set[asyncio.Task[Any]]] = {}
        self._faulty = -FAULTS

    def handle(self, prefix: str, handler: MessageHandler) -> None:
        """Have messages whose kind is `prefix` or begins with `prefix.` go to `handler`; a longer prefix goes first."""
        self._handlers[prefix] = handler

    def handle_guests(self, handler: GuestHandler) -> None:
        """Have messages of who proved nothing go to `handler`."""
        self._guests_handler = handler

    def stream(self, name: str, handler: StreamHandler, admit: Admission | None = None) -> None:
        """Have streams of this name (`leases`) go to `handler`; `admit` is asked before, to refuse with a reason."""
        self._streams[name] = (handler, admit)

    def route(self, *routes: web.RouteDef) -> None:
        """Serve more addresses, before `open`; `member` says who asks."""
        self._routes += routes

    @property
    def port(self) -> int:
        """The port that is listened on; 0 when none is."""
        return int(self._listener.getsockname()[1]) if self._listener is not None else 0

    async def open(self, seal: Seal, mail: Mail) -> None:
        """Be ready for connections, whoever brings them."""
        self._seal, self._mail = seal, mail
        app = web.Application(client_max_size=MAXIMUM_BYTES)
        app.add_routes(
            [
                web.post("/grid/1/messages", self._take_message),
                web.get("/grid/1/streams/{name}/{id}", self._take_stream),
                *self._routes,
            ]
        )
        app.on_response_prepare.append(_hide_versions)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            auto_decompress=False,
            lingering_time=0,
            shutdown_timeout=2.0,
        )
        await self._runner.setup()

    async def listen(self, host: str, port: int) -> None:
        """Listen on a port; 0 is any free one. Raises PortTaken, InvalidSettings."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, address = found[0]
            listener = socket.socket(family, kind, protocol)
        except OSError as error:
            raise InvalidSettings(f"grid.listen: {host} is no address of this computer: {error}.") from error
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(256)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(
                    f"grid.listen: somebody else listens on {host}:{port}.", remedy="Choose another port."
                ) from error
            raise InvalidSettings(f"grid.listen: cannot listen on {host}:{port}: {error}.") from error
        listener.setblocking(False)
        self._listener = listener
        loop.add_reader(listener, self._accept, listener)

    async def close(self) -> None:
        """Let nobody in, and let go of who is there. May be called twice."""
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        if self._pausing is not None:
            self._pausing.cancel()
        tasks = [*self._shaking, *(task for tasks in self._streaming.values() for task in tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        for transport in list(self._transports):
            transport.abort()  # those too that say goodbye to somebody who does not answer
        self._open.clear()
        await asyncio.sleep(0.01)

    async def serve(self, connection: socket.socket, where: str) -> None:
        """Let in who is at the other end of a connected socket, `where` for the log; return once TLS is done.

        The socket is the door's from now on.
        """
        runner, seal, mail = self._runner, self._seal, self._mail
        if runner is None or seal is None or mail is None or runner.server is None:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        try:
            context = await seal.called(mail.circle.trusted_keys())
            transport, _ = await loop.connect_accepted_socket(
                runner.server, connection, ssl=context, ssl_handshake_timeout=SHAKE, ssl_shutdown_timeout=2.0
            )
        except (OSError, GridcloudError) as error:
            connection.close()
            why = getattr(error, "verify_message", "") or getattr(error, "reason", "") or error
            self._links.refused(UnknownSigner(f"no TLS with it: {why}"), what=f"a connection from {where}")
            return
        self._transports.add(transport)
        try:
            self._keep(transport)
        except BaseException:  # whom we cannot count is not let in
            transport.abort()
            raise

    def member(self, request: web.Request) -> str:
        """Return which member asks, as its certificate proved; empty for a guest. Raises as `Mail.recognise`."""
        key, who = _proven(request.transport)
        if not key or self._mail is None:
            return ""
        return self._mail.recognise(key, who)

    def sure_member(self, request: web.Request, size: int = 0) -> str:
        """Return which member asks, and count it. Raises UnknownSigner for a guest too, Throttled."""
        who = self.member(request)
        if not who:
            raise UnknownSigner("who asks showed no certificate")
        self._allowance.take(who, size, self._now())
        return who

    def cut_strangers(self) -> None:
        """End the streams of who is no member any more, and all connections that a revoked key proved."""
        if self._mail is None:
            return
        for one in [one for key, there in self._open.items() if key for one in _alive(there)]:
            key, who = _proven(one)
            if self._mail.is_revoked(key, who):
                log.info("a connection of %s ends: its key was revoked", who)
                one.abort()
        members = self._mail.circle.members()
        for who in set(self._streaming) - set(members):
            log.info("the streams of %s end: it is no member any more", who)
            for task in self._streaming.pop(who):
                task.cancel()

    # Connections -----------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        """Let one in. In one step: of a task that is cancelled meanwhile, asyncio may forget whom it let in."""
        loop = asyncio.get_running_loop()
        try:
            connection, address = listener.accept()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:  # no more files, or the other side went already
            log.warning("the door of the grid: %s", error)
            loop.remove_reader(listener)
            self._pausing = loop.call_later(1.0, loop.add_reader, listener, self._accept, listener)
            return
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # it went already: no reason to let nobody else in
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.create_task(self.serve(connection, str(address[0])), name="grid: handshake")
        source = _source(str(address[0]))
        self._shaking[task] = source
        task.add_done_callback(functools.partial(self._shaken, connection))
        alike = [one for one, other in self._shaking.items() if other == source]
        if len(alike) > HANDSHAKES_EACH:
            alike[0].cancel()
        elif len(self._shaking) > HANDSHAKES:
            next(iter(self._shaking)).cancel()

    def _shaken(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._shaking.pop(task, None)
        if task.cancelled():
            connection.close()

    def _keep(self, transport: asyncio.Transport) -> None:
        """Bound how many connections a member has, and guests together, and how long these stay."""
        try:
            key, _ = _proven(transport)
        except MessageRefused as refusal:
            self._links.refused(refusal, what="a connection")
            transport.close()
            return
        there = _alive(self._open.get(key, []))
        if key and len(there) >= CONNECTIONS:
            self._links.refused(Throttled(f"there are {CONNECTIONS} connections of it"), what="a connection")
            transport.close()
            return
        if not key:
            source = _source_of(transport)
            alike = [one for one in there if _source_of(one) == source]
            crowd, most = (alike, GUESTS_EACH) if len(alike) >= GUESTS_EACH else (there, GUESTS)
            for one in crowd[: max(0, len(crowd) + 1 - most)]:
                one.close()
                there.remove(one)
        self._open[key] = [*there, transport]
        if not key:
            asyncio.get_running_loop().call_later(GUEST_SECONDS, transport.close)
        for allowance in (self._allowance, self._guest_allowance):
            if len(allowance) > REMEMBERED:
                allowance.forget(self._now())
        if len(self._open) > HANDSHAKES:
            self._open = {one: left for one, all_ in self._open.items() if (left := _alive(all_))}

    # Messages --------------------------------------------------------------------------------------------------

    async def _take_message(self, request: web.Request) -> web.StreamResponse:
        who = ""
        try:
            who = self.member(request)
            return web.Response(**await self._answer(request, who))
        except GridcloudError as error:
            return self.refuse(error, who)
        except Exception:  # a fault of ours, which a member may have found and send again and again
            now = self._clock.monotonic()
            if now - self._faulty >= FAULTS:
                self._faulty = now
                log.exception("a message of %s is not answered", who or "a guest")
            return self.refuse(Unavailable("Something is wrong here."), who)

    async def _answer(self, request: web.Request, who: str) -> dict[str, Any]:
        size = request.content_length
        if size is None or request.headers.get("Content-Encoding"):
            raise Malformed("a message comes with its length, and not compressed")
        if size > MAXIMUM_BYTES:
            raise Malformed(f"the message has {size} bytes, and {MAXIMUM_BYTES} is the most that is read")
        allowance = self._allowance if who else self._guest_allowance
        allowance.take(who or f"a guest from {_source_of(request.transport)}", size, self._now())
        try:
            async with asyncio.timeout(READ):
                data = await request.read()
        except (TimeoutError, web.HTTPRequestEntityTooLarge) as error:
            raise Malformed(f"the message of {size} bytes did not come whole within {READ:g} s") from error
        if self._mail is None or self._seal is None:
            raise NotFound("Nobody is here any more.")
        if not who:
            if self._guests_handler is None:
                raise UnknownSigner("guests are not let in here")
            self.visited = True
            return {"body": await self._guests_handler(data), "content_type": "application/json"}
        envelope = self._mail.open(data, who)
        self.visited = True
        handler = self._find(envelope.kind)
        answer = await handler(who, envelope.kind, envelope.body)
        if answer is None:
            return {"status": 204}
        body = self._seal.sign(answer[0], who, answer[1], answers=envelope.nonce)
        return {"body": body, "content_type": "application/json"}

    def _find(self, kind: str) -> MessageHandler:
        parts = kind.split(".")
        for count in range(len(parts), 0, -1):
            handler = self._handlers.get(".".join(parts[:count]))
            if handler is not None:
                return handler
        raise InvalidRequest(f"Messages of the kind {kind} are not understood here.")

    def refuse(self, error: GridcloudError, who: str) -> web.Response:
        """Return the answer to what is not done, and log it where it was not believed; `who`: as TLS proved."""
        if isinstance(error, MessageRefused | Throttled):
            self._links.refused(error, who)
        seconds = error.details.get("seconds")
        told = error.problem() | {"details": {"seconds": seconds} if seconds is not None else {}}
        response = web.json_response(told, status=error.status, content_type="application/problem+json")
        if isinstance(error, MessageRefused):
            response.force_close()
        return response

    # Streams ---------------------------------------------------------------------------------------------------

    async def _take_stream(self, request: web.Request) -> web.StreamResponse:
        who = ""
        try:
            who = self.sure_member(request)
            name, what = request.match_info["name"], request.match_info["id"]
            if name not in self._streams or len(what) > 128:
                raise NotFound(f"There are no streams {name!r:.80} here.")
            handler, admit = self._streams[name]
            if admit is not None:
                await admit(who, what)
            return await self.bridge(request, who, lambda connection: handler(who, what, connection))
        except GridcloudError as error:
            return self.refuse(error, who)

    async def bridge(
        self, request: web.Request, who: str, use: Callable[[socket.socket], Awaitable[None]]
    ) -> web.WebSocketResponse:
        """Upgrade a request of a member to a websocket of raw bytes, and have `use` talk through it until either ends.

        Raises Throttled when the member has too many.
        """
        streaming = self._streaming.setdefault(who, set())
        if len(streaming) >= STREAMS:
            raise Throttled(f"{who} has {STREAMS} streams open.", remedy="Close some.")
        websocket = web.WebSocketResponse(max_msg_size=MESSAGE + 4096, heartbeat=30.0, compress=False)
        if not websocket.can_prepare(request):
            raise InvalidRequest("A stream is a websocket.")
        task = asyncio.current_task()
        assert task is not None, "a request is answered within a task"  # noqa: S101 - for mypy
        streaming.add(task)
        try:
            await websocket.prepare(request)
            one, reader, writer = await pair()
            carrying = asyncio.create_task(
                splice(reader, writer, WebMessages(websocket)), name="grid: stream"
            )
            using = asyncio.ensure_future(use(one))
            try:
                await asyncio.wait([carrying, using], return_when=asyncio.FIRST_COMPLETED)
                if using.done():
                    one.close()  # what it wrote last is still carried
                await asyncio.wait([carrying, using], timeout=GRACE)
            finally:
                using.cancel()
                carrying.cancel()
                failure, _ = await asyncio.gather(using, carrying, return_exceptions=True)
                one.close()
                if isinstance(failure, Exception):
                    log.warning("a stream of %s: %s", who, failure)
        finally:
            streaming.discard(task)
            if not streaming and self._streaming.get(who) is streaming:
                del self._streaming[who]
        return websocket

    def _now(self) -> int:
        return int(self._clock.monotonic() * 1000)


def _proven(transport: asyncio.BaseTransport | None) -> tuple[str, str]:
    """Return which key the other end of a connection proved, and who it said it is."""
    connection = transport.get_extra_info("ssl_object") if transport is not None else None
    return proven(connection) if isinstance(connection, ssl.SSLObject | ssl.SSLSocket) else ("", "")


def _source_of(transport: asyncio.BaseTransport | None) -> str:
    """Return where a connection comes from; nothing for one that a relay carries."""
    name = transport.get_extra_info("peername") if transport is not None else None
    return _source(str(name[0])) if isinstance(name, tuple) else ""


def _source(address: str) -> str:
    """Return whom an address belongs to: itself, or its network /64, whose addresses one computer may all have."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    inner = found.ipv4_mapped
    return str(inner) if inner is not None else str(ipaddress.ip_network((int(found), 64), strict=False))


async def _hide_versions(request: web.Request, response: web.StreamResponse) -> None:
    """Say to nobody which versions of what answer."""
    response.headers["Server"] = "gridcloud"


def _alive(transports: list[asyncio.Transport]) -> list[asyncio.Transport]:
    return [one for one in transports if not one.is_closing()]
