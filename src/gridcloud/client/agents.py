"""The verbs for machines that dial out, for administrators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from gridcloud.agents.model import Caps
from gridcloud.client.wire import Wire
from gridcloud.errors import InvalidRequest
from gridcloud.service.agent_documents import (
    Drain,
    Invitation,
    InvitationWish,
    Labelling,
    Machine,
    Machines,
)

__all__ = ["Agents"]


class Agents:
    """The machines of one service. Every method raises GridcloudError, as the service does."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def invite(
        self,
        name: str,
        *,
        time: int = 86400,
        caps: Caps | None = None,
        labels: Mapping[str, str] | None = None,
        addresses: Sequence[str] = (),
    ) -> Invitation:
        """Invite a machine; the token is in the answer, this once."""
        given: dict[str, Any] = {"name": name, "time": time, "caps": caps or Caps()}
        try:
            wish = InvitationWish(**given, labels=dict(labels or {}), addresses=tuple(addresses))
        except ValidationError as error:
            told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}." for one in error.errors()]
            raise InvalidRequest(" ".join(told)) from None
        return await self._wire.ask("POST", "/agents/invitations", Invitation, wish)

    async def all(self, *, all: bool = False) -> list[Machine]:
        """Return the machines, oldest first; with ``all`` those that were removed too."""
        return (await self._wire.ask("GET", "/agents", Machines, all=all)).machines

    async def get(self, name: str) -> Machine:
        """Return one machine. Raises NotFound."""
        return await self._wire.ask("GET", _path(name), Machine)

    async def label(self, name: str, labels: Mapping[str, str | None]) -> Machine:
        """Set labels of a machine; None takes one away."""
        return await self._wire.ask("POST", _path(name, "labels"), Machine, Labelling(labels=dict(labels)))

    async def drain(self, name: str, *, draining: bool = True) -> Machine:
        """Give a machine nothing new, or again what it can do."""
        return await self._wire.ask("POST", _path(name, "drain"), Machine, Drain(draining=draining))

    async def remove(self, name: str) -> None:
        """Have a machine end everything and leave."""
        await self._wire.tell("DELETE", _path(name))


def _path(*parts: str) -> str:
    return "/agents/" + "/".join(quote(part, safe="") for part in parts)
