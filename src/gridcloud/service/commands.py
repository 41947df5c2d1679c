"""Run commands on instances over HTTP.

A command is one websocket. The first message from the client is the command as JSON (`documents.Order`). After that
every message is binary, its first byte saying what it is: from the client 0 standard input (empty: end of input), 1 a
signal's name, 2 a terminal's size as ``COLUMNSxROWS``; from the service 1 standard output, 2 standard error, 3 the exit
code in decimal, 4 a problem document, 5 how many bytes of input the command has taken, in decimal. A client sends
`WINDOW` bytes of input more than were taken at most: so its signals and its leaving are seen whatever the command
does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import AsyncIterator

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from gridcloud.connections.driver import Command, Process, Resizable, TerminalSize
from gridcloud.errors import GridcloudError, InvalidRequest
from gridcloud.instances.model import Instance, State
from gridcloud.instances.paths import find_programs
from gridcloud.service.access import Caller, caller_of, house_of
from gridcloud.service.documents import WINDOW, Order
from gridcloud.service.house import House
from gridcloud.service.instances import owned
from gridcloud.service.problems import explain_invalid

__all__ = ["ready", "router"]

log = logging.getLogger(__name__)

router = APIRouter(tags=["commands"])

INPUT, SIGNAL, SIZE = 0, 1, 2
OUTPUT, ERROR, EXIT, PROBLEM, TAKEN = 1, 2, 3, 4, 5

CHUNK = 256 * 1024
"""Bytes of output in one message."""

PATIENCE = 30.0
"""Seconds that a client has to say which command."""

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL for a command whose client has left."""


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
    with house.instances.watch.idleness.using(instance_id):
        await _serve(websocket, process)


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
        async with asyncio.timeout(PATIENCE):
            order = Order.model_validate_json(await websocket.receive_text())
    except ValidationError as error:
        mistakes = error.errors(include_input=False, include_url=False, include_context=False)
        raise InvalidRequest(f"The command is not valid: {explain_invalid(mistakes)}.") from None
    except (KeyError, TimeoutError):
        raise InvalidRequest("The first message must be the command, as JSON text.") from None
    size = TerminalSize(order.terminal.columns, order.terminal.rows) if order.terminal else None
    connection = await house.connection_to(instance)
    command = Command(tuple(order.words), order.environment, order.directory, size)
    return await connection.start(await find_programs(instance, connection, command))


async def _serve(websocket: WebSocket, process: Process) -> None:
    """Carry the streams until the process ends; a client that leaves takes its process along."""
    given = _Input()
    outputs = [
        asyncio.create_task(_copy(websocket, OUTPUT, process.stdout())),
        asyncio.create_task(_copy(websocket, ERROR, process.stderr())),
    ]
    ended = asyncio.create_task(_end(websocket, process, outputs))
    heard = asyncio.create_task(_listen(websocket, process, given))
    fed = asyncio.create_task(_feed(websocket, process, given))
    try:
        await asyncio.wait({ended, heard}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not ended.done() or ended.cancelled() or ended.exception() is not None:
            await asyncio.shield(_kill(process))
        tasks = (ended, heard, fed, *outputs)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
        for start in range(0, len(chunk), CHUNK):
            await websocket.send_bytes(bytes([stream]) + chunk[start : start + CHUNK])


async def _listen(websocket: WebSocket, process: Process, given: _Input) -> None:
    """Do what the client says until it leaves; never wait for the process, or its leaving would not be seen."""
    try:
        while True:
            message = await websocket.receive_bytes()
            kind, content = message[:1], message[1:]
            if kind == bytes([INPUT]):
                given.add(content)
            elif kind == bytes([SIGNAL]):
                await process.signal(content.decode("ascii", "replace")[:16])
            elif kind == bytes([SIZE]) and isinstance(process, Resizable):
                columns, _, rows = content[:16].decode("ascii", "replace").partition("x")
                if columns.isdecimal() and rows.isdecimal():
                    await process.resize(TerminalSize(min(int(columns), 10_000), min(int(rows), 10_000)))
    except (WebSocketDisconnect, KeyError, GridcloudError):
        return


async def _feed(websocket: WebSocket, process: Process, given: _Input) -> None:
    """Hand the input on as the process takes it, and tell the client how much of it that was."""
    while True:
        content = await given.take()
        if not content:
            await process.close_input()
            continue
        await process.write(content)
        await websocket.send_bytes(bytes([TAKEN]) + str(len(content)).encode())


class _Input:
    """What the client has sent for standard input and the process has not taken yet: `WINDOW` bytes at most."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._there = asyncio.Event()

    def add(self, chunk: bytes) -> None:
        """Keep a chunk; empty: no more comes. Raises InvalidRequest when the client sends more than it may."""
        self._size += len(chunk)
        if self._size > WINDOW or len(self._chunks) > WINDOW // 256:
            raise InvalidRequest(f"More than {WINDOW} bytes of input were sent that had not been taken.")
        self._chunks.append(chunk)
        self._there.set()

    async def take(self) -> bytes:
        """Return what is there, in order; empty: no more comes."""
        while not self._chunks:
            self._there.clear()
            await self._there.wait()
        chunk = self._chunks.popleft()
        self._size -= len(chunk)
        return chunk


async def _kill(process: Process) -> None:
    try:
        await process.signal("TERM")
        async with asyncio.timeout(GRACE):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(GridcloudError):
            await process.signal("KILL")
    except GridcloudError as error:
        log.info("a command whose client has left could not be ended: %s", error)
