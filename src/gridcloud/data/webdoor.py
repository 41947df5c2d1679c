"""The door of HTTPS and WebDAV: ``/s/SECRET/path``, one server for browsers, scripts and WebDAV clients."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from gridcloud.clock import Clock
from gridcloud.data.driver import Entry
from gridcloud.data.links import PREFIX
from gridcloud.data.model import Door
from gridcloud.data.paths import Names, from_url, show, to_url
from gridcloud.data.shares import Knock, Shares
from gridcloud.data.visits import Visit
from gridcloud.data.webdav import METHODS, Request, guarded
from gridcloud.data.webfiles import (
    SAFE,
    answer_file,
    broken,
    forget_upload,
    http_date,
    receive_file,
    tell_upload,
    upload_token,
)
from gridcloud.data.weblocks import Locks
from gridcloud.data.webpage import POLICY, render
from gridcloud.errors import GridcloudError, InvalidRequest, NotAuthenticated, NotFound, PortTaken, Throttled

__all__ = ["WebDoor"]

log = logging.getLogger(__name__)

FIELD = 8190
"""Bytes of one header field, and of the request line: `openssl`, `nginx` and browsers do with less."""

LISTED = 100_000
"""Entries of a folder that are told as one JSON document."""

GRACE = 5.0
"""Seconds that what is under way may take to end when the door is closed."""

_DAV = frozenset(METHODS) - {"OPTIONS", "DELETE"}


class WebDoor:
    """Listens while it is open. ``certificate``: a context to speak TLS with; None: plain HTTP."""

    def __init__(self, shares: Shares, clock: Clock, certificate: ssl.SSLContext | None = None) -> None:
        self._shares = shares
        self._clock = clock
        self._certificate = certificate
        self._locks: dict[str, Locks] = {}
        self._runner: web.ServerRunner | None = None
        self._busy: set[asyncio.Task[Any]] = set()
        self._files = {
            f"/_/{name}": (resources.files("gridcloud.data").joinpath("pages", name).read_bytes(), kind)
            for name, kind in (("share.css", "text/css"), ("share.js", "text/javascript"))
        }

    async def open(self, host: str, port: int) -> int:
        """Listen; return the port, which is chosen where 0 is given. Raises PortTaken."""
        server = web.Server(
            self._answer,
            access_log=None,
            keepalive_timeout=75,
            max_line_size=FIELD,
            max_field_size=FIELD,
            read_bufsize=1 << 20,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=GRACE)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=self._certificate, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            await self.close()
            raise PortTaken(
                f"Shares cannot be served at {host}:{port}: {error.strerror}.",
                remedy="Change shares.host or shares.port.",
            ) from error
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop listening, and close what is open. May be called twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        if self._busy:  # those of clients that had just gone wait for what will not come
            for task in self._busy:
                task.cancel()
            await asyncio.wait(self._busy, timeout=GRACE)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.task not in self._busy:  # one for each connection
            self._busy.add(request.task)
            request.task.add_done_callback(self._busy.discard)
        path, _, _ = _path_of(request).partition("?")
        try:
            if path.startswith("/f/"):
                return await self._serve_signed(request, path)
            if not path.startswith("/s/"):
                return self._own(request, path)
            _, _, secret, *rest = path.split("/", 3)
            return await self._serve(request, secret, rest[0] if rest else "", f"/s/{secret}", path)
        except GridcloudError as error:
            return _refusal(request, error)
        except ConnectionResetError as error:
            # The client has gone, or was cut off: this reaches nobody, and is no fault to be written down as one.
            log.debug("a client has gone: %s", error)
            return web.Response(status=400)
        except TimeoutError:
            raise
        except OSError as error:
            log.warning("a request failed: %s", error)
            return web.Response(status=500, text="The gateway could not do that.")

    def _own(self, request: web.BaseRequest, path: str) -> web.Response:
        """Answer what is no share: the parts of our page."""
        if path == "/" and request.method == "OPTIONS":
            return web.Response(headers={"DAV": "1, 2"})
        if path not in self._files or request.method not in ("GET", "HEAD"):
            return web.Response(status=404, text="There is nothing here.", headers=SAFE)
        body, kind = self._files[path]
        headers = {"Cache-Control": "max-age=3600", **SAFE}
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    async def _serve(
        self, request: web.BaseRequest, secret: str, rest: str, prefix: str, path: str
    ) -> web.StreamResponse:
        door = Door.WEBDAV if request.method in _DAV else Door.HTTPS
        address = request.remote or ""
        visit = await self._shares.admit(Knock(door, address, secret, _password(request)))
        with _cut_by(visit, request):
            asked = Request(
                request, visit, from_url(rest), prefix, self._locks_of(visit), slash=path.endswith("/")
            )
            visit.check()
            return await self._do(asked)

    async def _serve_signed(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Answer what was signed: one file, to be read."""
        match = re.fullmatch(r"/f/([a-z2-7]{32})/(\d{1,11})/([\w-]{43})/(.+)", path, re.ASCII)
        if match is None:
            return web.Response(status=404, text="There is nothing here.", headers=SAFE)
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD", **SAFE})
        names = from_url(match[4])
        share_id = f"{PREFIX}{match[1]}"
        visit = await self._shares.admit_signed(
            request.remote or "", share_id, int(match[2]), match[3], names
        )
        with _cut_by(visit, request):
            return await answer_file(request, visit, names)

    async def _do(self, asked: Request) -> web.StreamResponse:
        request, visit, path = asked.request, asked.visit, asked.path
        if request.method == "DELETE" and (token := upload_token(request)):
            return await forget_upload(visit, path, token)
        handler = METHODS.get(request.method)
        if handler is not None:
            response: web.StreamResponse = await handler(asked)
            return response
        if request.method == "PUT":
            if asked.slash or not path:
                return web.Response(status=405, text="A folder is made by MKCOL.")
            if (refusal := await guarded(asked, path)) is not None:
                return refusal
            try:
                return await receive_file(request, visit, path)
            except NotFound as error:
                if error.details.get("limit"):
                    raise
                return web.Response(status=409, text="The folder that it is to lie in is missing.")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD, PUT, " + ", ".join(METHODS)})
        if request.method == "HEAD" and (token := upload_token(request)):
            return await tell_upload(visit, path, token)
        return await self._show(asked)

    async def _show(self, asked: Request) -> web.StreamResponse:
        request, visit, path = asked.request, asked.visit, asked.path
        # What most ask for is a file: one look less.
        if path and not asked.slash and request.method == "GET" and visit.may_read:
            try:
                return await answer_file(request, visit, path)
            except InvalidRequest:
                pass
        entry = await visit.stat(path)
        if not entry.folder:
            if asked.slash:
                raise NotFound(f"There is no folder {show(path)}.")
            return await answer_file(request, visit, path)
        if not asked.slash:
            return web.Response(
                status=301, headers={"Location": asked.href(path, entry).rstrip("/") + "/", **SAFE}
            )
        if "application/x-ndjson" in request.headers.get("Accept", ""):
            return await _lines(request, visit, path)
        if "application/json" in request.headers.get("Accept", ""):
            return web.json_response(await _listing(visit, path), headers=SAFE)
        page = await render(visit, path, asked.prefix)
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", **SAFE}
        return web.Response(
            text="" if request.method == "HEAD" else page, content_type="text/html", headers=headers
        )

    def _locks_of(self, visit: Visit) -> Locks:
        # As many as there are shares that were visited; each is empty, or small.
        return self._locks.setdefault(visit.share.id, Locks(self._clock))


