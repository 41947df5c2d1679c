"""Calls and notices between us and a machine: lines of JSON, each at most 1 MiB, over one SSH channel.

A call is ``{"id", "call", "arguments"}`` and has one answer, ``{"id", "answer"}`` or ``{"id", "error"}`` with a problem
document. A notice is an object with one key, its kind. What is of no known kind is passed over.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import asyncssh

from gridcloud.errors import ConnectionLost, GridcloudError, InvalidRequest, TimedOut, from_problem

__all__ = ["BEAT", "LINE", "SILENCE", "Exchange", "plain"]

log = logging.getLogger(__name__)

LINE = 1 << 20
"""Bytes of a line at most."""
BEAT = 5.0
"""Seconds between two signs of life."""
SILENCE = 12.0
"""Seconds without a line after which the other side is taken to be dead."""
WORDS = 1000
"""Characters of an error's message that are passed on."""
PENDING = 256
"""Calls of the other side that are answered at the same time."""
UNASKED = 8 << 20
"""Bytes that a machine may say unasked while a silence would be its death; a line counts as `LEAST` at least."""
LEAST = 4096
DIGITS = 18
"""Digits of a whole number at most: it then fits into 64 bits, wherever it is counted or stored."""

Answer = Callable[[str, dict[str, Any]], Awaitable[Any]]
Notice = Callable[[str, Any], None]


class _Source(Protocol):
    """Where lines come from: asyncio's and asyncssh's readers both fit."""

    async def read(self, n: int = -1, /) -> bytes: ...


class _Target(Protocol):
    """Where lines go to."""

    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...


async def _refuse(call: str, arguments: dict[str, Any]) -> Any:
    raise InvalidRequest(f"Nothing is called {call!r:.60} here.")


