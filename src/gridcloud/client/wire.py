"""HTTP to the service, over its private socket or HTTPS: documents in, documents or errors out."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from pydantic import BaseModel

from gridcloud.errors import GridcloudError, NotFound, Unreachable, Untrusted, from_problem
from gridcloud.service.documents import Event

__all__ = ["Wire"]

Document = TypeVar("Document", bound=BaseModel)


class Wire:
    """One place to ask."""

    def __init__(self, *, socket: Path | None = None, url: str = "", token: str = "") -> None:
        connector = aiohttp.UnixConnector(str(socket), limit=0) if socket else aiohttp.TCPConnector(ssl=_verified())
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
        elif body is not None:
            options |= {"data": body}
        return _Sending(self, self._session.request(method, self._base + path, **options))

    async def events(self, path: str, *, follow: bool, after: int) -> AsyncIterator[Event]:
        """Yield events from ``after`` on; a cut stream is taken up where it was."""
        while True:
            try:
                async with self.send("GET", path, follow=follow, after=after) as response:
                    async for line in response.content:
                        if line.startswith(b"data: "):
                            event = Event.model_validate_json(line[6:])
                            after = event.seq
                            yield event
                return
            except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionResetError):
                if not follow:
                    raise Unreachable(f"{self.place} broke off in the middle of its answer.") from None

    async def websocket(self, path: str) -> aiohttp.ClientWebSocketResponse:
        """Open a websocket. Raises Unreachable."""
        try:
            return await self._session.ws_connect(self._base + path, max_msg_size=0, heartbeat=20)
        except aiohttp.ClientError as error:
            raise Unreachable(f"{self.place} does not take a websocket: {error}") from error

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
        except aiohttp.ClientConnectorCertificateError as error:
            raise Untrusted(f"{self._wire.place} shows a certificate that is not trusted: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"Nobody answers at {self._wire.place}: {error}") from error
        if response.status >= 400:
            try:
                raise await _error(response)
            finally:
                await self._context.__aexit__(None, None, None)
        return response

    async def __aexit__(self, *details: Any) -> None:
        await self._context.__aexit__(*details)


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


def _verified() -> ssl.SSLContext:
    return ssl.create_default_context()
