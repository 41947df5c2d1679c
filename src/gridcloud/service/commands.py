"""Run commands on instances and move files, over HTTP.

A command is one websocket. The first message from the client is the command as JSON (`documents.Order`). After that
every message is binary, its first byte saying what it is: from the client 0 standard input (empty: end of input), 1 a
signal's name, 2 a terminal's size as ``COLUMNSxROWS``; from the service 1 standard output, 2 standard error, 3 the exit
code in decimal, 4 a problem document.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from gridcloud.connections.driver import Command, Process, Resizable, TerminalSize
from gridcloud.errors import GridcloudError, InvalidRequest
from gridcloud.instances.model import Instance, State
from gridcloud.instances.paths import find_programs
from gridcloud.service import packing
from gridcloud.service.access import Asking, Caller, TheHouse, caller_of, house_of
from gridcloud.service.documents import Order
from gridcloud.service.house import House
from gridcloud.service.instances import owned

__all__ = ["ready", "router"]

router = APIRouter(tags=["commands"])

INPUT, SIGNAL, SIZE = 0, 1, 2
OUTPUT, ERROR, EXIT, PROBLEM = 1, 2, 3, 4


@router.websocket("/instances/{instance_id}/commands")
async def run(websocket: WebSocket, instance_id: str) -> None:
    """Run one command on a ready instance, with its streams."""
    await websocket.accept()
    house = house_of(websocket)
    try:
        caller = await caller_of(websocket)
        instance = await ready(house, caller, instance_id)
        process = await _start(websocket, house, instance)
    except GridcloudError as error:
        await websocket.send_bytes(bytes([PROBLEM]) + json.dumps(error.problem()).encode())
        await websocket.close()
        return
    except WebSocketDisconnect:
        return
    await _serve(websocket, process)


@router.put("/instances/{instance_id}/files", status_code=204)
async def put(
    instance_id: str,
    path: Annotated[str, Query(min_length=1)],
    request: Request,
    caller: Asking,
    house: TheHouse,
) -> None:
    """Copy a file or folder to ``path`` on the instance; the body is a tar archive with one member ``content``."""
    connection = await house.connection_to(await ready(house, caller, instance_id))
    with tempfile.TemporaryDirectory(prefix="put-", dir=house.scratch) as folder:
        content = await packing.unpack(request.stream(), Path(folder))
        await connection.put(content, path)


@router.get("/instances/{instance_id}/files")
async def get(
    instance_id: str, path: Annotated[str, Query(min_length=1)], caller: Asking, house: TheHouse
) -> StreamingResponse:
    """Copy a file or folder from ``path`` on the instance; the answer is a tar archive with one member ``content``."""
    connection = await house.connection_to(await ready(house, caller, instance_id))
    folder = tempfile.TemporaryDirectory(prefix="get-", dir=house.scratch)
    content = Path(folder.name) / packing.CONTENT
    try:
        await connection.get(path, content)
    except BaseException:
        folder.cleanup()
        raise

    async def body() -> AsyncIterator[bytes]:
        with folder:
            async for chunk in packing.pack(content):
                yield chunk

    return StreamingResponse(body(), media_type="application/x-tar")


async def ready(house: House, caller: Caller, instance_id: str) -> Instance:
    """Return a ready instance of the caller. Raises NotFound, InvalidRequest."""
    instance = await owned(house, caller, instance_id)
    if instance.state is not State.READY or instance.address is None:
        raise InvalidRequest(
            f"Instance {instance_id} is not ready: it is {instance.state}. {instance.detail}".strip(),
            remedy=f"'gridcloud instance events {instance_id}' tells its story.",
        )
    return instance


async def _start(websocket: WebSocket, house: House, instance: Instance) -> Process:
    try:
        order = Order.model_validate_json(await websocket.receive_text())
    except (ValidationError, KeyError) as error:
        raise InvalidRequest(f"The command is not valid: {error}") from None
    size = TerminalSize(order.terminal.columns, order.terminal.rows) if order.terminal else None
    connection = await house.connection_to(instance)
    command = Command(tuple(order.words), order.environment, order.directory, size)
    return await connection.start(await find_programs(instance, connection, command))


async def _serve(websocket: WebSocket, process: Process) -> None:
    """Carry the streams until the process ends; a client that leaves takes its process along."""
    outputs = [
        asyncio.create_task(_copy(websocket, OUTPUT, process.stdout())),
        asyncio.create_task(_copy(websocket, ERROR, process.stderr())),
    ]
    ended = asyncio.create_task(_end(websocket, process, outputs))
    commands = asyncio.create_task(_obey(websocket, process))
    try:
        await asyncio.wait({ended, commands}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            await _kill(process)
            await asyncio.wait({ended}, timeout=10)
    finally:
        for task in (ended, commands, *outputs):
            task.cancel()
        await asyncio.gather(ended, commands, *outputs, return_exceptions=True)


async def _end(websocket: WebSocket, process: Process, outputs: list[asyncio.Task[None]]) -> None:
    try:
        await asyncio.gather(*outputs)
        message = bytes([EXIT]) + str(await process.wait()).encode()
    except GridcloudError as error:
        message = bytes([PROBLEM]) + json.dumps(error.problem()).encode()
    await websocket.send_bytes(message)
    await websocket.close()


async def _copy(websocket: WebSocket, stream: int, chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        await websocket.send_bytes(bytes([stream]) + chunk)


async def _obey(websocket: WebSocket, process: Process) -> None:
    """Do what the client says until it leaves."""
    try:
        while True:
            message = await websocket.receive_bytes()
            kind, content = message[:1], message[1:]
            if kind == bytes([INPUT]):
                await (process.write(content) if content else process.close_input())
            elif kind == bytes([SIGNAL]):
                await process.signal(content.decode("ascii", "replace")[:16])
            elif kind == bytes([SIZE]) and isinstance(process, Resizable):
                columns, _, rows = content.decode("ascii", "replace").partition("x")
                if columns.isdigit() and rows.isdigit():
                    await process.resize(TerminalSize(min(int(columns), 10_000), min(int(rows), 10_000)))
    except (WebSocketDisconnect, KeyError, GridcloudError):
        return


async def _kill(process: Process) -> None:
    try:
        await process.signal("TERM")
        async with asyncio.timeout(5):
            await process.wait()
    except TimeoutError:
        await process.signal("KILL")
    except GridcloudError:
        return
