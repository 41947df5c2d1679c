"""Act on an instance: run commands, move files, open ports in both directions.

`open` gives the connection for an address, `run` runs one command to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gridcloud.connections.driver import Command, Connection, Credentials, Process
from gridcloud.connections.model import Address, LocalAddress, PodAddress, SSHAddress
from gridcloud.errors import GridcloudError, Rejected, TimedOut

if TYPE_CHECKING:
    from gridcloud.connections.forkserver import ForkServer

__all__ = ["Completed", "open", "run"]

KILLING = 10.0
"""Seconds that the end of a command may take to reach it."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended: its exit code (128 + n after signal n) and what it said."""

    code: int
    stdout: bytes
    stderr: bytes


async def open(  # noqa: A001 (read as connections.open)
    address: Address, credentials: Credentials, fork_server: ForkServer | None = None
) -> Connection:
    """Open the connection for an address; the caller closes it. ``fork_server`` serves this computer's.

    Raises Unreachable within 20 seconds per host on the way, Untrusted, Forbidden, NotFound (the instance is gone).
    """
    # Imported when needed: a command line that only lists offers pays for none of them.
    if isinstance(address, LocalAddress):
        from gridcloud.connections.local import LocalConnection

        return await LocalConnection.open(address, fork_server)
    if isinstance(address, SSHAddress):
        from gridcloud.connections.ssh import SSHConnection

        return await SSHConnection.open(address, credentials)
    if isinstance(address, PodAddress):
        from gridcloud.connections.pod import PodConnection

        return await PodConnection.open(address)
    from gridcloud.connections.container import ContainerConnection

    return await ContainerConnection.open(address)


async def run(
    connection: Connection,
    command: Command,
    input: bytes = b"",
    timeout: float | None = None,
    limit: int = 16 << 20,
) -> Completed:
    """Run a command to its end. Raises TimedOut after ``timeout`` seconds, Rejected when it says more than ``limit``
    bytes; it is killed then. Raises what `Connection.start` raises."""
    process = await connection.start(command)
    try:
        async with asyncio.timeout(timeout):
            tasks = [
                asyncio.ensure_future(_gather(process.stdout(), limit)),
                asyncio.ensure_future(_gather(process.stderr(), limit)),
                asyncio.ensure_future(_feed(process, input)),
            ]
            try:
                stdout, stderr, _ = await asyncio.gather(*tasks)
                return Completed(await process.wait(), stdout, stderr)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    except BaseException as error:
        await _kill(process)
        if isinstance(error, TimeoutError):
            name = command.words[0]
            raise TimedOut(f"{name!r} did not end within {timeout:g} seconds and was killed.") from error
        raise


async def _gather(stream: AsyncIterator[bytes], limit: int) -> bytes:
    chunks, size = [], 0
    async for chunk in stream:
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise Rejected(
                f"The command said more than {limit} bytes and was killed.", remedy="Write to a file."
            )
    return b"".join(chunks)


async def _feed(process: Process, data: bytes) -> bytes:
    if data:
        await process.write(data)
    await process.close_input()
    return b""


async def _kill(process: Process) -> None:
    # Where the connection is lost, it ends what it started; one that does not answer is not waited for.
    with contextlib.suppress(GridcloudError, TimeoutError):
        async with asyncio.timeout(KILLING):
            await process.signal("KILL")
