"""A hub's REST API, as far as one session needs it."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import aiohttp

from gridcloud.errors import GridcloudError, TimedOut, Unreachable

__all__ = ["HubClient"]

STOP = 120.0
"""Seconds that a session has to be gone."""


class HubClient:
    """One user's default server. ``session`` carries the hub's token in every request."""

    def __init__(self, url: str, api_url: str, token: str) -> None:
        self.user = getpass.getuser()
        self.session = aiohttp.ClientSession(
            headers={"Authorization": f"token {token}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
        )
        self._api = f"{api_url.rstrip('/')}/users/{quote(self.user, safe='')}"
        self.server_url = f"{url.rstrip('/')}/user/{quote(self.user, safe='')}"

    async def __aenter__(self) -> HubClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def spawn(self, options: dict[str, Any], tell: Callable[[str], None]) -> None:
        """Start the server and return once it is ready, telling each step. Raises GridcloudError with the reason."""
        await self._ask("POST", "", allowed=(201, 409))
        asking = asyncio.create_task(self._ask("POST", "/server", json=options, allowed=(201, 202)))
        try:
            while not await self._follow(tell):
                if asking.done():
                    await asking
                await asyncio.sleep(0.05)
            await asking
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _follow(self, tell: Callable[[str], None]) -> bool:
        """Tell the steps of a start; return whether it is ready (False: there is no start to follow yet)."""
        try:
            async with self.session.get(f"{self._api}/server/progress") as response:
                if response.status in (400, 404):
                    return False
                async for line in response.content:
                    if not line.startswith(b"data:"):
                        continue
                    event = json.loads(line[5:])
                    if event.get("failed"):
                        raise GridcloudError(f"The session did not start: {event.get('message', '')}")
                    if event.get("ready"):
                        return True
                    tell(str(event.get("message", "")))
        except aiohttp.ClientError as error:
            raise Unreachable(f"The hub went away: {error}") from error
        raise GridcloudError("The hub said nothing more of the session.")

    async def stop(self) -> None:
        """Stop the server and return once it is gone. Raises TimedOut."""
        await self._ask("DELETE", "/server", allowed=(202, 204, 400, 404))
        deadline = asyncio.get_running_loop().time() + STOP
        while True:
            if not await self.running():
                return
            if asyncio.get_running_loop().time() > deadline:
                raise TimedOut(f"The session did not end within {STOP:g} s.")
            await asyncio.sleep(0.2)

    async def running(self) -> bool:
        """Tell whether the hub has a server for the user, or is starting or stopping it."""
        return bool((await self._ask("GET", "", allowed=(200,))).get("servers"))

    async def _ask(
        self, method: str, path: str, *, allowed: tuple[int, ...], json: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            async with self.session.request(method, self._api + path, json=json) as response:
                document = await response.json(content_type=None) if response.content_length != 0 else {}
        except TimeoutError as error:
            raise TimedOut("The hub does not answer.") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise Unreachable(f"The hub does not answer: {error}") from error
        document = document if isinstance(document, dict) else {}
        if response.status not in allowed:
            raise GridcloudError(f"The hub refused: {document.get('message') or response.reason}")
        return document
