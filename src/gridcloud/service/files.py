"""Move files to and from instances over HTTP, as streams of tar."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator
from starlette.requests import ClientDisconnect

from gridcloud.connections.driver import Connection
from gridcloud.errors import ConnectionLost, StorageFull
from gridcloud.service import packing
from gridcloud.service.access import Asking, TheHouse
from gridcloud.service.commands import ready
from gridcloud.service.documents import no_nul
from gridcloud.service.house import House

__all__ = ["incoming", "router"]

router = APIRouter(tags=["files"])

RESERVE = 128 << 20
"""Bytes that transfers leave free where gridcloud's own data lies."""

LOOK = 0.2
"""Seconds between looks at how much is free."""

Place = Annotated[str, Query(min_length=1, max_length=4096), AfterValidator(no_nul)]


@router.put("/instances/{instance_id}/files", status_code=204)
async def put(instance_id: str, path: Place, request: Request, caller: Asking, house: TheHouse) -> None:
    """Copy a file or folder to ``path`` on the instance; the body is a tar archive with one member ``content``."""
    connection = await house.connection_to(await ready(house, caller, instance_id))
    async with _scratch(house) as folder:
        await connection.put(await packing.unpack(incoming(request, house), folder), path)


@router.get("/instances/{instance_id}/files", response_class=StreamingResponse)
async def get(instance_id: str, path: Place, caller: Asking, house: TheHouse) -> StreamingResponse:
    """Copy a file or folder from ``path`` on the instance; the answer is a tar archive with one member ``content``."""
    connection = await house.connection_to(await ready(house, caller, instance_id))
    chunks = _content(house, connection, path)
    first = await anext(chunks)  # now that an error can still be answered
    return StreamingResponse(_rest(first, chunks), media_type="application/x-tar")


async def _content(house: House, connection: Connection, path: str) -> AsyncIterator[bytes]:
    async with _scratch(house) as folder:
        content = folder / packing.CONTENT
        await _fetch(house, connection, path, content)
        async with contextlib.aclosing(packing.pack(content)) as chunks:  # type: ignore[type-var]  # a generator
            async for chunk in chunks:
                yield chunk


async def _rest(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(chunks):  # type: ignore[type-var]  # an async generator
        yield first
        async for chunk in chunks:
            yield chunk


async def _fetch(house: House, connection: Connection, path: str, content: Path) -> None:
    """Copy to ``content`` for as long as there is room. Raises StorageFull."""
    fetching = asyncio.ensure_future(connection.get(path, content))
    try:
        while not (await asyncio.wait({fetching}, timeout=LOOK))[0]:
            _check_room(house)
        fetching.result()
    finally:
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)


async def incoming(request: Request, house: House) -> AsyncIterator[bytes]:
    """Yield a request's body for as long as there is room. Raises StorageFull, ConnectionLost."""
    looked = float("-inf")
    try:
        async for chunk in request.stream():
            if time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                _check_room(house)
            yield chunk
    except ClientDisconnect as error:
        raise ConnectionLost("The client left in the middle of the body.") from error


def _check_room(house: House) -> None:
    """Raise StorageFull when a transfer has come near to filling the disk on which everybody's records lie."""
    if shutil.disk_usage(house.scratch).free < RESERVE:
        raise StorageFull(
            f"Less than {RESERVE >> 20} MiB would be left on gridcloud's own disk.",
            remedy="Move less at once, or have an administrator make room there.",
        )


@contextlib.asynccontextmanager
async def _scratch(house: House) -> AsyncIterator[Path]:
    """Give a folder for one transfer; it may hold a great deal, so it is removed beside the event loop."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="transfer-", dir=house.scratch))
    try:
        yield folder
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))
