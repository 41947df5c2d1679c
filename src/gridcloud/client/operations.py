"""The verbs of whoever runs a gridcloud for others: all sessions, how the service does, and its figures."""

from __future__ import annotations

from gridcloud.client.wire import Wire
from gridcloud.service.operation_documents import Condition, Overview

__all__ = ["Operations"]


class Operations:
    """For administrators."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def sessions(
        self,
        *,
        show: str = "live",
        text: str = "",
        provider: str = "",
        service: str = "",
        page: int = 1,
        size: int = 50,
    ) -> Overview:
        """Return a page of everybody's sessions, newest first. ``show``: live, running, starting, ending, failed, ended
        or all; ``text``: in their owner, name, id, profile or end."""
        return await self._wire.ask(
            "GET",
            "/overview",
            Overview,
            show=show,
            text=text,
            provider=provider,
            service=service,
            page=page,
            size=size,
        )

    async def condition(self) -> Condition:
        """Return how the service does, with what providers said last."""
        return await self._wire.ask("GET", "/condition", Condition)

    async def metrics(self) -> bytes:
        """Return all figures of the service, in Prometheus's text format."""
        async with self._wire.send("GET", "/metrics") as answer:
            return bytes(await answer.read())
