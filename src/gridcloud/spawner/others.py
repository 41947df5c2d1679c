"""Ends the sessions of other spawners: only the hub knows how, so ``gridcloud up`` asks it before it ends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import needs_scope

from gridcloud.spawner.session_spawner import GridcloudSpawner

__all__ = ["OthersHandler"]

CANCELLING = 15.0
"""Seconds for a start that is cancelled to take back what it has begun."""


class OthersHandler(APIHandler):
    """``DELETE /hub/api/gridcloud/others``: end all sessions that other spawners started.

    Answers ``{"ended": 2, "left": ["ada", "ben/two"]}`` when that is done.
    """

    @needs_scope("admin:servers")
    async def delete(self) -> None:
        found = [
            (user, spawner)
            for user in list(self.users.values())
            for spawner in list(user.spawners.values())
            if isinstance(spawner, GridcloudSpawner) and spawner.of_another and spawner.active
        ]
        ended = await asyncio.gather(*(self._end(user, spawner) for user, spawner in found))
        names = [f"{user.name}/{spawner.name}".rstrip("/") for user, spawner in found]
        left = [name for name, done in zip(names, ended, strict=True) if not done]
        self.finish({"ended": sum(ended), "left": left})

    async def _end(self, user: Any, spawner: GridcloudSpawner) -> bool:
        """Return whether one is ended."""
        try:
            if spawner.pending == "spawn" and spawner._spawn_future is not None:
                spawner._spawn_future.cancel()
                await asyncio.wait([spawner._spawn_future], timeout=CANCELLING)
            if not spawner.pending and spawner.active:
                await self.stop_single_user(user, spawner.name)
            if spawner._stop_future is not None:
                with contextlib.suppress(asyncio.CancelledError):
                    await spawner._stop_future
            return not spawner.active and not spawner.failed_to_stop
        except Exception as error:
            self.log.error("%s: its session could not be ended: %s", spawner._log_name, error)
            return False
