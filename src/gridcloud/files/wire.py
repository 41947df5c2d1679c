"""Requests at a share: connections that are kept, certificates that are checked, another try where that is safe.

What goes wrong is raised as Python's own errors of files, since that is what programs expect that open files:
FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, ConnectionError, or OSError with its number.
None names a secret.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from gridcloud.files.links import Place

__all__ = ["BROKEN", "Entry", "Wire", "again", "entry_of", "heard", "refusal"]

T = TypeVar("T")

TRIES = 6
"""How often the same is tried without getting further, before it is given up."""

LONGEST = 30.0
"""Seconds that are waited at most between two tries, and for a server that says how long it wants to be left alone."""

BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, asyncio.TimeoutError, ConnectionError)
"""What a connection that broke raises."""


class _Later(Exception):
    """The server wants to be asked again later."""

    def __init__(self, answer: OSError, seconds: float) -> None:
        super().__init__()
        self.answer = answer
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Entry:
    """What is at a place now."""

    folder: bool
    size: int
    """Bytes; 0 for a folder."""
    modified: float
    """Seconds since 1970."""
    tag: str
    """Changes whenever the content does; empty for a folder."""


class Wire:
    """What asks. ``connections``: how many to each server at the same time."""

    def __init__(self, connections: int = 16) -> None:
        self._connections = connections
        self._sessions: dict[tuple[object, str], aiohttp.ClientSession] = {}

    @asynccontextmanager
    async def ask(
        self, method: str, place: Place, *, query: str = "", data: Any = None, **headers: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Give the answer to one request, whatever it says. Raises what `again` takes up, such as ConnectionError."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if password := place.link.password.get_secret_value():
            sent["Authorization"] = f"Basic {b64encode(f'share:{password}'.encode()).decode()}"
        url = URL(f"{place.url}{'?' if query else ''}{query}", encoded=True)
        try:
            async with self._session(place).request(
                method, url, data=data, headers=sent, allow_redirects=False
            ) as response:
                if response.status in (429, 500, 502, 503, 504):
                    raise _Later(await refusal(response, place), _seconds(response.headers))
                yield response
        except aiohttp.ClientConnectorCertificateError as error:
            text = (
                f"The certificate of {place.link.shown} is not one that is trusted: {error.certificate_error}"
            )
            raise PermissionError(errno.EACCES, text) from error

    def _session(self, place: Place) -> aiohttp.ClientSession:
        key = (asyncio.get_running_loop(), str(place.link.ca or ""))
        session = self._sessions.get(key)
        if session is None or session.closed:
            # The address is looked up in a thread; aiodns would keep sockets of its own.
            connector = aiohttp.TCPConnector(
                limit_per_host=self._connections,
                resolver=aiohttp.ThreadedResolver(),
                ssl=ssl.create_default_context(cafile=place.link.ca),
                keepalive_timeout=30,
            )
            session = self._sessions[key] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60),
                read_bufsize=1 << 20,
                auto_decompress=False,
                headers={"User-Agent": "gridcloud", "Accept-Encoding": "identity"},
            )
        return session

    async def close(self) -> None:
        """Close what is kept open in this loop. May be called twice."""
        here = asyncio.get_running_loop()
        for key in [key for key in self._sessions if key[0] is here]:
            await self._sessions.pop(key).close()

    async def stat(self, place: Place) -> Entry:
        """Return what is there, in one round trip. Raises FileNotFoundError, PermissionError, ConnectionError."""

        async def work() -> Entry:
            async with self.ask("HEAD", place) as answer:
                if answer.status == 301 or (answer.status == 200 and not place.path):
                    return Entry(True, 0, 0.0, "")
                if answer.status != 200:
                    raise await refusal(answer, place)
                return entry_of(answer.headers, int(answer.headers.get("Content-Length", "0")))

        return await again(work, place)

    async def do(
        self, method: str, place: Place, *, query: str = "", data: Any = None, **headers: str
    ) -> int:
        """Do what may be done twice, and return the status; refusals are left to the caller, as are their texts."""

        async def work() -> int:
            async with self.ask(method, place, query=query, data=data, **headers) as answer:
                if answer.status in (401, 403, 423) or (answer.status == 404 and method != "DELETE"):
                    raise await refusal(answer, place)
                return answer.status

        return await again(work, place)


async def again(
    work: Callable[[], Awaitable[T]], place: Place, progress: Callable[[], object] | None = None
) -> T:
    """Return what ``work`` returns, trying again where the connection broke; tries count anew after ``progress``."""
    tries = 0
    before = progress() if progress else None
    while True:
        try:
            return await work()
        except (_Later, *BROKEN) as error:
            now = progress() if progress else None
            tries = 0 if now != before else tries + 1
            before = now
            later = error.seconds if isinstance(error, _Later) else 0.0
            if tries >= TRIES or later > LONGEST:
                if isinstance(error, _Later):
                    raise error.answer from None
                text = f"{place.link.shown} does not answer: {type(error).__name__}"
                raise ConnectionError(errno.EHOSTUNREACH, text) from error
            await asyncio.sleep(max(later, min(LONGEST, 0.1 * 2**tries) * random.uniform(0.5, 1)))  # noqa: S311


async def refusal(answer: aiohttp.ClientResponse, place: Place) -> OSError:
    """Return the error for an answer that says no, with the server's reason."""
    number = _NUMBERS.get(answer.status, errno.EIO)
    said = (
        "" if answer.method == "HEAD" else (await answer.content.read(500)).decode("utf-8", "replace").strip()
    )
    if "html" in answer.content_type or not said:
        said = answer.headers.get("X-Gridcloud-Limit", "") or os.strerror(number)
    return OSError(number, said, place.shown)  # which makes FileNotFoundError and the others by itself


def heard(task: asyncio.Task[Any]) -> None:
    """Take note of how a task ended: what went wrong ahead of who reads is told when it gets there, or to nobody."""
    if not task.cancelled():
        task.exception()


def entry_of(headers: Mapping[str, str], size: int) -> Entry:
    """Return what the headers of an answer say of a file."""
    try:
        modified = parsedate_to_datetime(headers.get("Last-Modified", "")).timestamp()
    except (ValueError, TypeError):
        modified = 0.0
    return Entry(False, size, modified, headers.get("ETag", "").strip('"'))


def _seconds(headers: Mapping[str, str]) -> float:
    try:
        return float(headers.get("Retry-After", "0"))
    except ValueError:
        return 1.0


_NUMBERS = {
    400: errno.EINVAL,
    401: errno.EACCES,
    403: errno.EACCES,
    404: errno.ENOENT,
    405: errno.EEXIST,
    409: errno.ENOENT,
    412: errno.EEXIST,
    413: errno.EFBIG,
    423: errno.EACCES,
    429: errno.EACCES,
    507: errno.ENOSPC,
}
"""What answers mean, as the kernel would say it."""
