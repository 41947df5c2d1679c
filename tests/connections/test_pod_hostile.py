"""Pods, and clusters, that answer what no honest one does: huge frames, half answers, relays that were replaced."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from tests.labs.lying_cluster import LyingCluster, far_end

from gridcloud.connections import container_ports, multiplexer, pod
from gridcloud.connections.cluster import LARGEST_MESSAGE
from gridcloud.connections.driver import Command
from gridcloud.connections.model import Port
from gridcloud.connections.pod import PodConnection
from gridcloud.errors import ConnectionLost, Rejected, Transient

PLACE = "/api/v1/namespaces/n/pods/p"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LyingCluster]:
    async with LyingCluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    # What takes half a minute in earnest is to be seen within a test.
    monkeypatch.setattr(pod, "PATIENCE", 0.5)
    monkeypatch.setattr(container_ports, "PATIENCE", 0.5)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "{",
        '{"kind": "Pod", "metadata": {"uid"',
        "[]",
        "[" * 100_000,
        "<html>log in</html>",
        "null",
        '"x"',
    ],
)
async def test_what_is_no_answer_is_tried_again(cluster: LyingCluster, answer: str) -> None:
    cluster.answers[PLACE] = answer
    async with asyncio.timeout(10):
        with pytest.raises(Transient, match="does not answer as Kubernetes does") as caught:
            await PodConnection.open(cluster.address)
    assert len(str(caught.value)) < 600


async def test_nobody_is_sent_elsewhere_with_our_token(cluster: LyingCluster) -> None:
    cluster.answers[PLACE] = web.HTTPFound("/stolen")
    with pytest.raises(Transient, match="does not answer as Kubernetes does"):
        await PodConnection.open(cluster.address)
    assert "/stolen" not in cluster.asked


async def silence(websocket: web.WebSocketResponse) -> None:
    async for _ in websocket:
        pass


async def huge(websocket: web.WebSocketResponse) -> None:
    await websocket.send_bytes(b"\1" + bytes(LARGEST_MESSAGE + 1))
    await silence(websocket)


async def endless_line(websocket: web.WebSocketResponse) -> None:
    while True:
        await websocket.send_bytes(b"\1" + b"a" * 30_000)


async def endless_nonsense(websocket: web.WebSocketResponse) -> None:
    await websocket.send_bytes(b"\1ready\n")
    while True:
        await websocket.send_bytes(b"\1" + b"\xff" * 30_000)


async def odd_status(websocket: web.WebSocketResponse) -> None:
    for text in (b"[]", b"{", b'{"status": "Failure", "details": ["x"]}', b"[" * 50_000, b'{"status": {}}'):
        await websocket.send_bytes(b"\3" + text)
    await websocket.send_bytes(b"")
    await websocket.send_bytes(b"\x09x")
    await websocket.send_str("text")
    await websocket.close()


async def hang_up(websocket: web.WebSocketResponse) -> None:
    await websocket.send_bytes(b"\1ready\n")
    await websocket.close()


@pytest.mark.parametrize("exec_", [silence, huge, endless_line, endless_nonsense, odd_status, hang_up])
async def test_a_pod_that_cannot_be_entered_is_told_of_soon(cluster: LyingCluster, exec_: object) -> None:
    cluster.exec = exec_  # type: ignore[assignment]
    async with asyncio.timeout(20):
        with pytest.raises((ConnectionLost, Rejected)):
            await PodConnection.open(cluster.address)


class Relay:
    """A relay whose control channel says what a test wants."""

    def __init__(self, *says: bytes) -> None:
        self._says = says
        self._kept: list[asyncio.StreamWriter] = []

    async def connect(self, target: bytes) -> multiplexer.Streams:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        self._kept.append(writer)
        channel = json.loads(target).get("channel")
        if channel == "control":
            for text in self._says:
                writer.write(text)
        if channel != "echo":
            writer.write_eof()
        _ = reader
        return await asyncio.open_connection(sock=theirs)

    def close(self) -> None:
        for writer in self._kept:
            writer.close()


@pytest.mark.parametrize(
    "says",
    [
        (b"a" * 200_000,),
        (b"started\n", b"a" * 200_000),
        (b"started\n", b"exit 99999999999999999999\n"),
        (b"started\n", b"exit -1\n"),
        (b"started\n", b"exit 256\n"),
        (b"started\n", b"exit " + b"9" * 5000 + b"\n"),
        (b"started\n", b"exit x y\n"),
        (b"started\n",),
        (b"nonsense\n",),
        (),
    ],
)
async def test_an_end_that_no_process_has_is_not_believed(
    cluster: LyingCluster, says: tuple[bytes, ...]
) -> None:
    relay = Relay(*says)
    cluster.exec = far_end(relay.connect)
    connection = await PodConnection.open(cluster.address)

    async def use() -> int:
        return await (await connection.start(Command(("true",)))).wait()

    async with asyncio.timeout(10):
        with pytest.raises(ConnectionLost):
            await use()
    await connection.close()
    relay.close()


class Vanishing(multiplexer.Multiplexer):
    """One that answers the question for a listener with what no relay says."""

    async def _listen(self, number: int, endpoint: object) -> None:
        await self._send(multiplexer.FAILED, number, b"{}")


class Lying(multiplexer.Multiplexer):
    """One that says that it listens where it was not told to."""

    async def _listen(self, number: int, endpoint: object) -> None:
        where = {"host": "192.0.2.1", "port": 9, "path": "/etc/passwd"}
        await self._send(multiplexer.LISTENING, number, json.dumps(where).encode())


async def test_a_relay_that_goes_while_it_is_asked_for_a_port_is_lost(cluster: LyingCluster) -> None:
    relay = Relay()
    cluster.exec = far_end(relay.connect, Vanishing)
    connection = await PodConnection.open(cluster.address)
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionLost):
            await connection.expose(Port(port=9), Port())
    await connection.close()
    relay.close()


async def test_a_relay_sends_nobody_to_another_host(cluster: LyingCluster) -> None:
    relay = Relay()
    cluster.exec = far_end(relay.connect, Lying)
    connection = await PodConnection.open(cluster.address)
    assert (await connection.expose(Port(port=1), Port())).endpoint == Port(port=9)
    await connection.close()
    relay.close()
