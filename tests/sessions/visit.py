"""A session of the tests: its program, and what is done with it."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gridcloud.connections.model import Port
from gridcloud.instances.model import Request
from gridcloud.service.house import House
from gridcloud.sessions.model import FINAL, Plan, Session

__all__ = ["PAGE", "PLAN", "SMALL", "begin", "fetch", "home", "over", "plan_back"]

PAGE = Path(__file__).with_name("page.py").read_text()
SMALL = Request(cpus=0.25, memory=128 << 20)
PLAN = Plan(
    words=("python3", "-c", PAGE),
    listening=("--socket", "{socket}"),
    environment={"PORT": "{port}"},
)


async def fetch(session: Session, path: str = "/") -> bytes:
    """Return a page of a running session."""
    assert session.endpoint is not None
    url = f"http://{session.endpoint.host}:{session.endpoint.port}{path}"

    def get() -> bytes:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return bytes(answer.read())

    return await asyncio.to_thread(get)


async def begin(house: House, plan: Plan = PLAN, **more: Any) -> Session:
    """Return a session once it answers."""
    session = await house.sessions.submit("ada", SMALL, plan, **more)
    async with asyncio.timeout(60):
        return await house.sessions.wait(session.id)


async def over(house: House, session: Session, seconds: float = 40) -> Session:
    """Return a session once nothing is left of it."""
    async with asyncio.timeout(seconds):
        async for now in house.sessions.lives.follow(session.id):
            if now.state in FINAL:
                return now
    raise AssertionError("it never ended")


def plan_back(port: Port) -> Plan:
    """Return the plan of a session that reaches back to a server here."""
    return PLAN.model_copy(
        update={"exposed": {"back": port}, "environment": {"PORT": "{port}", "BACK": "{back}"}}
    )


@contextlib.asynccontextmanager
async def home() -> AsyncIterator[Port]:
    """A server here that a session is to reach."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nfrom home")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield Port(port=server.sockets[0].getsockname()[1])
