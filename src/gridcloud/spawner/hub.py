"""The hub's process: ``python -m gridcloud.spawner.hub``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jupyterhub.app import JupyterHub

from gridcloud.errors import GridcloudError
from gridcloud.spawner.desk import the_desk

__all__ = ["Hub", "main"]

CONFIGURATION = Path(__file__).with_name("jupyterhub_config.py")


class Hub(JupyterHub):
    """JupyterHub, which also ends sessions that no server of its users accounts for."""

    async def init_spawners(self) -> Any:
        """Find the running sessions again, then stop those that were being started for nobody."""
        before = datetime.now(UTC)
        found = await super().init_spawners()
        try:
            await self._stop_strays(before)
        except GridcloudError as error:
            self.log.warning("sessions without a server could not be looked for: %s", error)
        return found

    async def cleanup(self) -> None:
        """Let go of the service, too."""
        await super().cleanup()
        await the_desk().close()

    async def _stop_strays(self, before: datetime) -> None:
        client = await the_desk().client()
        known = {
            spawner.session_id
            for user in self.users.values()
            for spawner in user.spawners.values()
            if spawner.session_id
        }
        for session in await client.sessions():
            # One hub belongs to a store: what was to reach a hub was started by this one, or by it in an earlier life.
            ours = "hub" in session.plan.exposed and session.created < before
            if ours and session.id not in known:
                self.log.warning("stopping session %s of %s: no server is it", session.id, session.owner)
                await client.stop_session(session.id)


def main() -> None:
    """Run the hub."""
    Hub.launch_instance(["--config", str(CONFIGURATION)])


if __name__ == "__main__":
    main()
