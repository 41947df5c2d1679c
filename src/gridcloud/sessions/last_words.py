"""What a program said at its end."""

from __future__ import annotations

from gridcloud.connections import programs
from gridcloud.connections.driver import Connection
from gridcloud.errors import GridcloudError

__all__ = ["last_line", "last_words"]


def last_line(text: str) -> str:
    """Return the last line that says something, at most 300 characters of it."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


async def last_words(connection: Connection, program: programs.Program) -> str:
    """Return the last 8 KiB of its output; nothing where they cannot be had."""
    try:
        return (await programs.tail(connection, program, 8192)).decode(errors="replace")
    except GridcloudError:
        return ""
