"""Find the owner of the store, or become it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

from gridcloud.client.asynchronous import AsyncClient
from gridcloud.client.wire import Wire
from gridcloud.errors import Conflict, InvalidSettings, Unreachable
from gridcloud.settings import SettingsFile, config_path, data_folder, socket_path

__all__ = ["connect_async"]

log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds to wait for another process that is just becoming the owner: many at once keep each other busy."""


async def connect_async(
    url: str | None = None,
    *,
    token: str | None = None,
    config: Path | None = None,
    data: Path | None = None,
    alone: bool = False,
    ca: Path | None = None,
    farewell: Callable[[str], None] | None = None,
) -> AsyncClient:
    """Return a client of the service at ``url`` (default: GRIDCLOUD_URL) with ``token`` (default: GRIDCLOUD_TOKEN);
    without a URL, of the service on this computer; where none runs, of one within this process.

    ``alone``: never become the owner. ``ca``: a file of certificates (PEM) of the authorities to trust at ``url``,
    instead of those that this computer trusts or SSL_CERT_FILE names. ``farewell`` is told when closing the client
    waits for others that use the service within this process. Raises Unreachable, InvalidSettings.
    """
    url = url or os.environ.get("GRIDCLOUD_URL", "")
    if url:
        token = token or os.environ.get("GRIDCLOUD_TOKEN", "")
        if not url.startswith("https://"):
            raise InvalidSettings(f"{url!r} is no https:// URL.", remedy="A token is only sent over TLS.")
        return AsyncClient(Wire(url=url, token=token, ca=ca))
    data = data or data_folder()
    path = socket_path(data)
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        if await asyncio.to_thread(_answers, path):
            if joined := await _join(path):
                return joined
        elif alone:
            raise Unreachable(f"No service runs for {data}.", remedy="Start one: gridcloud up")
        else:
            with contextlib.suppress(Conflict):
                return await _become_owner(
                    SettingsFile(config or config_path(), required=config is not None), data, path, farewell
                )
        if asyncio.get_running_loop().time() > deadline:
            raise Unreachable(
                f"Another gridcloud owns {data} but does not answer at {path}.",
                remedy="Try again; if it stays so, 'gridcloud version' and its log in the data folder tell more.",
            )
        await asyncio.sleep(0.05)


async def _join(path: Path) -> AsyncClient | None:
    """Return a client that is connected, so that the owner stays for it; None when that was just ending."""
    client = AsyncClient(Wire(socket=path))
    try:
        await client.version()
    except Unreachable:
        await client.close()
        return None
    except BaseException:
        await client.close()
        raise
    return client


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


async def _become_owner(
    settings_file: SettingsFile, data: Path, path: Path, farewell: Callable[[str], None] | None
) -> AsyncClient:
    # Imported only here: a client of a service that runs elsewhere pays nothing for it.
    from gridcloud.service.process import owning

    stack = contextlib.AsyncExitStack()
    await stack.enter_async_context(owning(settings_file, data, farewell=farewell or log.warning))
    return AsyncClient(Wire(socket=path), stack.aclose)
