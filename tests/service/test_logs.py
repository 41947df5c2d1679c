"""The log: whatever others say stands on one line, and steers nothing."""

from __future__ import annotations

import asyncio
import io
import json
import logging

import pytest

from gridcloud.service.logs import JSONFormatter, LineFormatter, begin_request, note_user, scrub
from gridcloud.spawner.hub_logs import AccessFormatter
from tests.services import Service


def test_what_others_say_is_one_line() -> None:
    """A borrower's last word, a name, a traceback with both in it."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))
    log = logging.getLogger("gridcloud.test_logs")
    log.addHandler(handler)
    log.propagate = False
    try:
        log.error("a stream of %s: %s", "bergen", "bye\r\nWARNING gridcloud: all is well\x1b[2J\u2028\u202e")
        try:
            raise ValueError("bye\nERROR gridcloud: forged")
        except ValueError:
            log.exception("it ended")
    finally:
        log.removeHandler(handler)
    first, second, *trace = written.getvalue().splitlines()
    assert first == (
        r"ERROR gridcloud.test_logs: a stream of bergen: "
        r"bye\r\nWARNING gridcloud: all is well\x1b[2J\u2028\u202e"
    )
    assert second == "ERROR gridcloud.test_logs: it ended"
    assert trace
    assert all(line.startswith("    ") for line in trace)
    assert any("forged" in line for line in trace)


SECRETS = [
    "GET /hub/login?token=abcdef123456 done",
    "Authorization: Bearer abcdef123456",
    '{"password": "abcdef123456"}',
    "api_key=abcdef123456",
    "postgresql+psycopg://ann:abcdef123456@db/grid does not answer",
    "token gc_abcdef1234567890ab was refused",
    "eyJhbGciOiJFUzI1NiJ9.abcdef123456abcdef.c2ln",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nabcdef123456\n-----END OPENSSH PRIVATE KEY-----",
    "Set-Cookie: session=abcdef123456; Secure",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_of_others_words_are_left_out(text: str) -> None:
    assert "abcdef" not in scrub(text)
    assert "[hidden]" in scrub(text)


def test_what_is_no_secret_stays() -> None:
    for text in (
        "Instance i-abcdef on here is ready.",
        "It did not answer within 120 s: token expired",
        "http://127.0.0.1:8000/hub/spawn and user@host",
        "https://example.org/a:b@c",
    ):
        assert scrub(text) == text


async def test_json_lines_say_what_they_are_about() -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JSONFormatter())
    log = logging.getLogger("gridcloud.test_json")
    log.addHandler(handler)
    log.propagate = False

    async def work() -> None:
        begin_request("front-7")
        note_user("ada\n{}")
        log.warning("password=%s of %s", "hunter22", "x\u2028y")
        try:
            raise ValueError("token=hunter22")
        except ValueError:
            log.exception("it ended", extra={"gridcloud": {"status": 500}})

    try:
        await asyncio.create_task(work(), name="session s-42")
    finally:
        log.removeHandler(handler)
    first, second = (json.loads(line) for line in written.getvalue().splitlines())
    assert "hunter22" not in written.getvalue()
    assert written.getvalue().isascii()
    assert first == {
        "time": first["time"],
        "level": "WARNING",
        "name": "gridcloud.test_json",
        "message": "password=[hidden] of x\u2028y",
        "request": "front-7",
        "user": "ada\n{}",
        "session": "s-42",
    }
    assert (second["status"], "ValueError" in second["traceback"]) == (500, True)


def test_ids_of_requests_are_plain() -> None:
    assert begin_request("front-7") == "front-7"
    for given in ("", "a b", "x" * 65, '"', "é"):
        assert begin_request(given) != given


def test_the_hubs_lines_are_taken_apart() -> None:
    record = logging.LogRecord(
        "JupyterHub",
        logging.INFO,
        "",
        1,
        "302 GET /hub/a?token=[secret] -> /hub/b (a@b@::1) 1.25ms",
        (),
        None,
    )
    document = json.loads(AccessFormatter().format(record))
    assert {key: document[key] for key in ("status", "method", "user", "ip", "ms", "location")} == {
        "status": 302,
        "method": "GET",
        "user": "a@b",
        "ip": "::1",
        "ms": 1.25,
        "location": "/hub/b",
    }


async def test_answers_have_an_id_and_lines_in_json(service: Service) -> None:
    async with service.browser(await service.token("ada")) as browser:
        async with browser.get("/v1/sessions/s-none", headers={"X-Request-Id": "front-8"}) as answer:
            assert (answer.status, answer.headers["X-Request-Id"]) == (404, "front-8")
        async with browser.get("/v1/sessions") as answer:
            assert len(answer.headers["X-Request-Id"]) == 16