class Exchange:
    """One side of it. ``answer`` answers the other side's calls, ``notice`` is given its notices (kind, content).

    ``silence``: seconds after which a silent other side is dead. ``unasked``: bytes that it may say in that time
    without having been asked; 0: any number.
    """

    def __init__(
        self,
        source: _Source,
        target: _Target,
        *,
        notice: Notice,
        answer: Answer = _refuse,
        silence: float = SILENCE,
        unasked: int = 0,
    ) -> None:
        self._unasked = unasked
        self._said = (0.0, 0)
        self._source = source
        self._target = target
        self._notice = notice
        self._answer = answer
        self._silence = silence
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self._count = 0
        self._over = False

    async def run(self) -> None:
        """Read until the other side ends it. Raises ConnectionLost when it is silent, or says what is not ours."""
        held = bytearray()
        try:
            while True:
                try:
                    async with asyncio.timeout(self._silence):
                        block = await self._source.read(1 << 16)
                except (OSError, asyncssh.Error) as error:
                    if not isinstance(error, TimeoutError):
                        raise ConnectionLost(f"The connection was lost: {plain(str(error))}.") from error
                    raise ConnectionLost(f"Nothing was heard for {self._silence:g} s.") from None
                if not block:
                    return
                held += block
                if (
                    b"\n" not in block and len(held) <= LINE
                ):  # a line of many small pieces is looked through once
                    continue
                *lines, rest = held.split(b"\n")
                held = bytearray(rest)
                if len(held) > LINE or any(len(line) > LINE for line in lines):
                    raise ConnectionLost(f"A line was longer than {LINE} bytes.")
                for line in lines:
                    self._take(bytes(line))
        finally:
            self._over = True
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionLost("The machine's connection was lost."))
                    waiting.exception()  # whoever waited may be gone by now
            self._waiting.clear()
            answering = set(self._answering)
            for task in answering:
                task.cancel()
            await asyncio.gather(*answering, return_exceptions=True)

    async def call(self, call: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        """Return the other side's answer. Raises its error, TimedOut after ``timeout`` seconds, ConnectionLost."""
        if self._over:
            raise ConnectionLost("The machine's connection was lost.")
        self._count += 1
        number = self._count
        self._waiting[number] = waiting = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._send({"id": number, "call": call, "arguments": dict(arguments)})
                return await waiting
        except TimeoutError:
            raise TimedOut(f"No answer came within {timeout:g} s.") from None
        finally:
            self._waiting.pop(number, None)

    async def tell(self, kind: str, content: Any) -> None:
        """Send a notice. Raises ConnectionLost."""
        await self._send({kind: content})

    def _take(self, line: bytes) -> None:
        try:
            document = json.loads(line, parse_constant=_number, parse_float=_number, parse_int=_whole)
            if isinstance(document, dict) and "call" not in document:
                document = _printable(document)
        except (ValueError, RecursionError):
            raise ConnectionLost("A line was no JSON, or of numbers or depths that make no sense.") from None
        if not isinstance(document, dict):
            raise ConnectionLost("A line was no JSON object.")
        number = document.get("id")
        if "call" in document:
            self._count_unasked(line)
            if len(self._answering) >= PENDING:
                raise ConnectionLost(f"More than {PENDING} calls were open.")
            task = asyncio.create_task(self._reply(number, document), name="agent: call")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        elif isinstance(number, int):
            waiting = self._waiting.get(number)
            if waiting is None or waiting.done():
                self._count_unasked(line)
                return
            error = document.get("error")
            if isinstance(error, dict):
                waiting.set_exception(_cut(from_problem(error)))
            else:
                waiting.set_result(document.get("answer"))
        else:
            self._count_unasked(line)
            for kind, content in document.items():
                self._notice(str(kind), content)

    def _count_unasked(self, line: bytes) -> None:
        if not self._unasked:
            return
        since, said = self._said
        now = asyncio.get_running_loop().time()
        if now - since > self._silence:
            since, said = now, 0
        self._said = (since, said + max(len(line), LEAST))
        if self._said[1] > self._unasked:
            raise ConnectionLost("More was said unasked than a machine has to say.")

    async def _reply(self, number: Any, document: dict[str, Any]) -> None:
        arguments = document.get("arguments")
        reply: dict[str, Any] = {"id": number}
        try:
            if not isinstance(arguments, dict):
                raise InvalidRequest("A call has an object of arguments.")
            reply["answer"] = await self._answer(str(document["call"]), arguments)
        except GridcloudError as error:
            reply["error"] = error.problem()
        except Exception:
            log.exception("the call %.60r failed", document.get("call"))
            reply["error"] = GridcloudError("The machine failed to do this; its log tells more.").problem()
        try:
            await self._send(reply)
        except ConnectionLost:
            return

    async def _send(self, document: Mapping[str, Any]) -> None:
        line = json.dumps(document, separators=(",", ":"), default=str).encode() + b"\n"
        if len(line) > LINE:
            raise InvalidRequest(f"What is to be sent is longer than {LINE} bytes.")
        if self._over:
            raise ConnectionLost("The machine's connection was lost.")
        try:
            async with self._lock:
                self._target.write(line)
                await self._target.drain()
        except (OSError, asyncssh.Error) as error:
            raise ConnectionLost("The machine's connection was lost.") from error


def plain(text: str) -> str:
    """Return what the other side says as a terminal, a log and the store may have it: one line, not too long."""
    return "".join(one if one.isprintable() else " " for one in text[:WORDS])


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isprintable() else "".join(one if one.isprintable() else " " for one in value)
    if isinstance(value, list):
        return [_printable(one) for one in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(one) for key, one in value.items()}
    return value


def _number(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError("no number")
    return found


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > DIGITS:
        raise ValueError("too large a number")
    return int(text)


def _cut(error: GridcloudError) -> GridcloudError:
    """Return an error of the other side as people are told it and the store keeps it: not longer than it needs."""
    error.message, error.remedy, error.details = error.message[:WORDS], error.remedy[:WORDS], {}
    return error
