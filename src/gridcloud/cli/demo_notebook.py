"""A notebook run in a session's own kernel, through the session's REST API and the kernel's websocket."""

from __future__ import annotations

import base64
import json
import secrets
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import nbformat

from gridcloud.errors import ConnectionLost, GridcloudError, NotFound, Unreachable

__all__ = ["Cell", "Kernel", "Notebook", "NotebookServer", "read_result"]

_format: Any = nbformat  # its functions have no types

MARK = "FOAM-RESULT "
"""What the example's last line begins with; JSON follows."""

Take = Callable[[dict[str, Any]], None]


class Kernel:
    """A running kernel; a context that ends it."""

    def __init__(self, session: aiohttp.ClientSession, server: str, id: str) -> None:
        self._session = session
        self._url = f"{server}/api/kernels/{quote(id, safe='')}"
        self._name = uuid.uuid4().hex
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def __aenter__(self) -> Self:
        try:
            self._socket = await self._session.ws_connect(
                f"{self._url}/channels", params={"session_id": self._name}, max_msg_size=0, heartbeat=20
            )
        except aiohttp.ClientError as error:
            raise Unreachable(f"The kernel's websocket cannot be opened: {error}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._socket is not None:
            await self._socket.close()
        async with self._session.delete(self._url):
            return

    async def execute(self, code: str, take: Take) -> None:
        """Run code to its end and give each message of its output to ``take``. Raises ConnectionLost."""
        if self._socket is None:
            raise GridcloudError("The kernel is not connected.")
        request = _execute_request(code, self._name)
        await self._socket.send_str(json.dumps(request))
        replied = idle = False
        while not (replied and idle):
            message = await self._socket.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise ConnectionLost("The kernel's websocket broke off.")
            answer = json.loads(message.data)
            state = answer["content"].get("execution_state") if answer["msg_type"] == "status" else ""
            if state in ("restarting", "dead"):
                raise ConnectionLost("The kernel died.", remedy="It may need more memory: --memory 4GiB")
            if answer["parent_header"].get("msg_id") != request["header"]["msg_id"]:
                continue
            replied = replied or answer["msg_type"] == "execute_reply"
            idle = idle or state == "idle"
            take(answer)

    async def missing_packages(self, names: Sequence[str]) -> list[str]:
        """Return those of the modules that the kernel's Python does not have."""
        said: list[str] = []
        code = (
            "import importlib.util, json\n"
            f"print(json.dumps([name for name in {list(names)!r} if importlib.util.find_spec(name) is None]))"
        )
        await self.execute(
            code,
            lambda message: (
                said.append(message["content"]["text"]) if message["msg_type"] == "stream" else None
            ),
        )
        return [str(name) for name in json.loads("".join(said))]

    async def remove_folder(self) -> None:
        """Remove the folder that the kernel runs in, with what is in it."""
        await self.execute(
            "import os, shutil; shutil.rmtree(os.getcwd(), ignore_errors=True)", lambda _: None
        )


class NotebookServer:
    """A session's Jupyter server, seen through the hub's proxy."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def make_folder(self) -> str:
        """Make a fresh folder in the session and return its path."""
        name = f"gridcloud-demo-{secrets.token_hex(4)}"
        await self._ask("PUT", _contents(name), json={"type": "directory"})
        return name

    async def upload(self, path: str, source: Path) -> None:
        """Write a file in the session."""
        content = base64.b64encode(source.read_bytes()).decode()
        await self._ask("PUT", _contents(path), json={"type": "file", "format": "base64", "content": content})

    async def download(self, path: str, target: Path) -> None:
        """Read a file of the session. Raises NotFound."""
        document = await self._ask("GET", _contents(path), type="file", format="base64", content="1")
        target.write_bytes(base64.b64decode(document["content"]))

    async def start_kernel(self, path: str) -> Kernel:
        """Start a kernel for a notebook, in the notebook's folder."""
        document = await self._ask(
            "POST",
            "/api/sessions",
            json={"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}},
        )
        return Kernel(self._session, self._url, document["kernel"]["id"])

    async def _ask(
        self, method: str, path: str, *, json: dict[str, Any] | None = None, **query: str
    ) -> dict[str, Any]:
        try:
            async with self._session.request(method, self._url + path, json=json, params=query) as response:
                document = await response.json(content_type=None)
        except (aiohttp.ClientError, ValueError) as error:
            raise Unreachable(f"The session does not answer: {error}") from error
        if response.status >= 400 or not isinstance(document, dict):
            said = document.get("message") if isinstance(document, dict) else ""
            kind = NotFound if response.status == 404 else GridcloudError
            raise kind(f"The session refused {method} {path}: {said or response.reason}")
        return document


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of code, and the heading it stands under."""

    number: int
    title: str


class Notebook:
    """A notebook that gathers its outputs."""

    def __init__(self, node: Any) -> None:
        self._node = node

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a notebook file."""
        return cls(_format.read(path, as_version=4))

    def code_cells(self) -> Iterator[Cell]:
        """Yield the cells of code in order."""
        heading, under = "", 0
        for number, cell in enumerate(self._node.cells):
            if cell.cell_type == "markdown":
                titles = [line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")]
                heading, under = (titles[0], 0) if titles else (heading, under)
            elif cell.cell_type == "code":
                under += 1
                yield Cell(number, f"{heading or 'cell'} ({under})" if under > 1 else heading or "cell")

    async def execute(self, kernel: Kernel, cell: Cell) -> None:
        """Run one cell and keep its outputs. Raises GridcloudError when it raises."""
        node = self._node.cells[cell.number]
        node.outputs = []
        failures: list[str] = []

        def take(message: dict[str, Any]) -> None:
            kind, content = message["msg_type"], message["content"]
            if kind == "execute_reply":
                node.execution_count = content.get("execution_count")
            elif kind in ("stream", "display_data", "execute_result", "error"):
                node.outputs.append(_format.v4.output_from_msg(message))
            if kind == "error":
                failures.append(f"{content['ename']}: {content['evalue']}")

        await kernel.execute(node.source, take)
        if failures:
            raise GridcloudError(f"The cell under {cell.title!r} failed: {failures[0]}")

    def printed(self) -> Iterator[str]:
        """Yield the lines that its cells printed."""
        for cell in self._node.cells:
            for output in cell.get("outputs", ()):
                if output.output_type == "stream":
                    yield from output.text.splitlines()

    def save(self, path: Path) -> None:
        """Write it with its outputs."""
        _format.write(self._node, path)


def read_result(notebook: Notebook) -> dict[str, Any]:
    """Return what the example's last line tells. Raises GridcloudError when it tells nothing usable."""
    lines = [line for line in notebook.printed() if line.startswith(MARK)]
    try:
        result = json.loads(lines[-1].removeprefix(MARK))
        if isinstance(result, dict) and {"found_pores", "true_pores"} <= set(result):
            return result
    except (IndexError, ValueError):
        pass
    raise GridcloudError("The notebook ran but gave no result.", remedy="Look at what it printed.")


def _contents(path: str) -> str:
    return f"/api/contents/{quote(path)}"


def _execute_request(code: str, session: str) -> dict[str, Any]:
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "execute_request",
        "username": "gridcloud",
        "session": session,
        "date": datetime.now(UTC).isoformat(),
        "version": "5.3",
    }
    content = {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }
    return {
        "channel": "shell",
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "buffers": [],
    }
