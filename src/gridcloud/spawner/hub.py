"""The hub's process: ``python -m gridcloud.spawner.hub``."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jupyterhub.app import JupyterHub
from traitlets import default

from gridcloud.errors import GridcloudError
from gridcloud.sessions.model import Session
from gridcloud.spawner.desk import the_desk
from gridcloud.spawner.handlers import HANDLERS
from gridcloud.spawner.hub_logs import log_as_json
from gridcloud.spawner.login_door import LoginDoor, door_path

__all__ = ["Hub", "main"]

STRAY = 120.0
"""Seconds after which a session that is no server's is taken for lost."""

CONFIGURATION = Path(__file__).with_name("jupyterhub_config.py")


class Hub(JupyterHub):
    """JupyterHub, which also ends sessions that no server of its users accounts for."""

    _looking: asyncio.Task[None] | None = None
    _door: LoginDoor | None = None

    @default("extra_handlers")
    def _handlers(self) -> list[Any]:
        # Services, which JupyterHub would rather have, have no part in its pages and its cookies.
        return list(HANDLERS)

    def init_logging(self) -> None:
        """Log as the configuration says."""
        super().init_logging()
        if the_desk().settings().logs.format == "json":
            log_as_json(self.log)

    async def start(self) -> None:
        """Open the door for logins by header before the proxy is told of it, then all the rest."""
        if the_desk().settings().hub.header is not None:
            self._door = LoginDoor(self.tornado_application, door_path(the_desk().data))
        await super().start()

    async def init_spawners(self) -> Any:
        """Find the running sessions again, then stop those that were being started for nobody."""
        before = datetime.now(UTC)
        found = await super().init_spawners()
        await self._stop_strays(before)
        self._looking = asyncio.create_task(self._look_for_strays())
        return found

    async def cleanup(self) -> None:
        """Let go of the service, too."""
        if self._looking is not None:
            self._looking.cancel()
        if self._door is not None:
            await self._door.close()
        await super().cleanup()
        await the_desk().close()

    async def _look_for_strays(self) -> None:
        while True:
            await asyncio.sleep(STRAY)
            await self._stop_strays(datetime.now(UTC) - timedelta(seconds=STRAY))

    async def _stop_strays(self, before: datetime) -> None:
        """Stop the sessions from before this time that are no server's."""
        try:
            await self._stop(await self._strays(before))
        except GridcloudError as error:
            self.log.warning("sessions without a server could not be looked for: %s", error)

    async def _strays(self, before: datetime) -> list[Session]:
        client = await the_desk().client()
        known = {
            getattr(spawner, "session_id", "")  # a hub may be configured to have another class of spawners
            for user in self.users.values()
            for spawner in user.spawners.values()
        }
        # One hub belongs to a service: what was to reach a hub, and is looked after there, was started by this one, or
        # by it in an earlier life. Other services that share the store have hubs of their own.
        return [
            session
            for session in await client.sessions(here=True)
            if "hub" in session.plan.exposed and session.created < before and session.id not in known
        ]

    async def _stop(self, strays: list[Session]) -> None:
        client = await the_desk().client()
        for session in strays:
            self.log.warning("stopping session %s of %s: no server is it", session.id, session.owner)
            await client.stop_session(session.id)


def main() -> None:
    """Run the hub."""
    # What spawners start here lies beside our own Python, which need not be on the path of whoever started us.
    os.environ["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
    Hub.launch_instance(["--config", str(CONFIGURATION)])


if __name__ == "__main__":
    main()
