"""JupyterHub's configuration, made from gridcloud's."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any

from gridcloud.settings import HubSettings
from gridcloud.spawner.authenticator import LinkAuthenticator
from gridcloud.spawner.course_page import taught_by
from gridcloud.spawner.desk import Desk, the_desk
from gridcloud.spawner.hub_files import HubFiles
from gridcloud.spawner.hub_logs import log_named
from gridcloud.spawner.login_ways import CRYPT_KEY, let_in
from gridcloud.spawner.notes import notes_for
from gridcloud.spawner.session_spawner import GridcloudSpawner
from gridcloud.store.database import parse_location

__all__ = ["configure"]

FOREVER = 30 * 86400
"""Seconds. The service gives up on a start after times of its own; the hub waits for what it says."""


def configure(c: Any) -> None:
    """Configure JupyterHub for the gridcloud of this environment (GRIDCLOUD_CONFIG, GRIDCLOUD_DATA)."""
    desk = the_desk()
    files = HubFiles(desk.data)
    _places(c, desk, files)
    _people(c, desk, files)
    _sessions(c, desk)


def _places(c: Any, desk: Desk, files: HubFiles) -> None:
    hub, ports = desk.settings().hub, files.ports()
    host = f"[{hub.bind}]" if ":" in hub.bind else hub.bind
    c.JupyterHub.bind_url = f"http://{host}:{ports.public}{hub.base_url}"
    c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{ports.hub}"
    c.JupyterHub.public_url = hub.public_url
    place = parse_location(hub.database or files.database)
    c.JupyterHub.db_url = place.render_as_string(hide_password=False)
    c.JupyterHub.upgrade_db = True  # a file is copied beforehand
    c.JupyterHub.cookie_secret_file = str(files.cookie_secret)
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.cleanup_proxy = False
    c.JupyterHub.last_activity_interval = 30  # also how often the proxy's routes are looked after
    c.JupyterHub.template_paths = [str(Path(__file__).parent / "templates")]
    c.JupyterHub.template_vars = {"gridcloud_notes": _notes, "gridcloud_teaches": _teaches}
    if desk.settings().logs.format == "json":
        c.JupyterHub.tornado_settings = {"log_function": log_named}
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{ports.proxy_api}"
    c.ConfigurableHTTPProxy.auth_token = files.secret("proxy-token")


def _notes(user: Any) -> list[dict[str, str]]:
    """Return the notes for who looks at a page: JupyterHub's user, or None.

    JupyterHub copies its configuration deeply, so the desk is fetched here: a copy would know nothing new.
    """
    return notes_for(the_desk(), user.name) if user else []


def _teaches(user: Any) -> bool:
    """Tell whether who looks at a page, JupyterHub's user or None, teaches a course."""
    return user is not None and bool(taught_by(the_desk().settings().courses, user.name, admin=False))


def _people(c: Any, desk: Desk, files: HubFiles) -> None:
    hub: HubSettings = desk.settings().hub
    c.Authenticator.allowed_users = set(hub.allowed_users)
    c.Authenticator.admin_users = set(hub.admin_users)
    if CRYPT_KEY not in os.environ:
        c.CryptKeeper.keys = [files.secret("auth-state-key")]
    if hub.authenticator:
        c.Authenticator.allow_all = hub.allow_all
        let_in(c, hub, desk.data)
    else:
        me = getpass.getuser()
        c.JupyterHub.authenticator_class = LinkAuthenticator
        c.LinkAuthenticator.files = files
        c.Authenticator.allowed_users = {me}
        c.Authenticator.admin_users = {me}
    c.JupyterHub.services = [
        {"name": "gridcloud", "api_token": files.secret("api-token")},
        {"name": "gridcloud-metrics", "api_token": files.secret("metrics-token")},
    ]
    c.JupyterHub.load_roles = [
        {
            "name": "gridcloud",
            "description": "gridcloud's own commands",
            "services": ["gridcloud"],
            "scopes": ["admin:users", "admin:servers", "access:servers", "proxy", "read:hub"],
        },
        {
            "name": "gridcloud-metrics",
            "description": "whoever gathers figures: reads those, and nothing else",
            "services": ["gridcloud-metrics"],
            "scopes": ["read:metrics"],
        },
    ]


def _sessions(c: Any, desk: Desk) -> None:
    c.JupyterHub.spawner_class = GridcloudSpawner
    names = desk.settings().hub.named_servers
    c.JupyterHub.allow_named_servers = names > 0
    c.JupyterHub.named_server_limit_per_user = names
    c.GridcloudSpawner.start_timeout = FOREVER
    c.Spawner.http_timeout = 600
    c.Spawner.poll_interval = 5
