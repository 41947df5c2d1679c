"""Configures a session's server, as its ``jupyter_server_config.py``: what jupyter-server-proxy passes on, and to whom.

Without jupyter-server-proxy it changes nothing. It travels to machines that have no gridcloud: Python 3.8, Jupyter
Server and what that needs are all there is.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

__all__ = ["configure", "entries", "is_ours"]

LONGEST = 40
"""Bytes that the folder of temporary files may have: sockets lie below it, and their paths are short."""

OLDEST = (4, 4)
"""Versions before 4.1.1 let anybody open a websocket (CVE-2024-28179); streams of bytes came later."""


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what jupyter-server-proxy is to pass on: by address, its sockets in a folder that is yet to be made."""
    apps = json.loads((folder / "apps.json").read_text(encoding="utf-8"))
    temporary = tempfile.gettempdir()
    place = "/tmp" if len(temporary) > LONGEST else temporary  # noqa: S108 - nobody can guess what is made in it
    sockets = f"{place}/gridcloud-apps-{secrets.token_hex(8)}"
    found: dict[str, dict[str, Any]] = {}
    for name, app in apps.items():
        icon = folder / f"{name}.svg"
        words = [
            str(folder / "app.py"),
            str(folder / "apps.json"),
            name,
            f"{sockets}/{name}",
            str(os.getpid()),
        ]
        found[name] = {
            "command": [
                sys.executable,
                "-I",
                *(word.replace("{", "{{").replace("}", "}}") for word in words),
            ],
            "unix_socket": f"{sockets}/{name}",
            "timeout": app["start"] + 20.0,
            "absolute_url": app["whole_path"],
            "new_browser_tab": app["new_tab"],
            "update_last_activity": app["is_use"],
            "launcher_entry": {
                "title": app["title"],
                "category": "Notebook",  # JupyterLab shows no pictures of others' on cards elsewhere
                **({"icon_path": str(icon)} if icon.exists() else {}),
            },
        }
        if any("{stream}" in word for word in app["command"]):
            found[f"{name}-stream"] = {
                "unix_socket": f"{sockets}/{name}.stream",
                "raw_socket_proxy": True,
                "update_last_activity": False,  # a clock that ticks is no use; the page says when it is used
                "launcher_entry": {"enabled": False},
            }
    return found


def is_ours(port: int, listening: dict[int, set[int]]) -> bool:
    """Whether nobody else listens on a port: what another account serves would be shown as a page of this session,
    and could do there what its user can."""
    return listening.get(port, set()) <= {os.geteuid()}


def configure(c: Any, folder: Path) -> None:
    """Give the server its applications, and keep it off ports of others."""
    # Servers that are started from a terminal of this one are none of ours.
    os.environ.pop("JUPYTER_CONFIG_PATH", None)
    try:
        from jupyter_server_proxy import handlers
    except ImportError:
        return
    if tuple(int(part) for part in version("jupyter-server-proxy").split(".")[:2]) < OLDEST:
        return
    c.ServerProxy.servers = entries(folder)
    ports = _load(folder / "ports.py")
    before = handlers.LocalProxyHandler._check_host_allowlist

    def allowed(handler: Any, host: str) -> bool:
        """Ask by a port only what listens there for ourselves; applications have names and sockets instead."""
        named = handler.proxy_base or not handler.path_args
        return bool(before(handler, host)) and (
            named or is_ours(int(handler.path_args[0]), ports.listening())
        )

    handlers.LocalProxyHandler._check_host_allowlist = allowed


def _load(path: Path) -> Any:
    """Import a file beside this one, under a name that no library has."""
    specification = spec_from_file_location(f"gridcloud_app_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise ImportError(str(path))
    module = module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


if given := globals().get("get_config"):  # Jupyter gives it to its configuration files
    configure(given(), Path(__file__).resolve().parent)
