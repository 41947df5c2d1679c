"""The way of a login from the hub's proxy to the hub: a socket that only the hub's own account can open.

Whoever reaches the hub's port can say anything of where a request came from; whoever comes through this socket is the
proxy, whose word on that counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from jupyterhub.proxy import ConfigurableHTTPProxy
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket
from traitlets import Unicode

from gridcloud.settings import socket_path

__all__ = ["DoorProxy", "LoginDoor", "door_path"]


class DoorProxy(ConfigurableHTTPProxy):
    """The hub's proxy, which brings the page to log in to the door."""

    door = Unicode(help="path of the socket").tag(config=True)

    async def check_routes(self, *args: Any, **kwargs: Any) -> Any:
        """See that the proxy knows the door, too: one that was started again knows nothing."""
        found = await super().check_routes(*args, **kwargs)
        await self._add_door()
        return found

    async def restore_routes(self) -> None:
        """Tell a new proxy all routes."""
        await super().restore_routes()
        await self._add_door()

    async def _add_door(self) -> None:
        # Without JupyterHub's mark it is none of the routes that JupyterHub would remove.
        body = {"target": f"http+unix://{quote(self.door, safe='')}"}
        await self.api_request(f"{self.hub.base_url.rstrip('/')}/login", method="POST", body=body)


class LoginDoor:
    """The hub's end of it."""

    def __init__(self, application: Any, path: Path) -> None:
        self._server = HTTPServer(application, xheaders=True)
        self._server.add_socket(bind_unix_socket(str(path), mode=0o600))

    async def close(self) -> None:
        """Listen no more."""
        self._server.stop()
        await self._server.close_all_connections()


def door_path(data: Path) -> Path:
    """Return the path of the socket, in a folder for its owner only. Raises Untrusted when that is not so."""
    return socket_path(data).with_suffix(".door")
