"""Have the open pages of a session save what is not saved, before it ends.

What is not saved lies in browsers only. A page of JupyterLab listens to the events of its Jupyter server, and so can be
told at once, wherever it is; ours answers by an event, too (see ``spawner/lab``). A server takes only events of kinds
that it knows, so these are said to be of its files: somebody has looked at ``.gridcloud/save/…``, which is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from typing import Any

import aiohttp

from gridcloud.connections.model import Port

__all__ = ["save_pages"]

SCHEMA = "https://events.jupyter.org/jupyter_server/contents_service/v1"

FOLDER = ".gridcloud/save"
"""Begins the path of such an event: ``FOLDER/NONCE`` asks, ``FOLDER/NONCE/PAGE/WORD/COUNT`` answers."""

ANSWER = re.compile(r"([a-z0-9]{1,32})/(begun|saved|failed)/([0-9]{1,4})")

PAGES = 100
"""Pages that are waited for, at most."""

HEARD = 2.0
"""Seconds in which a page says that it has heard."""

SAVED = 15.0
"""Seconds until it has saved everything."""


async def save_pages(
    endpoint: Port, probe: str, token: str, heard: float = HEARD, saved: float = SAVED
) -> str:
    """Ask the open pages of a Jupyter server to save, and return what came of it in words; nothing where none is open.

    ``probe`` is the path of its interface, as in ``/user/ada/api``. Raises nothing: a server may be of any kind.
    """
    url = f"http://{endpoint.host}:{endpoint.port}{probe}/events"
    nonce = secrets.token_hex(8)
    connector = aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())
    headers = {"Authorization": f"token {token}"}
    timeout = aiohttp.ClientTimeout(total=saved + 5)
    pages: dict[str, tuple[str, int]] = {}
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError, TypeError):
        async with (
            aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as client,
            client.ws_connect(f"{url}/subscribe", max_msg_size=1 << 20) as events,
        ):
            event = {
                "schema_id": SCHEMA,
                "version": "1",
                "data": {"action": "get", "path": f"{FOLDER}/{nonce}"},
            }
            async with client.post(url, json=event) as answer:
                answer.raise_for_status()
            await _gather(events, f"{FOLDER}/{nonce}/", pages, heard, saved)
    return _words(pages)


async def _gather(
    events: aiohttp.ClientWebSocketResponse,
    prefix: str,
    pages: dict[str, tuple[str, int]],
    heard: float,
    saved: float,
) -> None:
    """Note what pages answer, until no more can be heard of and all are done, or it takes too long."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        busy = any(word == "begun" for word, _ in pages.values())
        left = began + (saved if busy else heard) - loop.time()
        if left <= 0:
            return
        try:
            message = await events.receive(timeout=left)
        except TimeoutError:
            continue
        if message.type is not aiohttp.WSMsgType.TEXT:
            return
        said = _read(message.json(), prefix)
        if said is not None and (said[0] in pages or len(pages) < PAGES):
            pages[said[0]] = said[1], said[2]


def _read(event: Any, prefix: str) -> tuple[str, str, int] | None:
    """Return what a page says: its name, a word, and a count. Others may send anything."""
    path = event.get("path", "") if isinstance(event, dict) and event.get("schema_id") == SCHEMA else ""
    if not isinstance(path, str) or not path.startswith(prefix):
        return None
    found = ANSWER.fullmatch(path[len(prefix) :])
    return (found[1], found[2], int(found[3])) if found else None


def _words(pages: dict[str, tuple[str, int]]) -> str:
    if not pages:
        return ""
    kept = sum(count for word, count in pages.values() if word == "saved")
    words = [
        f"What was open in {len(pages)} page{'s' if len(pages) > 1 else ''} was to be saved: {kept} saved"
    ]
    if failed := sum(count for word, count in pages.values() if word == "failed"):
        words.append(f"{failed} could not be")
    if late := sum(1 for word, _ in pages.values() if word == "begun"):
        words.append(f"{late} page{'s' if late > 1 else ''} took too long")
    return ", ".join(words) + "."
