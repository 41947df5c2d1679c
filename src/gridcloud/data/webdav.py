"""WebDAV, classes 1 and 2 (RFC 4918): properties, folders, moving, copying, locks.

Properties of a client's own are refused, as the RFC allows: there is no place for them beside a file.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeAlias
from xml.etree.ElementTree import Element, ParseError, QName, SubElement, tostring
from xml.sax.saxutils import escape

from aiohttp import web
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from gridcloud.data.driver import Entry
from gridcloud.data.paths import Names, from_url, to_url
from gridcloud.data.visits import Visit
from gridcloud.data.webfiles import SAFE, broken, etag, http_date
from gridcloud.data.weblocks import LONGEST, Lock, Locks, read_conditions
from gridcloud.errors import Conflict, GridcloudError, InvalidRequest, NotFound

__all__ = ["METHODS", "Request", "guarded"]

BODY = 64 << 10
"""Bytes of XML that a request may have."""

LARGEST = 512
"""Properties that one request may ask for."""

XML = "application/xml; charset=utf-8"

Handler: TypeAlias = Callable[["Request"], Any]


class Request:
    """A request at a share: who asks, for what, and the share's locks."""

    def __init__(
        self, request: web.BaseRequest, visit: Visit, path: Names, prefix: str, locks: Locks, slash: bool
    ) -> None:
        self.request = request
        self.visit = visit
        self.path = path
        self.prefix = prefix
        self.locks = locks
        self.slash = slash
        """Whether the URL ended in a slash: it means a folder."""

    def href(self, path: Names, entry: Entry | None = None) -> str:
        """Return the path of the URL of something here."""
        end = "/" if entry is not None and entry.folder and path else ""
        return f"{self.prefix}/{to_url(path)}{end}"

    async def destination(self) -> Names:
        """Return where something is to go. Raises InvalidRequest where that is no place in this share."""
        text = self.request.headers.get("Destination", "")
        path = re.sub(r"^https?://[^/]*", "", text)
        if not path.startswith(f"{self.prefix}/"):
            raise InvalidRequest("The destination is not in this share.", details={"status": 502})
        return from_url(path[len(self.prefix) :])

    async def xml(self) -> Element | None:
        """Return the document that was sent, or None where there is none. Raises InvalidRequest."""
        raw = await self.request.content.read(BODY + 1)
        while raw and len(raw) <= BODY and not self.request.content.at_eof():
            raw += await self.request.content.read(BODY + 1 - len(raw))
        if len(raw) > BODY:
            raise InvalidRequest(f"A request has {BODY} bytes at most.", details={"status": 413})
        if not raw.strip():
            return None
        try:
            found: Element = fromstring(raw, forbid_dtd=True)
        except (ParseError, DefusedXmlException, ValueError) as error:
            raise InvalidRequest(
                f"The document is not well-formed: {error}.", details={"status": 400}
            ) from error
        return found


async def guarded(asked: Request, *paths: Names, deep: bool = False) -> web.Response | None:
    """Return the refusal where a condition does not hold, or a lock stands in the way of changing these; else None."""
    header = asked.request.headers.get("If", "")
    tokens: set[str] = set()
    if header:
        lists = read_conditions(header, asked.prefix)
        tokens = {token for one in lists for holds, token, _ in one.states if holds and token}
        if not any([await _holds(asked, one.path, one.states) for one in lists]):
            return web.Response(status=412)
    for path in paths:
        there = asked.locks.of(path) + (asked.locks.below(path) if deep else [])
        if path:
            there += [one for one in asked.locks.of(path[:-1]) if one.path == path[:-1]]
        if there and not any(one.token in tokens for one in there):
            return web.Response(status=423, text="Somebody else has locked it.")
    return None


async def _holds(asked: Request, path: Names | None, states: Iterable[tuple[bool, str, str]]) -> bool:
    place = asked.path if path is None else path
    locks = {one.token for one in asked.locks.of(place)}
    for holds, token, tag in states:
        if token:
            found = token in locks
        else:
            try:
                found = tag == etag(await asked.visit.stat(place))
            except NotFound:
                found = False
        if found is not holds:
            return False
    return True


