"""The HTTP API of a container engine (Docker, Podman): calls, and streams that leave HTTP.

Protocol: https://docs.docker.com/reference/api/engine/ ; paths without a version, which each engine takes as its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

import aiohttp

from gridcloud.errors import (
    Forbidden,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NotFound,
    TimedOut,
    Unreachable,
)

__all__ = ["Engine"]

TIMEOUT = 30
"""Seconds for one call."""


class Engine:
    """One engine, by its URL: ``unix:///run/docker.sock``, or ``tcp://127.0.0.1:2375`` on this computer.

    A TCP address elsewhere is refused: whoever reaches an engine is root there. Forward its socket through SSH.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._socket, self._host, self._port = _parse(url)
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self, method: str, path: str, body: Any = None, query: Mapping[str, str | int] | None = None
    ) -> Any:
        """Return the JSON answer, None when there is none. Raises NotFound, Unreachable, Forbidden, InvalidRequest."""
        if self._session is None:
            connector = aiohttp.UnixConnector(self._socket) if self._socket else aiohttp.TCPConnector()
            timeout = aiohttp.ClientTimeout(total=TIMEOUT)
            self._session = aiohttp.ClientSession(
                f"http://{self._host}", connector=connector, timeout=timeout
            )
        try:
            async with self._session.request(method, path, json=body, params=query) as answer:
                text = await answer.text(errors="replace")
                if answer.status >= 400:
                    raise _translate(answer.status, text, self.url)
                return json.loads(text) if text.strip() else None
        except TimeoutError as error:
            raise TimedOut(
                f"The container engine at {self.url} did not answer within {TIMEOUT} s."
            ) from error
        except (OSError, aiohttp.ClientError, ValueError, RecursionError) as error:
            raise self._unreachable(error) from error  # the last two: what answers is no engine

    async def stream(self, path: str, body: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """POST, and return the connection as it is once the engine has switched it from HTTP to a raw stream."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(TIMEOUT):
                if self._socket:
                    reader, writer = await asyncio.open_unix_connection(self._socket)
                else:
                    reader, writer = await asyncio.open_connection(self._host.rpartition(":")[0], self._port)
                try:
                    writer.write(head.encode() + data)
                    answer = await reader.readuntil(b"\r\n\r\n")
                    status = int(answer.split(None, 2)[1])
                    if status not in (101, 200):
                        raise _translate(status, (await reader.read(4096)).decode(errors="replace"), self.url)
                except BaseException:
                    writer.transport.abort()
                    raise
                return reader, writer
        except TimeoutError as error:
            raise TimedOut(
                f"The container engine at {self.url} did not answer within {TIMEOUT} s."
            ) from error
        except (
            OSError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            ValueError,
            IndexError,
        ) as error:
            raise self._unreachable(error) from error

    async def close(self) -> None:
        """Let go of the engine. May be called twice."""
        if self._session is not None:
            await self._session.close()

    def _unreachable(self, error: Exception) -> GridcloudError:
        if isinstance(error, PermissionError):
            return Forbidden(
                f"The container engine's socket {self._socket} may not be opened.",
                remedy="Add the user that runs gridcloud to the socket's group, or use a rootless engine.",
            )
        return Unreachable(
            f"No container engine answers at {self.url}: {error}", remedy="Is the engine's service running?"
        )


def _parse(url: str) -> tuple[str, str, int]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in ("unix", "http+unix") and parts.path and not parts.netloc:
        return parts.path, "engine", 0
    if parts.scheme in ("tcp", "http") and parts.hostname and parts.port:
        try:
            loopback = ipaddress.ip_address(parts.hostname).is_loopback
        except ValueError:
            loopback = parts.hostname == "localhost"
        if loopback:
            return "", f"{parts.hostname}:{parts.port}", parts.port
    raise InvalidSettings(
        f"{url!r} is not a container engine's address that may be used.",
        remedy="Write unix:///path/of/the/socket, or tcp://127.0.0.1:PORT; reach an engine on another computer "
        "by forwarding its socket through SSH.",
    )


def _translate(status: int, text: str, url: str) -> GridcloudError:
    try:
        said = str(json.loads(text[text.index("{") :]).get("message", text))
    except ValueError:
        said = text.strip()
    message = f"The container engine at {url} says: {said or status}"
    # Podman answers 500 where a container goes while it is being looked at.
    if status == 404 or (status == 500 and said.endswith("no such container")):
        return NotFound(message)
    if status in (401, 403):
        return Forbidden(message)
    if status == 400:
        return InvalidRequest(message)
    if status == 409:
        return Unreachable(message)  # the container is stopped or paused
    return GridcloudError(message)
