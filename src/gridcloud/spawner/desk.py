"""What all spawners of one hub share: the client, the configuration, and why sessions ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TypeVar

from gridcloud.client import AsyncClient, connect_async
from gridcloud.errors import Unreachable
from gridcloud.profiles import Book
from gridcloud.settings import Settings, SettingsFile, config_path, data_folder

__all__ = ["Desk", "the_desk"]

Answer = TypeVar("Answer")

HOST_KEY = Path("/etc/ssh/ssh_host_ed25519_key.pub")

PATIENCE = 30.0
"""Seconds to wait for a service that is being started again."""


class Desk:
    """Shared by the spawners of one hub."""

    def __init__(self, settings_file: SettingsFile, data: Path) -> None:
        self.data = data
        self.folder = settings_file.path.parent
        """Where relative paths of the configuration start."""
        self.ended: dict[tuple[str, str], str] = {}
        """Why the last session of (user, server) ended by itself, for its user to see."""
        self.expires: dict[tuple[str, str], datetime] = {}
        """When the running session of (user, server) will end."""
        self.notices: dict[tuple[str, str], str] = {}
        """What the user of a running session is warned of beside its end: a budget that is nearly spent, no use."""
        self.book = Book(settings_file)
        """What is offered, and to whom."""
        self._client: AsyncClient | None = None
        self.known: dict[str, str] = {}
        """What placeholders stand for, as it was learned last."""

    def settings(self) -> Settings:
        """Return the settings as they are now, with all profiles."""
        return self.book.current()[0]

    async def client(self, patience: float = PATIENCE) -> AsyncClient:
        """Return a client of the service. Raises Unreachable when there is none for ``patience`` seconds."""
        deadline = asyncio.get_running_loop().time() + patience
        while self._client is None:
            try:
                self._client = await connect_async(data=self.data, alone=True)
            except Unreachable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.2)
        return self._client

    async def ask(
        self, verb: Callable[[AsyncClient], Awaitable[Answer]], patience: float = PATIENCE
    ) -> Answer:
        """Return what the service answers, asking again while it is being started again. Raises GridcloudError."""
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            client = await self.client(patience)
            try:
                return await verb(client)
            except Unreachable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.2)

    async def learn(self) -> None:
        """Learn what placeholders stand for that are the same for everybody. Raises GridcloudError."""
        if self.settings().profiles:
            state = await self.ask(lambda client: client.authority.get())
            self.known = {
                "auth_key": f"cert-authority {state.present.line}",
                "server_public_ip": "127.0.0.1",
                "server_host_key": await asyncio.to_thread(_host_key_line),
            }

    async def close(self) -> None:
        """Let go of the service."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _host_key_line() -> str:
    """Return what known_hosts of a machine has to say of this computer, which is reached through a tunnel."""
    try:
        return f"127.0.0.1 {' '.join(HOST_KEY.read_text(encoding='utf-8').split()[:2])}"
    except (OSError, UnicodeDecodeError):
        return ""


@cache
def the_desk() -> Desk:
    """Return this hub's desk, at the service and configuration of its environment."""
    return Desk(SettingsFile(config_path()), data_folder())