async def _options(asked: Request) -> web.Response:
    methods = "OPTIONS, GET, HEAD, PUT, DELETE, PROPFIND, PROPPATCH, MKCOL, COPY, MOVE, LOCK, UNLOCK"
    return web.Response(headers={"DAV": "1, 2", "Allow": methods, "MS-Author-Via": "DAV", **SAFE})


async def _propfind(asked: Request) -> web.StreamResponse:
    depth = asked.request.headers.get("Depth", "infinity").lower()
    if depth not in ("0", "1"):
        body = '<?xml version="1.0"?><D:error xmlns:D="DAV:"><D:propfind-finite-depth/></D:error>'
        return web.Response(status=403, text=body, content_type="application/xml")
    document = await asked.xml()
    wanted, only_names = _wanted(document)
    entry = await asked.visit.stat(asked.path)
    if asked.slash and not entry.folder:
        raise NotFound("There is no such folder.")
    response = web.StreamResponse(status=207, headers={"Content-Type": XML, **SAFE})
    children = (
        asked.visit.scan(asked.path) if depth == "1" and entry.folder and asked.visit.may_read else None
    )
    first = (
        await anext(children, []) if children is not None else []
    )  # what is wrong is known before we answer
    try:
        await response.prepare(asked.request)
        await _tell(response, asked, entry, _after(first, children), wanted, only_names)
    except (GridcloudError, OSError) as error:
        raise broken(asked.request, error) from error
    return response


async def _tell(
    response: web.StreamResponse,
    asked: Request,
    entry: Entry,
    batches: AsyncIterator[list[Entry]],
    wanted: list[str] | None,
    only_names: bool,
) -> None:
    await response.write(b'<?xml version="1.0" encoding="utf-8"?>\n<D:multistatus xmlns:D="DAV:">')
    await response.write(_one(asked, asked.path, entry, wanted, only_names))
    async for batch in batches:
        await response.write(
            b"".join(_one(asked, (*asked.path, one.name), one, wanted, only_names) for one in batch)
        )
    await response.write(b"</D:multistatus>\n")
    await response.write_eof()


async def _after(first: list[Entry], rest: AsyncIterator[list[Entry]] | None) -> AsyncIterator[list[Entry]]:
    if first:
        yield first
    if rest is not None:
        async for batch in rest:
            yield batch


def _wanted(document: Element | None) -> tuple[list[str] | None, bool]:
    """Return the names of the properties that are asked for, None: all; and whether only names are."""
    if document is None or document.find("{DAV:}allprop") is not None:
        return None, False
    if document.tag != "{DAV:}propfind":
        raise InvalidRequest("The document is no propfind.", details={"status": 400})
    if document.find("{DAV:}propname") is not None:
        return None, True
    listed = document.find("{DAV:}prop")
    if listed is None or len(listed) > LARGEST:
        raise InvalidRequest("The document asks for no properties, or too many.", details={"status": 400})
    return [str(one.tag) for one in listed], False


def _one(asked: Request, path: Names, entry: Entry, wanted: list[str] | None, only_names: bool) -> bytes:
    values = _values(asked, path, entry)
    found = [name for name in values if wanted is None or name in wanted]
    missing = [name for name in wanted or () if name not in values]
    text = f"<D:response><D:href>{escape(asked.href(path, entry))}</D:href>"
    if found or not missing:
        inner = "".join(
            f"<D:{name[6:]}/>" if only_names else f"<D:{name[6:]}>{values[name]}</D:{name[6:]}>"
            for name in found
        )
        text += f"<D:propstat><D:prop>{inner}</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>"
    if missing:
        inner = "".join(_empty(name) for name in missing)
        status = "HTTP/1.1 404 Not Found"
        text += f"<D:propstat><D:prop>{inner}</D:prop><D:status>{status}</D:status></D:propstat>"
    return f"{text}</D:response>\n".encode("utf-8", "backslashreplace")


