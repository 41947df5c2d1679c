"""The near end of a relay whose far end has been replaced by one that breaks the rules."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable

import pytest

from gridcloud.connections import multiplexer
from gridcloud.connections.container_ports import listening_at
from gridcloud.connections.model import Port, Socket
from gridcloud.connections.multiplexer import (
    CREDIT,
    DATA,
    END,
    FAILED,
    HEADER,
    LISTENING,
    OPEN,
    READY,
    UNDER_WAY,
    Multiplexer,
)
from gridcloud.errors import Rejected


def frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, number, len(payload)) + payload


class Far:
    """What the near end reads, frame by frame, and the numbers of the frames that it has sent."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.sent: asyncio.Queue[int] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        self.near = Multiplexer(self.queue.get, self._send, multiplexer_refuses, near=True)
        self.running = asyncio.ensure_future(self.near.run())

    async def _send(self, data: bytes) -> None:
        _, number, size = HEADER.unpack(data[: HEADER.size])
        assert len(data) == HEADER.size + size
        self.sent.put_nowait(number)
        await self.reads.wait()

    def say(self, *frames: bytes) -> None:
        for one in frames:
            self.queue.put_nowait(one)

    async def ended(self) -> None:
        async with asyncio.timeout(10):
            await self.running


async def multiplexer_refuses(target: bytes) -> multiplexer.Streams:
    raise KeyError(target)


@pytest.mark.parametrize(
    "answer",
    [
        lambda number: frame(FAILED, number, b"{}"),
        lambda number: frame(FAILED, number, b"[]"),
        lambda number: frame(FAILED, number, b"{"),
        lambda number: frame(FAILED, number, b"[" * 60_000),
        lambda number: frame(LISTENING, number, b"\xff"),
        lambda number: HEADER.pack(READY, 0, 1 << 31),
        lambda _: b"",
    ],
)
async def test_who_asks_for_a_listener_is_told_that_the_relay_is_none(answer: Callable[[int], bytes]) -> None:
    far = Far()
    asking = asyncio.ensure_future(far.near.ask_to_listen({"host": "127.0.0.1", "port": 0}))
    far.say(answer(await far.sent.get()))
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionResetError):
            await asking
    await far.ended()
    with pytest.raises(ConnectionResetError):
        await far.near.ask_to_listen({"host": "127.0.0.1", "port": 0})


async def test_a_refusal_of_odd_types_is_one_all_the_same() -> None:
    far = Far()
    asking = asyncio.ensure_future(far.near.ask_to_listen({"host": "127.0.0.1", "port": 0}))
    said = json.dumps({"errno": "x", "text": ["y" * 9999]}).encode()
    far.say(frame(FAILED, await far.sent.get(), said))
    with pytest.raises(OSError, match="yyy") as caught:
        await asking
    assert len(str(caught.value)) < 300
    far.say(b"")
    await far.ended()


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([(DATA, b"")] * 3, "nothing at all, for ever"),
        ([(END, b"")] * 3, "an end after the end"),
        ([(END, b""), (DATA, b"x")], "more after the end"),
        ([(END, b"x")], "an end that is none"),
        ([(DATA, bytes(1 << 16))] * 17, "more than there is credit for"),
    ],
)
async def test_a_channel_that_breaks_the_rules_is_cut_alone(
    frames: list[tuple[int, bytes]], why: str
) -> None:
    far = Far()
    streams = await echoing()
    carrying = asyncio.ensure_future(far.near.carry(b"{}", streams[0]))
    number = await far.sent.get()
    far.say(*(frame(kind, number, payload) for kind, payload in frames))
    async with asyncio.timeout(10):
        await carrying
    assert not far.running.done(), why
    assert not far.near._channels
    streams[1][1].close()
    far.say(frame(CREDIT, number, b"\xff" * 60_000), b"")
    await far.ended()


async def test_one_who_asks_and_never_reads_is_cut_off() -> None:
    far = Far()
    far.reads.clear()
    began = time.monotonic()
    for _ in range(UNDER_WAY + 10):
        far.say(frame(OPEN, 1))  # a number of ours: refused, each with an answer
    await far.ended()
    assert len(far.near._tasks) == 0
    assert time.monotonic() - began < 30


async def echoing() -> tuple[multiplexer.Streams, multiplexer.Streams]:
    ours, theirs = socket.socketpair()
    return await asyncio.open_connection(sock=ours), await asyncio.open_connection(sock=theirs)


@pytest.mark.parametrize(
    "said", [[], None, "x", {}, {"port": "1"}, {"port": 0}, {"port": 70000}, {"port": 1.5}]
)
def test_a_port_is_all_that_is_believed(said: object) -> None:
    with pytest.raises(Rejected, match="no port"):
        listening_at(Port(), said)
    assert listening_at(Port(port=7), said) == Port(port=7)
    assert listening_at(Socket(path="/x"), said) == Socket(path="/x")


def test_nobody_is_sent_to_another_host() -> None:
    assert listening_at(Port(), {"host": "192.0.2.1", "port": 9, "path": "/x"}) == Port(port=9)
