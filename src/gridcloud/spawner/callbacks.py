"""What servers that another spawner started tell the hub: the port that a batch job listens on."""

from __future__ import annotations

import hmac

from jupyterhub.apihandlers.base import APIHandler
from tornado import web

from gridcloud.spawner.session_spawner import GridcloudSpawner

__all__ = ["BatchPortHandler"]


class BatchPortHandler(APIHandler):
    """``POST /hub/api/batchspawner``: a job of a batchspawner says which port its server listens on, and nothing else.

    The job is known by the token that its server was given. batchspawner's own handler would set any attribute.
    """

    async def post(self) -> None:
        """Take ``{"port": 1…65535}`` and hand it to the spawner that waits for it."""
        spawner = self._asking()
        if spawner is None:
            raise web.HTTPError(403, "Only a server that is being started can say where it listens.")
        given = self.get_json_body()
        port = given.get("port") if isinstance(given, dict) and set(given) == {"port"} else None
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
            raise web.HTTPError(400, 'Expected {"port": 1…65535} and nothing else.')
        assert spawner.wrapped is not None  # noqa: S101 - see _asking
        spawner.wrapped.spawner.port = port
        self.set_status(201)
        self.finish({"port": port})

    def _asking(self) -> GridcloudSpawner | None:
        """Return the spawner whose server asks: one of another's that was begun and has not answered yet."""
        token = self.get_auth_token()
        if self.current_user is None or not token:
            return None
        for spawner in getattr(self.current_user, "spawners", {}).values():
            waits = spawner.pending == "spawn" and getattr(spawner, "wrapped", None) is not None
            if waits and hmac.compare_digest(spawner.api_token.encode(), token.encode()):
                found: GridcloudSpawner = spawner
                return found
        return None
