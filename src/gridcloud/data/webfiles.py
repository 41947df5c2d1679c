"""Files over HTTP: reading with ranges and conditions, by sendfile where that goes; writing whole, or bit by bit."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import re
from collections.abc import AsyncIterator
from email.utils import formatdate, parsedate_to_datetime
from urllib.parse import parse_qs

from aiohttp import web

from gridcloud.data.driver import Entry
from gridcloud.data.paths import Names
from gridcloud.data.visits import Visit, VisitReader, VisitWriter
from gridcloud.errors import GridcloudError, InvalidRequest, NotFound

__all__ = [
    "SAFE",
    "answer_file",
    "broken",
    "etag",
    "forget_upload",
    "http_date",
    "receive_file",
    "tell_upload",
    "upload_token",
]

BLOCK = 512 << 10
"""Bytes that are read at once where sendfile does not go, such as over TLS."""

SMALL = 64 << 10
"""Bytes up to which an answer is sent with its head, in one go."""

SPAN = 16 << 20
"""Bytes that sendfile sends in one go: between them it is looked whether the visit still may."""

GATHER = 512 << 10
"""Bytes of an upload that are written at once."""

SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
"""What every answer carries: whose page it is must not be told, nor may a file pass for one of our own."""

_SHOWN = frozenset(
    {"application/pdf", "text/plain", "image/png", "image/jpeg", "image/gif", "image/webp", "video/mp4"}
)
"""What a browser may show itself. The rest is downloaded: a page that somebody put there would act in our name."""


class _Sent(web.StreamResponse):
    """An answer whose body goes from a file to the socket without passing through here."""

    def __init__(
        self, reader: VisitReader, first: int, count: int, status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(status=status, headers=headers)
        self._reader = reader
        self._first = first
        self._count = count
        self.content_length = count

    async def send(self, request: web.BaseRequest) -> None:
        """Send it all. What of it goes is counted before the head is sent: who may have it all gets it all."""
        self._reader.count(self._count)
        try:
            await self.prepare(request)
            descriptor = self._reader.fileno()
            transport = request.transport
            if transport is None:
                raise ConnectionResetError("the client has gone")
            if descriptor is None or transport.get_extra_info("sslcontext") is not None:
                await self._stream()
            else:
                await self._send(transport, descriptor)
            await self.write_eof()
        except (GridcloudError, OSError) as error:
            raise broken(request, error) from error
        finally:
            self._reader.count(-self._count)

    async def _send(self, transport: asyncio.Transport, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        with os.fdopen(os.dup(descriptor), "rb", buffering=0) as file:
            while self._count:
                self._reader.check()
                span = min(self._count, SPAN)
                try:
                    sent = await loop.sendfile(transport, file, self._first, span)
                except NotImplementedError:  # uvloop
                    await self._stream()
                    return
                self._advance(sent)

    async def _stream(self) -> None:
        while self._count:
            data = await self._reader.take(self._first, min(self._count, BLOCK))
            await self.write(data)
            self._advance(len(data))

    def _advance(self, size: int) -> None:
        if not size:
            raise ConnectionResetError("the file became shorter")
        self._first += size
        self._count -= size


def broken(request: web.BaseRequest, error: Exception) -> ConnectionResetError:
    """Cut off a client whose answer has begun and cannot be ended; return what to raise."""
    if request.transport is not None:
        request.transport.abort()
    return ConnectionResetError(str(error))


async def answer_file(request: web.BaseRequest, visit: Visit, path: Names) -> web.StreamResponse:
    """Answer a GET or HEAD of a file: whole, a range of it, or that it is as the client has it (RFC 9110)."""
    if request.method == "HEAD":
        entry = await visit.stat(path)
        status, first, count, headers = _plan(request, entry)
        headers["Content-Length"] = str(count)
        return web.Response(status=status, headers=headers)
    reader = await visit.read(path)
    try:
        status, first, count, headers = _plan(request, reader.entry)
        if status in (304, 412, 416):
            return web.Response(status=status, headers=headers)
        if count <= SMALL:
            reader.count(count)
            return web.Response(status=status, headers=headers, body=await reader.take(first, count))
        response = _Sent(reader, first, count, status, headers)
        await response.send(request)
        return response
    finally:
        await reader.close()


def _plan(request: web.BaseRequest, entry: Entry) -> tuple[int, int, int, dict[str, str]]:
    """Return the status, the first byte, their number, and the headers of an answer."""
    kind = mimetypes.guess_type(entry.name)[0] or "application/octet-stream"
    headers = {
        "ETag": etag(entry),
        "Last-Modified": http_date(entry.modified),
        "Accept-Ranges": "bytes",
        "Content-Type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self'",
        **SAFE,
    }
    if kind not in _SHOWN:
        headers["Content-Disposition"] = "attachment"
    asked = request.headers
    if "If-Match" in asked and not _matches(asked["If-Match"], entry):
        return 412, 0, 0, headers
    if "If-None-Match" in asked:
        if _matches(asked["If-None-Match"], entry):
            return 304, 0, 0, headers
    elif (since := _time(asked.get("If-Modified-Since", ""))) is not None and int(entry.modified) <= since:
        return 304, 0, 0, headers
    span = asked.get("Range", "")
    if_range = asked.get("If-Range", "")
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", span.replace(" ", ""))
    if not match or not any(match.groups()) or (if_range and if_range != etag(entry)):
        return 200, 0, entry.size, headers  # several ranges, too, are answered by the whole
    if match[1]:
        first = int(match[1])
        last = min(int(match[2]), entry.size - 1) if match[2] else entry.size - 1
    else:
        first, last = max(0, entry.size - int(match[2])), entry.size - 1
    if first > last:
        return 416, 0, 0, {**headers, "Content-Range": f"bytes */{entry.size}"}
    headers["Content-Range"] = f"bytes {first}-{last}/{entry.size}"
    return 206, first, last - first + 1, headers


async def receive_file(request: web.BaseRequest, visit: Visit, path: Names) -> web.Response:
    """Answer a PUT: the file appears when all of it has come, or it goes on with what came before under a token."""
    token = upload_token(request)
    before = await _there(visit, path)
    if before is not None and before.folder:
        return web.Response(status=405, text="A folder is there.")
    asked = request.headers
    if "If-Match" in asked and (before is None or not _matches(asked["If-Match"], before)):
        return web.Response(status=412)
    fresh = asked.get("If-None-Match", "").strip() == "*"
    if fresh and before is not None:
        return web.Response(status=412)
    span = _span(asked.get("Content-Range", ""))
    if span is not None and not token:
        return web.Response(status=400, text="A part of a file goes with ?upload=TOKEN.")
    writer = await visit.write(path, token=token)
    try:
        first, last = span if span is not None else (0, True)
        if first > writer.size:
            headers = {"Upload-Offset": str(writer.size)}
            return web.Response(status=409, headers=headers, text=f"{writer.size} bytes are there.")
        await _begin(request)
        if first < writer.size:
            await writer.truncate(first)
        size = await _fill(request, writer, first)
        if not last:
            return web.Response(status=202, headers={"Upload-Offset": str(size)})
        entry = await writer.finish(replace=not fresh, modified=_modified(request))
    except BaseException:
        if not token:
            await asyncio.shield(writer.abort())
        raise
    finally:
        await writer.leave()
    headers = {"ETag": etag(entry), "Last-Modified": http_date(entry.modified)} if visit.may_read else {}
    if _modified(request) is not None:
        headers["X-OC-MTime"] = "accepted"
    return web.Response(status=201 if before is None else 204, headers=headers)


async def tell_upload(visit: Visit, path: Names, token: str) -> web.Response:
    """Answer a HEAD with a token: how much of that upload is there."""
    writer = await visit.write(path, token=token)
    await writer.leave()
    return web.Response(status=204, headers={"Upload-Offset": str(writer.size), "Cache-Control": "no-store"})


async def forget_upload(visit: Visit, path: Names, token: str) -> web.Response:
    """Answer a DELETE with a token: what came of that upload is thrown away."""
    writer = await visit.write(path, token=token)
    await writer.abort()
    return web.Response(status=204)


def upload_token(request: web.BaseRequest) -> str:
    """Return the token of an upload that may be taken up again; empty where there is none. Raises InvalidRequest."""
    _, _, query = request.raw_path.partition("?")
    token = parse_qs(query).get("upload", [""])[0]
    if token and not re.fullmatch(r"[A-Za-z0-9_-]{8,64}", token):
        raise InvalidRequest("The token of an upload has 8 to 64 letters and digits.")
    return token


def etag(entry: Entry) -> str:
    """Return the ETag of a file as it stands in headers."""
    return f'"{entry.tag}"'


def http_date(seconds: float) -> str:
    """Return a time as headers have it."""
    return formatdate(seconds, usegmt=True)


async def _fill(request: web.BaseRequest, writer: VisitWriter, offset: int) -> int:
    """Write what comes, and return where it ends. Raises what ends it before its time."""
    async for data in _gathered(request):
        await writer.write(offset, data)
        offset += len(data)
    return offset


async def _gathered(request: web.BaseRequest) -> AsyncIterator[bytes]:
    parts: list[bytes] = []
    size = 0
    while True:
        data = await request.content.readany()
        if data:
            parts.append(data)
            size += len(data)
        if size >= GATHER or (not data and parts):
            yield parts[0] if len(parts) == 1 else b"".join(parts)
            parts, size = [], 0
        if not data and request.content.at_eof():
            return


async def _begin(request: web.BaseRequest) -> None:
    """Tell a client that waits for it that it may send."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


async def _there(visit: Visit, path: Names) -> Entry | None:
    try:
        return await visit.stat(path) if path else None
    except NotFound:
        return None


def _span(header: str) -> tuple[int, bool] | None:
    """Return where a part of a file begins, and whether it is the last. Raises InvalidRequest."""
    if not header:
        return None
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", header.strip())
    if not match:
        raise InvalidRequest(f"Content-Range: {header[:80]!r} is not 'bytes FIRST-LAST/SIZE'.")
    return int(match[1]), match[3] != "*" and int(match[2]) + 1 == int(match[3])


def _matches(header: str, entry: Entry) -> bool:
    tags = {one.strip().removeprefix("W/") for one in header.split(",")}
    return "*" in tags or etag(entry) in tags


def _modified(request: web.BaseRequest) -> float | None:
    """Return the time that a client wants a file to have: X-OC-MTime, as rclone and others send it."""
    try:
        return float(request.headers.get("X-OC-MTime", ""))
    except ValueError:
        return None


def _time(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError):
        return None
