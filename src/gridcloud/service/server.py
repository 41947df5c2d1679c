"""Serve the API on the private socket, and on HTTPS where that is configured, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from gridcloud.connections.keepalive import keep_alive
from gridcloud.errors import GridcloudError, InvalidSettings, PortTaken
from gridcloud.service.app import build_app
from gridcloud.service.documents import WINDOW
from gridcloud.service.house import House

__all__ = ["serving"]


HEAD = 20.0
"""Seconds that the head of a request may take."""

_Door = tuple[socket.socket, Any, dict[str, Any]]
"""A listening socket, the app behind it, and the server's options for it."""


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class _Patient(H11Protocol):
    """HTTP for clients that say within `HEAD` seconds what they want; the head of a request has 64 KiB at most."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit = self.loop.call_later(HEAD, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget_limit()
        elif self._limit is None and self.transport.get_protocol() is self:
            self._limit = self.loop.call_later(HEAD, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_limit()
        super().connection_lost(exc)

    def _forget_limit(self) -> None:
        limit, self._limit = self._limit, None
        if limit is not None:
            limit.cancel()


@contextlib.asynccontextmanager
async def serving(house: House, path: Path) -> AsyncIterator[Callable[[], int]]:
    """Serve while the context is open: on the socket ``path`` (0600), and over HTTPS as configured.

    Gives what tells how many are connected to the socket. Raises PortTaken, InvalidSettings.
    """
    app = build_app(house)
    listeners: list[_Door] = [(_private_socket(path), _private(app), {})]
    try:
        listeners += _https(house, app)
        servers = [_start(listener, door, options) for listener, door, options in listeners]
    except BaseException:
        for listener, _, _ in listeners:
            listener.close()
        path.unlink(missing_ok=True)
        raise
    try:
        for server, task in servers:
            while not server.started:
                if task.done():
                    await task
                    raise GridcloudError("The service did not start; its log tells more.")
                await asyncio.sleep(0.005)
        yield lambda: len(servers[0][0].server_state.connections)
    finally:
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*(task for _, task in servers), return_exceptions=True)
        path.unlink(missing_ok=True)


def _start(listener: socket.socket, door: Any, options: dict[str, Any]) -> tuple[_Server, asyncio.Task[None]]:
    config = uvicorn.Config(
        door,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
        # Longer than clients keep idle connections, so that none sends a request into a closing one.
        timeout_keep_alive=75,
        http=_Patient,
        # Neither compiled parser, nor event loop, nor websocket library by what happens to be installed.
        loop="none",
        ws="websockets-sansio",
        ws_max_size=WINDOW + 4096,
        # A client that does not read for a while (a pager, a stopped terminal) answers no ping, and is there all
        # the same: the kernel's own keepalive tells who is gone.
        ws_ping_interval=20,
        ws_ping_timeout=None,
        ws_per_message_deflate=False,
        server_header=False,
        **options,
    )
    server = _Server(config)
    return server, asyncio.create_task(server.serve(sockets=[listener]), name="service: server")


def _private(app: FastAPI) -> Any:
    """Return the app as it is behind the private socket: whoever got in is the administrator."""

    async def door(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await app({**scope, "gridcloud.private": True}, receive, send)

    return door


def _private_socket(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    # Nobody can connect until it listens, and a umask would reach what other threads make meanwhile.
    path.chmod(0o600)
    listener.setblocking(False)
    return listener


def _https(house: House, app: FastAPI) -> list[_Door]:
    settings = house.settings().service
    if not settings.host:
        return []
    for key, name in ((settings.certificate, "certificate"), (settings.key, "key")):
        if not key or not Path(key).is_file():
            raise InvalidSettings(
                f"service.{name}: {key or 'nothing'} is no file.",
                remedy="HTTPS needs both service.certificate and service.key; leave service.host out for none.",
            )
    _check_certificate(settings.certificate, settings.key)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol by name: only then asyncio has what is accepted send small messages at once.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keep_alive(listener)  # what is accepted inherits it
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"The service cannot listen on {settings.host}:{settings.port}: {error.strerror}.",
            remedy="Change service.host or service.port.",
        ) from error
    listener.setblocking(False)
    return [(listener, app, {"ssl_certfile": settings.certificate, "ssl_keyfile": settings.key})]


def _check_certificate(certificate: str, key: str) -> None:
    if Path(key).stat().st_mode & 0o007:
        raise InvalidSettings(
            f"service.key: everybody on this computer may read {key}.", remedy=f"Run: chmod 600 {key}"
        )
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSettings(
            f"service.certificate and service.key ({certificate}, {key}) cannot be used: {error}.",
            remedy="Give the certificate and its own private key, both PEM.",
        ) from error
