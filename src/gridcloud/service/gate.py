"""The gate before the API: who it is comes first, and nobody sends more than a request needs, or too slowly.

Nothing of a request's body is read before it is known who asks, and none is gathered beyond `BODY` bytes; only files
may be larger, for they are never held whole.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from gridcloud.errors import GridcloudError, InvalidRequest
from gridcloud.service.access import caller_of
from gridcloud.service.logs import begin_request, note_user
from gridcloud.service.problems import answer

__all__ = ["BODY", "Gate"]

log = logging.getLogger(__name__)

BODY = 1 << 20
"""Bytes that the document of a request may have."""

PATIENCE = 30.0
"""Seconds to wait for the next part of a request's document."""

OPEN = frozenset(
    {
        ("POST", "/v1/agents/join"),
        ("GET", "/v1/agents/authority"),
        ("GET", "/v1/health/live"),
        ("GET", "/v1/health/ready"),
    }
)
"""What proves by its own document who asks, or may be known to all: nobody is asked to, with `SMALL` bytes at most."""

SMALL = 16 << 10

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Gate:
    """Stands before the app; websockets pass, for they tell their problems in their own messages."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let a request in, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        id_ = begin_request(connection.headers.get("x-request-id", ""))
        began = time.monotonic()
        status = 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", id_.encode())]
            await send(message)

        try:
            await self._let_in(scope, connection, receive, told)
        finally:
            milliseconds = round(1000 * (time.monotonic() - began), 1)
            fields = {"method": scope["method"], "path": scope["path"], "status": status, "ms": milliseconds}
            level = logging.INFO if status >= 400 else logging.DEBUG
            log.log(level, "%s %s: %d", scope["method"], scope["path"], status, extra={"gridcloud": fields})

    async def _let_in(
        self, scope: MutableMapping[str, Any], connection: HTTPConnection, receive: Receive, send: Send
    ) -> None:
        if (scope["method"], scope["path"]) in OPEN:
            await self._app(scope, _Bounded(receive, SMALL).receive, send)
            return
        try:
            caller = scope["gridcloud.caller"] = await caller_of(connection)
            note_user(caller.user)
        except GridcloudError as error:
            await answer(error)(scope, receive, send)
            return
        if scope["method"] == "PUT":  # files, which are streamed
            await self._app(scope, receive, send)
            return
        length = connection.headers.get("content-length", "0")
        if length.isdigit() and int(length) > BODY:
            await answer(InvalidRequest(TOO_LARGE), 413)(scope, receive, send)
            return
        await self._app(scope, _Bounded(receive).receive, send)


TOO_LARGE = f"A request may have {BODY} bytes at most."


class _Bounded:
    """Receives a body of bounded size, each part within a bounded time."""

    def __init__(self, receive: Receive, most: int = BODY) -> None:
        self._receive = receive
        self._most = most
        self._size = 0
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:  # now only the client's leaving is waited for
            return await self._receive()
        try:
            async with asyncio.timeout(PATIENCE):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the request did not come in time") from None
        self._size += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._size > self._most:
            raise HTTPException(413, f"a request may have {self._most} bytes at most")
        return message