async def _listing(visit: Visit, path: Names) -> dict[str, object]:
    entries: list[dict[str, object]] = []
    async for batch in visit.scan(path):
        entries += [_told(one) for one in batch]
        if len(entries) > LISTED:
            raise InvalidRequest(
                f"The folder has more than {LISTED} entries.", remedy="List it by WebDAV or SFTP."
            )
    return {"entries": sorted(entries, key=lambda one: str(one["name"]))}


async def _lines(request: web.BaseRequest, visit: Visit, path: Names) -> web.StreamResponse:
    """Tell a folder of any size: an entry a line, in no order."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", **SAFE})
    found = visit.scan(path)
    first: list[Entry] = await anext(found, [])  # what is wrong is known before we answer
    try:
        await response.prepare(request)
        await response.write(_written(first))
        async for batch in found:
            await response.write(_written(batch))
        await response.write_eof()
    except (GridcloudError, OSError) as error:
        raise broken(request, error) from error
    return response


def _written(batch: list[Entry]) -> bytes:
    return "".join(f"{json.dumps(_told(one))}\n" for one in batch).encode()


def _told(one: Entry) -> dict[str, object]:
    return {
        "name": one.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        "href": to_url((one.name,)),
        "folder": one.folder,
        "size": one.size,
        "modified": http_date(one.modified),
        "tag": one.tag,
    }


@contextmanager
def _cut_by(visit: Visit, request: web.BaseRequest) -> Iterator[None]:
    """Have a request cut off when its visit ends before its time."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    release = visit.on_cut(id(request), partial(_abort, transport, asyncio.current_task()))
    try:
        yield
    finally:
        release()


def _path_of(request: web.BaseRequest) -> str:
    """Return the path and query as they were sent; some clients send the whole URL."""
    raw = request.raw_path
    if raw.startswith("/"):
        return raw
    found = urlsplit(raw)
    return f"{found.path}?{found.query}" if found.query else found.path


def _password(request: web.BaseRequest) -> str:
    """Return the password of Basic authentication; whoever is named there is all the same."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(text.strip(), validate=True).decode("utf-8").partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _refusal(request: web.BaseRequest, error: GridcloudError) -> web.Response:
    """Return the answer for an error: its text, and the limit that it names."""
    status = int(error.details.get("status", 0)) or (422 if error.status == 422 else error.status)
    status = {422: 400, 502: 502}.get(status, status)
    headers = dict(SAFE)
    if limit := error.details.get("limit"):
        headers["X-Gridcloud-Limit"] = str(limit)
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = 'Basic realm="Shared folder", charset="UTF-8"'
    if isinstance(error, Throttled) or status == 503:
        headers["Retry-After"] = str(error.details.get("seconds", 60))
    response = web.Response(status=status, text=f"{error}\n", headers=headers)
    if request.can_read_body:  # what was not read of it would be taken for the next request
        response.force_close()
    return response


def _abort(transport: asyncio.Transport, task: asyncio.Task[object] | None) -> None:
    transport.abort()
    if task is not None:
        task.cancel()  # a sendfile that is under way hears nothing of the abort
