"""HTTP to the service, over its private socket or HTTPS: documents in, documents or errors out."""

from __future__ import annotations

import asyncio
import json
import socket as socket_module
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
from pydantic import BaseModel

from gridcloud.connections.keepalive import keep_alive
from gridcloud.errors import (
    ConnectionLost,
    GridcloudError,
    InvalidSettings,
    NotFound,
    Unreachable,
    Untrusted,
    from_problem,
)
from gridcloud.service.documents import Event

__all__ = ["Wire"]

PATIENCE = 20.0
"""Seconds for which a service that went away is waited for when a story is followed."""

Document = TypeVar("Document", bound=BaseModel)


class Wire:
    """One place to ask."""

    def __init__(
        self, *, socket: Path | None = None, url: str = "", token: str = "", ca: Path | None = None
    ) -> None:
        connector: aiohttp.BaseConnector
        if socket is not None:
            connector = aiohttp.UnixConnector(str(socket), limit=0)
        else:
            # Names are found as every program here finds them, whatever other resolver is installed.
            resolver = aiohttp.ThreadedResolver()
            connector = aiohttp.TCPConnector(
                ssl=_verified(ca), limit=0, socket_factory=_kept_alive, resolver=resolver
            )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=15)
        self.place = str(socket) if socket else url
        self._base = "http://gridcloud/v1" if socket else f"{url.rstrip('/')}/v1"
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout)

    async def ask(
        self,
        method: str,
        path: str,
        kind: type[Document],
        body: BaseModel | dict[str, Any] | None = None,
        /,
        **query: Any,
    ) -> Document:
        """Return the answer as a document. Raises the error that the service answered with, or Unreachable."""
        async with self.send(method, path, body, **query) as response:
            return kind.model_validate_json(await response.read())

    async def tell(self, method: str, path: str, body: Any = None, /, **query: Any) -> None:
        """Do something that has no answer; ``body`` may be a stream of bytes."""
        async with self.send(method, path, body, **query):
            return

    def send(self, method: str, path: str, body: Any = None, /, **query: Any) -> _Sending:
        """Return a context with the open response, its status checked."""
        options: dict[str, Any] = {
            "params": {key: _spell(value) for key, value in query.items() if value is not None}
        }
        if isinstance(body, BaseModel):
            options |= {"data": body.model_dump_json(exclude_unset=True), "headers": _JSON}
        elif isinstance(body, dict):
            options |= {"data": json.dumps(body), "headers": _JSON}
        elif body is not None:  # a stream: sent once the service has said that it wants it
            options |= {"data": body, "expect100": True}
        return _Sending(self, self._session.request(method, self._base + path, **options))

    async def events(self, path: str, *, follow: bool, after: int) -> AsyncIterator[Event]:
        """Yield events from ``after`` on. A cut stream that is followed is taken up where it was.

        Raises Unreachable when the service does not come back within `PATIENCE` seconds.
        """
        pauses = _pauses()
        while True:
            try:
                async with self.send("GET", path, follow=follow, after=after) as response:
                    async for line in response.content:
                        pauses = _pauses()
                        if line.startswith(b"data: "):
                            event = Event.model_validate_json(line[6:])
                            after = event.seq
                            yield event
                        elif line.startswith(b": end"):
                            return
                raise ConnectionLost(f"{self.place} broke off in the middle of a story.")
            except Unreachable:
                pause = next(pauses, None)
                if not follow or pause is None:
                    raise
                await asyncio.sleep(pause)

    async def websocket(self, path: str) -> aiohttp.ClientWebSocketResponse:
        """Open a websocket. Raises Unreachable, Untrusted."""
        try:
            # No heartbeat: a client that is made to wait reads no answer to it. The kernel tells who is gone.
            return await self._session.ws_connect(self._base + path, max_msg_size=4 << 20)
        except aiohttp.ClientError as error:
            raise _failed(self.place, error) from error

    async def close(self) -> None:
        """Let go. May be called twice."""
        await self._session.close()


class _Sending:
    def __init__(self, wire: Wire, context: Any) -> None:
        self._wire = wire
        self._context = context

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            response: aiohttp.ClientResponse = await self._context.__aenter__()
        except (aiohttp.ClientError, OSError) as error:
            raise _failed(self._wire.place, error) from error
        if response.status >= 400:
            try:
                raise await _error(response)
            finally:
                await self._context.__aexit__(None, None, None)
        return response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._context.__aexit__(kind, error, trace)
        if isinstance(error, aiohttp.ClientError):
            raise ConnectionLost(f"{self._wire.place} broke off in the middle of its answer.") from error


_JSON = {"Content-Type": "application/json"}


async def _error(response: aiohttp.ClientResponse) -> GridcloudError:
    try:
        document = json.loads(await response.read())
    except ValueError:
        document = None
    if not isinstance(document, dict):
        kind = NotFound if response.status == 404 else GridcloudError
        return kind(f"{response.url.path} answered {response.status} {response.reason}.")
    return from_problem(document)


def _spell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _failed(place: str, error: Exception) -> GridcloudError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return Untrusted(
            f"{place} shows a certificate that is not trusted: {error}",
            remedy="Name the file of its authority's certificate: SSL_CERT_FILE, or `ca` of a client.",
        )
    if isinstance(error, aiohttp.WSServerHandshakeError) and error.status < 500:
        return NotFound(f"There is nothing at {error.request_info.url.path}.")
    return Unreachable(f"Nobody answers at {place}: {error or type(error).__name__}")


def _verified(ca: Path | None) -> ssl.SSLContext:
    """Trust what this computer trusts (or SSL_CERT_FILE), or the authorities in one file and nobody else."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSettings(f"{ca} is no file of certificates (PEM): {error}.") from error


def _kept_alive(address: aiohttp.AddrInfoType) -> socket_module.socket:
    family, kind, protocol, _, _ = address
    connection = socket_module.socket(family, kind, protocol)
    keep_alive(connection)
    return connection


def _pauses() -> Iterator[float]:
    """Yield the seconds to wait between tries, `PATIENCE` in all."""
    left, pause = PATIENCE, 0.05
    while left > 0:
        yield pause
        left, pause = left - pause, min(pause * 2, 1.0)
