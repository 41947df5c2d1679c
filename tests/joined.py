"""The machines that dial a gridcloud, as drivers see them, without any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gridcloud.errors import Unreachable
from gridcloud.identity.credentials import Secret
from gridcloud.instances.driver import JoinedMachine

__all__ = ["Agents"]


class Agents:
    """Gives tokens, and counts them."""

    def __init__(self) -> None:
        self.count = 0
        self.forgotten: list[str] = []
        self.joined: list[JoinedMachine] = []

    async def machines(self) -> Sequence[JoinedMachine]:
        return self.joined

    async def call(self, name: str, call: str, arguments: Mapping[str, Any], timeout: float = 8.0) -> Any:
        raise Unreachable("nobody is there")

    async def invite(
        self,
        name: str,
        provider: str,
        *,
        seconds: int,
        caps: Mapping[str, float],
        addresses: Sequence[str] = (),
    ) -> Secret:
        self.count += 1
        return Secret(f"token-{self.count}")

    async def forget(self, name: str, provider: str) -> None:
        self.forgotten.append(name)