def _values(asked: Request, path: Names, entry: Entry) -> dict[str, str]:
    values = {
        "{DAV:}resourcetype": "<D:collection/>" if entry.folder else "",
        "{DAV:}getlastmodified": http_date(entry.modified),
        "{DAV:}supportedlock": _SUPPORTED if asked.visit.may_change else "",
        "{DAV:}lockdiscovery": "".join(_active(asked, one) for one in asked.locks.of(path)),
    }
    if not entry.folder:
        kind = mimetypes.guess_type(entry.name)[0] or "application/octet-stream"
        values |= {
            "{DAV:}getcontentlength": str(entry.size),
            "{DAV:}getetag": escape(etag(entry)),
            "{DAV:}getcontenttype": kind,
        }
    return values


def _empty(name: str) -> str:
    """Return an empty element of any namespace."""
    space, _, local = name[1:].partition("}") if name.startswith("{") else ("", "", name)
    found = Element(str(QName(space, local)) if space else local)
    return tostring(found, encoding="unicode")


async def _proppatch(asked: Request) -> web.Response:
    if (refusal := await guarded(asked, asked.path)) is not None:
        return refusal
    document = await asked.xml()
    entry = await asked.visit.stat(asked.path)
    if document is None or document.tag != "{DAV:}propertyupdate":
        raise InvalidRequest("The document is no propertyupdate.", details={"status": 400})
    inner = "".join(_empty(str(one.tag)) for props in document.iter("{DAV:}prop") for one in props)
    body = (
        '<?xml version="1.0" encoding="utf-8"?>\n<D:multistatus xmlns:D="DAV:"><D:response>'
        f"<D:href>{escape(asked.href(asked.path, entry))}</D:href><D:propstat><D:prop>{inner}</D:prop>"
        "<D:status>HTTP/1.1 403 Forbidden</D:status></D:propstat></D:response></D:multistatus>"
    )
    return web.Response(status=207, body=body.encode(), headers={"Content-Type": XML})


async def _mkcol(asked: Request) -> web.Response:
    if asked.request.can_read_body:
        return web.Response(status=415)
    if (refusal := await guarded(asked, asked.path)) is not None:
        return refusal
    try:
        await asked.visit.make_folder(asked.path)
    except Conflict:
        return web.Response(status=405, text="There is something already.")
    except NotFound:
        return web.Response(status=409, text="The folder that it is to lie in is missing.")
    return web.Response(status=201)


async def _delete(asked: Request) -> web.Response:
    if "#" in asked.request.raw_path:
        raise InvalidRequest("A URL has no fragment.", details={"status": 400})
    if (refusal := await guarded(asked, asked.path, deep=True)) is not None:
        return refusal
    # A folder goes whole, as the RFC has it, unless the client says that it takes it for empty.
    await asked.visit.remove(asked.path, whole="X-Gridcloud-Empty" not in asked.request.headers)
    asked.locks.drop(asked.path)
    return web.Response(status=204)


async def _move(asked: Request) -> web.Response:
    target = await asked.destination()
    if (refusal := await guarded(asked, asked.path, target, deep=True)) is not None:
        return refusal
    replace = asked.request.headers.get("Overwrite", "T").upper() != "F"
    there = await _is_there(asked.visit, target)
    return await _arrive(there, asked.visit.move(asked.path, target, replace=replace), asked, drop=True)


async def _copy(asked: Request) -> web.Response:
    target = await asked.destination()
    if (refusal := await guarded(asked, target, deep=True)) is not None:
        return refusal
    replace = asked.request.headers.get("Overwrite", "T").upper() != "F"
    deep = asked.request.headers.get("Depth", "infinity").lower() != "0"
    there = await _is_there(asked.visit, target)
    if there and not replace:
        return web.Response(status=412)
    return await _arrive(there, asked.visit.copy(asked.path, target, replace=replace, deep=deep), asked)


async def _arrive(there: bool, work: Any, asked: Request, drop: bool = False) -> web.Response:
    source_there = await _is_there(asked.visit, asked.path)
    try:
        await work
    except NotFound:
        if source_there:
            return web.Response(status=409, text="The folder that it is to lie in is missing.")
        raise
    except Conflict:
        return web.Response(status=412, text="There is something already.")
    if drop:
        asked.locks.drop(asked.path)
    return web.Response(status=204 if there else 201)


async def _is_there(visit: Visit, path: Names) -> bool:
    try:
        await visit.stat(path)
    except NotFound:
        return False
    return True


