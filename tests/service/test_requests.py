"""Requests that are too much, too slow, or make no sense; and errors that tell no more than they should."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from gridcloud.errors import GridcloudError
from gridcloud.service import gate, server
from gridcloud.service.house import House
from gridcloud.settings.edit import with_provider
from tests.services import Service


async def ask(service: Service, text: bytes) -> bytes:
    """Send bytes to the private socket; return all that comes back."""
    reader, writer = await asyncio.open_unix_connection(str(service.socket))
    writer.write(text)
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "named"),
    [
        ("POST", "instances", b"{", 422, "no JSON"),
        ("POST", "instances", b"\xff\xfe", 422, "no JSON"),
        ("POST", "instances", b"[]", 422, "body"),
        ("POST", "instances", b"null", 422, "body"),
        ("POST", "instances", b'{"request": {"cpus": "many"}}', 422, "request.cpus"),
        ("POST", "instances", b'{"request": {"cpus": NaN}}', 422, "request.cpus"),
        ("POST", "instances", b'{"request": {"memory": "-1GiB"}}', 422, "request.memory"),
        ("POST", "instances", b'{"request": {"gpus": true, "cpu": 1}}', 422, "request.cpu"),
        ("POST", "instances", b'{"name": "a\\u0000b"}', 422, "name"),
        ("POST", "instances", b'{"request": {"time": 1e300}}', 422, "time"),
        ("POST", "instances", b'{"request": {"time": 99999999999999}}', 422, "time"),
        ("POST", "instances", b'{"configure": "x"}', 422, "configure"),
        ("POST", "instances", b'{"unknown": "s3cr3t"}', 422, "unknown"),
        ("POST", "sessions", b'{"environment": {"A": "s3cr3t"}}', 422, "plan"),
        (
            "POST",
            "sessions",
            b'{"plan": {"words": ["x"]}, "environment": {"A": ["s3cr3t"]}}',
            422,
            "environment.A",
        ),
        ("POST", "tokens", b'{"time": 99999999999999}', 422, "time"),
        ("GET", "instances?all=perhaps", b"", 422, "all"),
        ("GET", "instances/..%2f..%2fetc", b"", 404, ""),
        ("GET", "instances/%00", b"", 404, ""),
        ("GET", "instances/" + "x" * 5000, b"", 404, ""),
        ("GET", "nothing", b"", 404, "nothing"),
        ("PATCH", "instances", b"", 405, "PATCH"),
        ("POST", "instances/i-none/extend", b"{}", 404, "i-none"),
        ("DELETE", "providers/none", b"", 404, "none"),
        ("DELETE", "tokens/none", b"", 404, "none"),
        ("POST", "providers", b'{"name": "x", "entry": {"driver": "none"}}', 501, "none"),
        ("POST", "providers", b'{"name": "../x", "entry": {"driver": "fake"}}', 422, ""),
    ],
)
async def test_mistakes_are_named(
    service: Service, method: str, path: str, body: bytes, status: int, named: str
) -> None:
    async with (
        service.browser() as browser,
        browser.request(
            method, f"/v1/{path}", data=body or None, headers={"Content-Type": "application/json"}
        ) as answer,
    ):
        problem = await answer.json(content_type="application/problem+json")
    assert (answer.status, problem["status"]) == (status, status)
    assert named in problem["detail"]
    assert "s3cr3t" not in str(problem)
    assert "Traceback" not in str(problem)


async def test_extending_beyond_time_is_refused(service: Service) -> None:
    instance = await service.obtain()
    async with service.browser() as browser:
        for body in (
            {},
            {"time": 10**13},
            {"time": -1},
            {"expires": "2999-01-01T00:00:00"},
            {"expires": "2001-01-01T00:00:00Z"},
        ):
            async with browser.post(f"/v1/instances/{instance.id}/extend", json=body) as answer:
                assert answer.status == 422, body


async def test_documents_have_a_size(service: Service) -> None:
    head = b"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    told = await ask(service, head + b"Content-Length: 99999999\r\nConnection: close\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 413")
    assert b"application/problem+json" in told
    chunk = b"40000\r\n" + b" " * 0x40000 + b"\r\n"
    told = await ask(
        service, head + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 4 + b"1\r\n \r\n"
    )
    assert told.startswith(b"HTTP/1.1 413")


async def test_heads_have_a_size(service: Service) -> None:
    told = await ask(service, b"GET /v1/version HTTP/1.1\r\nHost: x\r\nX-Y: " + b"x" * 200_000)
    assert told == b"" or told.startswith(b"HTTP/1.1 4")


async def test_slow_heads_are_not_waited_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the number: nobody wants to wait that long here.
    monkeypatch.setattr(server, "HEAD", 0.1)
    assert await ask(service, b"") == b""
    assert await ask(service, b"GET /v1/version HT") == b""
    reader, writer = await asyncio.open_unix_connection(str(service.socket))
    writer.write(b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    writer.write(b"GET /v1/ver")  # a second one that never comes to its end
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_slow_documents_are_not_waited_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the number: nobody wants to wait that long here.
    monkeypatch.setattr(gate, "PATIENCE", 0.1)
    head = b"POST /v1/offers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"
    assert (await ask(service, head + b"Connection: close\r\n\r\n{")).startswith(b"HTTP/1.1 408")


async def test_what_nobody_thought_of_is_told_to_the_log_only(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(house: House) -> Any:
        raise RuntimeError("s3cr3t")

    # Nothing real fails without a reason of its own.
    monkeypatch.setattr(House, "settings", fail)
    async with service.browser() as browser, browser.get("/v1/providers") as answer:
        problem = await answer.json(content_type="application/problem+json")
    assert answer.status == 500
    assert problem["detail"] == "gridcloud failed; its log tells more."
    assert "s3cr3t" not in str(problem)
    assert any(record.levelno >= logging.ERROR for record in caplog.records)
    assert issubclass(GridcloudError, Exception)


async def test_the_loop_runs_on_while_disks_are_slow(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing the configuration waits for a disk, and nobody else waits for that."""
    slow = threading.Event()

    def add(*arguments: Any) -> str:
        assert slow.wait(20)
        return with_provider(*arguments)

    # A disk that is slow for just as long as is wanted.
    monkeypatch.setattr("gridcloud.service.configuration_desk.with_provider", add)
    async with service.admin() as client:
        adding = asyncio.create_task(client.add_provider("more", {"driver": "fake"}))
        await client.version()
        assert not adding.done()
        slow.set()
        assert (await adding).name == "more"
