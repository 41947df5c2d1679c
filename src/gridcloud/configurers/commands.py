"""Run a command on a machine and tell its output line by line, as the instance's account or as root."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from gridcloud.configurers.driver import Report
from gridcloud.connections.driver import Command, Connection, Process
from gridcloud.errors import ConfigurationFailed

__all__ = ["Outcome", "clean_line", "end_process", "run", "run_as_root"]

KEPT_LINES = 20
LINE_LENGTH = 4000
_AFTERWARDS = 2.0
"""Seconds to wait for output after the end: a daemon that was started may hold the pipe for ever."""
_GRACE = 2.0
"""Seconds between asking a process to end and killing it."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: its exit code, and the last lines it said on either stream."""

    code: int
    lines: tuple[str, ...] = ()

    @property
    def last_words(self) -> str:
        """The last lines as one text."""
        return "\n".join(self.lines)


async def run(connection: Connection, command: Command, report: Report, *, input: bytes = b"") -> Outcome:
    """Run a command with ``input`` on its standard input, telling each line. Ended when this is cancelled.

    Raises ConnectionLost, and NotFound when its working directory does not exist.
    """
    return await _run(connection, command, report, input, hold=False)


async def run_as_root(connection: Connection, command: Command, report: Report) -> Outcome:
    """Run a command as root, with nothing on its standard input: plainly when the account is root, else by sudo.

    The environment goes over standard input, never through sudo's arguments, and the command ends when the
    connection does, though we may not signal what belongs to root. Raises ConfigurationFailed when the account
    may not become root, ConnectionLost.
    """
    words = (*await _become(connection), "/bin/sh", "-c", _AS_ROOT, "gridcloud", *command.words)
    wrapped = Command(words=words, directory=command.directory)
    return await _run(connection, wrapped, report, _encode(command.environment), hold=True)


async def end_process(process: Process) -> None:
    """End a process for sure: by the end of its input, by TERM, by KILL. Never raises."""
    with contextlib.suppress(Exception):
        await process.close_input()
        await process.signal("TERM")
        try:
            await asyncio.wait_for(process.wait(), _GRACE)
        except TimeoutError:
            await process.signal("KILL")
            await asyncio.wait_for(process.wait(), _GRACE)


def clean_line(line: str) -> str:
    """Return a line as it may be stored and shown: no control characters, of a progress bar only its last state."""
    line = _ESCAPES.sub("", line).rstrip()
    line = line.rpartition("\r")[2]
    return _CONTROLS.sub("", line)[:LINE_LENGTH].rstrip()


# Reads NAME=value lines (values as `printf %b` takes them) up to an empty one, then runs the command, in a session of
# its own where there is setsid. When standard input ends first, whoever started us is gone: the command is ended.
_AS_ROOT = r"""
while IFS= read -r line && [ -n "$line" ]; do
    value=$(printf '%b.' "${line#*=}"); export "${line%%=*}=${value%.}"
done
exec 3<&0
if command -v setsid >/dev/null 2>&1; then setsid "$@" 3<&- </dev/null & else "$@" 3<&- </dev/null & fi
child=$!
{
    while IFS= read -r line <&3; do :; done
    kill -s TERM -- -$child || kill -s TERM $child
    sleep 2
    kill -s KILL -- -$child || kill -s KILL $child
} >/dev/null 2>&1 &
watch=$!
wait $child
code=$?
kill $watch 2>/dev/null
exit $code
"""


async def _run(
    connection: Connection, command: Command, report: Report, input: bytes, *, hold: bool
) -> Outcome:
    tail: deque[str] = deque(maxlen=KEPT_LINES)

    def tell(line: str) -> None:
        tail.append(line)
        report(line)

    process = await connection.start(command)
    readers = [
        asyncio.create_task(_tell(process.stdout(), tell)),
        asyncio.create_task(_tell(process.stderr(), tell)),
    ]
    try:
        await process.write(input)
        if not hold:
            await process.close_input()
        code = await process.wait()
        done, _ = await asyncio.wait(readers, timeout=_AFTERWARDS)
        for reader in done:
            reader.result()
        if code != 0:
            await connection.check()  # what a closing connection has ended did not fail by itself
        return Outcome(code, tuple(tail))
    finally:
        await asyncio.shield(_leave(process, readers))


async def _leave(process: Process, readers: list[asyncio.Task[None]]) -> None:
    await end_process(process)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


async def _tell(chunks: AsyncIterator[bytes], tell: Report) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    async for chunk in chunks:
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        # A line without an end must not fill the memory: only what would be told of it is kept.
        rest = rest[-16 * LINE_LENGTH :]
        for line in filter(None, map(clean_line, lines)):
            tell(line)
    if last := clean_line(rest + decoder.decode(b"", final=True)):
        tell(last)


async def _become(connection: Connection) -> tuple[str, ...]:
    """Return the words that make what follows them run as root."""
    said: list[str] = []
    await run(connection, Command(words=("id", "-u")), said.append)
    if said[-1:] == ["0"]:
        return ()
    tried = await run(connection, Command(words=("sudo", "-n", "--", "true")), lambda line: None)
    if tried.code == 0:
        return ("sudo", "-n", "--")
    raise ConfigurationFailed(
        f"The account on the machine is not root and cannot become it: {tried.last_words or 'sudo is missing'}.",
        remedy="Let it use sudo without a password, or leave out what needs root.",
    )


def _encode(environment: Mapping[str, str]) -> bytes:
    lines = [
        f"{name}=" + "".join(f"\\0{byte:03o}" for byte in value.encode("utf-8", "surrogateescape"))
        for name, value in environment.items()
    ]
    return "".join(f"{line}\n" for line in [*lines, ""]).encode()
