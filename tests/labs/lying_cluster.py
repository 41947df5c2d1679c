"""An API server of Kubernetes on loopback that answers what a test tells it to: whatever a hostile one might."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from aiohttp import WSMsgType, web

from gridcloud.connections import multiplexer
from gridcloud.connections.model import PodAddress

__all__ = ["Exec", "LyingCluster", "far_end", "ready"]

Exec = Callable[[web.WebSocketResponse], Awaitable[None]]
"""What an exec does with its websocket."""

RUNNING: dict[str, Any] = {
    "kind": "Pod",
    "metadata": {"uid": "u", "name": "p"},
    "status": {"phase": "Running"},
}


class LyingCluster:
    """The server; an asynchronous context. ``answers`` are bodies by path (a list: one after another), ``exec`` what is
    done with an exec."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.answers: dict[str, Any] = {"/api/v1/namespaces/n/pods/p": RUNNING}
        self.exec: Exec = ready
        self.asked: list[str] = []
        self._runner: web.AppRunner | None = None
        self.kubeconfig = folder / "kubeconfig"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/api/v1/namespaces/n/pods/p/exec", self._exec)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        there = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}
        us = {"name": "u", "user": {"token": "t0ken"}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "n"}}
        config = {"clusters": [there], "users": [us], "contexts": [context], "current-context": "x"}
        self.kubeconfig.touch(0o600)
        self.kubeconfig.write_text(yaml.safe_dump(config))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def address(self) -> PodAddress:
        """The pod's address."""
        return PodAddress(kubeconfig=str(self.kubeconfig), namespace="n", pod="p", uid="u", container="c")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        answer = self.answers.get(request.path)
        if isinstance(answer, list):
            answer = answer.pop(0)
        if answer is None:
            return web.json_response({"kind": "Status", "message": "not found"}, status=404)
        if isinstance(answer, web.HTTPException):
            raise answer
        if isinstance(answer, str):
            return web.Response(text=answer, content_type="application/json")
        return web.json_response(answer)

    async def _exec(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await websocket.prepare(request)
        try:
            await self.exec(websocket)
        except ConnectionResetError:
            pass  # the near end has hung up
        return websocket


async def ready(websocket: web.WebSocketResponse) -> None:
    """Let it come in, take what is sent, and say nothing more."""
    await websocket.send_bytes(b"\1ready\n")
    async for _ in websocket:
        pass


def far_end(
    connect: Callable[[bytes], Awaitable[multiplexer.Streams]],
    kind: type[multiplexer.Multiplexer] = multiplexer.Multiplexer,
) -> Exec:
    """Return an exec that is a relay of this kind. ``connect`` gives its channels by what is asked for."""

    async def serve(websocket: web.WebSocketResponse) -> None:
        await websocket.send_bytes(b"\1ready\n")
        held = b""

        async def receive() -> bytes:
            message = await websocket.receive()
            return message.data[1:] if message.type is WSMsgType.BINARY else b""

        async def send(data: bytes) -> None:
            await websocket.send_bytes(b"\1" + data)

        while not held.endswith(b"end 0".ljust(64)):
            part = await receive()
            if not part:
                return
            held += part
        await kind(receive, send, connect, near=False).run()

    return serve
