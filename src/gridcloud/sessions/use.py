"""Whether a Jupyter server is used: asked by its own interface, with the token that it was given at its start."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from gridcloud.connections import run
from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.model import Port
from gridcloud.connections.programs import Program
from gridcloud.errors import GridcloudError

__all__ = ["TOKEN", "find_token", "jupyter_use"]

TOKEN = "JUPYTERHUB_API_TOKEN"  # noqa: S105 - the name of a variable

RECENT = timedelta(seconds=60)
"""What was done so long ago is use: a look comes every half minute."""

PATIENCE = 10.0
"""Seconds that a server has for each answer."""

# The program may run below a shell of ours: both have the variable from the same command.
_READ = f'tr "\\0" "\\n" <"/proc/$1/environ" | sed -n "s/^{TOKEN}=//p"'


async def find_token(connection: Connection, program: Program) -> str:
    """Return the token that a running program was given; empty where it has none. It is the program's own account's
    to read, and goes nowhere from here. Raises what running a command raises."""
    done = await run(connection, Command(("/bin/sh", "-c", _READ, "gridcloud", str(program.pid))), timeout=20)
    return done.stdout.decode(errors="replace").strip()


async def jupyter_use(endpoint: Port, probe: str, token: str, now: datetime | None = None) -> str | None:
    """Return how the server is used, in words; nothing where it is not, None where it cannot be told.

    ``probe`` is the path of its interface, as in ``/user/ada/api``. A busy kernel is use, whatever it does; so is
    anything done there or typed on a terminal within a minute. An open page alone is none.
    """
    now = now or datetime.now(UTC)
    base = f"http://{endpoint.host}:{endpoint.port}{probe}"
    connector = aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    headers = {"Authorization": f"token {token}"}
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as client:
            kernels = await _ask(client, f"{base}/kernels")
            terminals = await _ask(client, f"{base}/terminals", missing=[])
            status = await _ask(client, f"{base}/status")
        if any(kernel.get("execution_state") in ("busy", "starting") for kernel in kernels):
            return "a kernel is busy"
        if any(_is_recent(one, now) for one in terminals):
            return "a terminal is used"
        return "somebody works there" if _is_recent(status, now) else ""
    except (
        aiohttp.ClientError,
        TimeoutError,
        GridcloudError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
    ):
        return None


async def _ask(client: aiohttp.ClientSession, url: str, missing: Any = None) -> Any:
    async with client.get(url, params={"no_track_activity": "1"}, allow_redirects=False) as answer:
        if answer.status == 404 and missing is not None:
            return missing
        answer.raise_for_status()
        if answer.status != 200:
            raise ValueError(answer.status)
        return await answer.json()


def _is_recent(thing: dict[str, Any], now: datetime) -> bool:
    return now - datetime.fromisoformat(thing["last_activity"]) < RECENT