async def _lock(asked: Request) -> web.Response:
    document = await asked.xml()
    seconds = _seconds(asked.request.headers.get("Timeout", ""))
    if document is None:
        header = asked.request.headers.get("If", "")
        tokens = {token for one in read_conditions(header, asked.prefix) for _, token, _ in one.states}
        held = [one for one in asked.locks.of(asked.path) if one.token in tokens]
        if not held:
            return web.Response(status=412)
        asked.locks.refresh(held[0], seconds)
        return _locked(asked, held[0], 200)
    asked.visit.check_change("lock")
    if document.tag != "{DAV:}lockinfo" or document.find("{DAV:}locktype/{DAV:}write") is None:
        raise InvalidRequest("The document is no lockinfo.", details={"status": 400})
    owner = document.find("{DAV:}owner")
    text = "" if owner is None else tostring(owner, encoding="unicode")
    exclusive = document.find("{DAV:}lockscope/{DAV:}exclusive") is not None
    deep = asked.request.headers.get("Depth", "infinity").lower() != "0"
    if asked.request.headers.get("If") and (refusal := await guarded(asked)) is not None:
        return refusal
    lock = asked.locks.take(asked.path, exclusive=exclusive, deep=deep, owner=text, seconds=seconds)
    if lock is None:
        return web.Response(status=423, text="Somebody else has locked it.")
    status = 200
    try:
        if not await _is_there(asked.visit, asked.path):
            status = 201
            writer = await asked.visit.write(asked.path)
            try:
                await writer.finish(replace=False)
            finally:
                await writer.abort()
    except NotFound:
        asked.locks.release(asked.path, lock.token)
        return web.Response(status=409, text="The folder that it is to lie in is missing.")
    except BaseException:
        asked.locks.release(asked.path, lock.token)
        raise
    return _locked(asked, lock, status)


def _locked(asked: Request, lock: Lock, status: int) -> web.Response:
    body = (
        '<?xml version="1.0" encoding="utf-8"?>\n<D:prop xmlns:D="DAV:"><D:lockdiscovery>'
        f"{_active(asked, lock)}</D:lockdiscovery></D:prop>"
    )
    headers = {"Content-Type": XML, "Lock-Token": f"<{lock.token}>"}
    return web.Response(status=status, body=body.encode(), headers=headers)


async def _unlock(asked: Request) -> web.Response:
    token = asked.request.headers.get("Lock-Token", "").strip().removeprefix("<").removesuffix(">")
    if not token:
        return web.Response(status=400)
    return web.Response(status=204 if asked.locks.release(asked.path, token) else 409)


def _active(asked: Request, lock: Lock) -> str:
    holder = Element("{DAV:}owner")
    if lock.owner:
        holder = fromstring(lock.owner)
    found = Element("{DAV:}activelock")
    SubElement(SubElement(found, "{DAV:}locktype"), "{DAV:}write")
    SubElement(SubElement(found, "{DAV:}lockscope"), "{DAV:}exclusive" if lock.exclusive else "{DAV:}shared")
    SubElement(found, "{DAV:}depth").text = "infinity" if lock.deep else "0"
    found.append(holder)
    SubElement(found, "{DAV:}timeout").text = f"Second-{lock.seconds}"
    SubElement(SubElement(found, "{DAV:}locktoken"), "{DAV:}href").text = lock.token
    SubElement(SubElement(found, "{DAV:}lockroot"), "{DAV:}href").text = asked.href(lock.path)
    return tostring(found, encoding="unicode")


def _seconds(header: str) -> int:
    match = re.search(r"Second-(\d{1,9})", header)
    return int(match[1]) if match else LONGEST


_SUPPORTED = "".join(
    f"<D:lockentry><D:lockscope><D:{scope}/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>"
    for scope in ("exclusive", "shared")
)

METHODS: dict[str, Handler] = {
    "OPTIONS": _options,
    "PROPFIND": _propfind,
    "PROPPATCH": _proppatch,
    "MKCOL": _mkcol,
    "DELETE": _delete,
    "MOVE": _move,
    "COPY": _copy,
    "LOCK": _lock,
    "UNLOCK": _unlock,
}
"""What WebDAV adds to GET, HEAD and PUT."""
