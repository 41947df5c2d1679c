"""What programs ask the hub: whether it lives, whether it can do its work, and the figures of its service."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.scopes import needs_scope

from gridcloud.errors import GridcloudError
from gridcloud.service.operation_documents import Condition
from gridcloud.spawner.desk import the_desk

__all__ = ["AliveHandler", "FiguresHandler", "ReadyHandler"]

PATIENCE = 3.0
"""Seconds that the service, or the proxy, may take to answer."""

FRESH = 2.0
"""Seconds for which an answer holds: anybody may ask, and as often as they like."""

MAY = "read:metrics"
"""JupyterHub's scope for figures, and nothing else."""


class AliveHandler(BaseHandler):
    """``GET /hub/gridcloud/health/live``: answers as long as the hub does. Anybody may ask."""

    async def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.finish({"alive": True})


class ReadyHandler(BaseHandler):
    """``GET /hub/gridcloud/health/ready``: whether sessions can be started and reached, with status 503 where not.

    Anybody may ask, and is told which parts answer; who may read figures, also what providers said last.
    """

    _accept_token_auth = True
    _told: tuple[float, dict[str, Any], Condition | None] = (float("-inf"), {}, None)
    _asking: asyncio.Lock | None = None

    async def get(self) -> None:
        parts, condition = await self._look()
        ready = all(parts.values())
        document: dict[str, Any] = {"ready": ready, **parts}
        if condition is not None and self._may_know():
            document |= condition.model_dump(mode="json", exclude={"ready", "service", "store"})
        self.set_status(200 if ready else 503)
        self.set_header("Cache-Control", "no-store")
        self.finish(document)

    def _may_know(self) -> bool:
        return self.current_user is not None and MAY in self.parsed_scopes

    async def _look(self) -> tuple[dict[str, bool], Condition | None]:
        kind = type(self)
        kind._asking = kind._asking or asyncio.Lock()
        async with kind._asking:
            when, parts, condition = kind._told
            if time.monotonic() - when >= FRESH:
                condition, proxy = await asyncio.gather(self._service(), self._proxy())
                store = condition is not None and condition.store
                parts = {"hub": True, "proxy": proxy, "service": condition is not None, "store": store}
                kind._told = time.monotonic(), parts, condition
            return parts, condition

    async def _service(self) -> Condition | None:
        try:
            async with asyncio.timeout(PATIENCE):
                return await the_desk().ask(lambda client: client.operations.condition(), PATIENCE)
        except (GridcloudError, TimeoutError):
            return None

    async def _proxy(self) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                await self.proxy.get_all_routes()
        except Exception as error:  # whatever the proxy's class raises
            self.log.warning("the proxy does not answer: %s", error)
            return False
        return True


class FiguresHandler(BaseHandler):
    """``GET /hub/gridcloud/metrics``: the service's figures for Prometheus, for a token with the scope `MAY`."""

    _accept_token_auth = True

    @needs_scope(MAY)
    async def get(self) -> None:
        try:
            text = await the_desk().ask(lambda client: client.operations.metrics(), PATIENCE)
        except GridcloudError as error:
            self.set_status(503)
            self.finish(f"{error.message}\n")
            return
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(text)
