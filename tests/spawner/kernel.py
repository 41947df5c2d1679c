"""A kernel of a session, spoken to as a browser does: by websocket through the proxy."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

__all__ = ["Kernel", "open_kernel"]


class Kernel:
    """An open kernel."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse, id: str = "") -> None:
        self.id = id
        self._websocket = websocket

    async def run(self, code: str, *, patience: float = 60) -> str:
        """Run a cell and return what it printed, and its error's name if it had one.

        Raises TimeoutError when the kernel says nothing for ``patience`` seconds.
        """
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "s", "username": "u"}
        await self._websocket.send_json(
            {
                "header": {**header, "version": "5.3", "date": ""},
                "parent_header": {},
                "metadata": {},
                "content": {"code": code, "silent": False, "store_history": False, "allow_stdin": False},
                "channel": "shell",
                "buffers": [],
            }
        )
        said = ""
        while True:
            message: dict[str, Any] = await self._websocket.receive_json(timeout=patience)
            if message["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            if message["msg_type"] == "stream":
                said += message["content"]["text"]
            if message["msg_type"] == "error":
                said += message["content"]["ename"]
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return said


@asynccontextmanager
async def open_kernel(client: aiohttp.ClientSession, path: str) -> AsyncIterator[Kernel]:
    """Start a kernel in the session at ``path`` and open its websocket."""
    async with client.post(f"{path}api/kernels", json={}) as answer:
        assert answer.status == 201, await answer.text()
        kernel = (await answer.json())["id"]
    async with client.ws_connect(f"{path}api/kernels/{kernel}/channels", max_msg_size=0) as websocket:
        yield Kernel(websocket, kernel)
