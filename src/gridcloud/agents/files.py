"""Files of an instance by SFTP, through whatever connection leads into it.

A small server (`file_program`) runs within the instance, started through its connection as any command is: it may do
there what the instance's user may, and ends with the connection.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator

from gridcloud.agents import file_program
from gridcloud.connections.container_ports import BOOT
from gridcloud.connections.container_process import drain
from gridcloud.connections.driver import Command, Connection, Process
from gridcloud.errors import Rejected

__all__ = ["open_files"]

PATIENCE = 30.0
"""Seconds that the server of files may take to begin."""


async def open_files(
    connection: Connection, directory: str, client: str
) -> tuple[Process, AsyncIterator[bytes]]:
    """Start a server of files; return it, and what it says. Relative paths begin at ``directory``.

    ``client`` is what the other side says it is: OpenSSH's gives the two paths of a link in an order of its own.
    Raises Rejected where there is no python3, and what `Connection.start` raises.
    """
    order = "reverse" if any(name in client for name in ("OpenSSH", "paramiko")) else "draft"
    words = ("python3", "-I", "-S", "-c", BOOT, order)
    process = await connection.start(Command(words, directory=directory))
    output = process.stdout()
    text = inspect.getsource(file_program).encode()
    await process.write(f"file_program {len(text)}".ljust(64).encode() + text + b"end 0".ljust(64))
    try:
        async with asyncio.timeout(PATIENCE):
            said = await _first_word(process, output)
    except TimeoutError:
        said = b""
    if said != file_program.READY:
        await process.signal("KILL")
        raise Rejected(f"Its files cannot be served: what should serve them says {said[:60]!r}.")
    return process, output


async def _first_word(process: Process, output: AsyncIterator[bytes]) -> bytes:
    said = b""
    while len(said) < len(file_program.READY):
        block = await anext(output, b"")
        if not block:
            code = await process.wait()
            complaint = (await drain(process.stderr())).strip()
            raise Rejected(
                f"Its files cannot be served: python3 ended there with {code}. {complaint}".strip(),
                remedy="Use an image with python3 (3.8 or newer) in its PATH.",
            )
        said += block
    return said
