"""Applications beside JupyterLab: what travels to a session's machine, so that its server has them.

The folder ``machine`` holds programs for there. Jupyter Server reads ``proxied.py`` as its configuration; for each
application jupyter-server-proxy starts ``app.py``, which starts the program itself on demand and ends all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gridcloud.settings.apps import AppSettings
from gridcloud.spawner.apps.builtin import built_in

__all__ = ["app_environment", "app_files", "wanted_apps"]

MACHINE = Path(__file__).parent / "machine"

FOLDER = "apps"

PROGRAMS = {
    "proxied.py": "jupyter_server_config.py",
    "app.py": "app.py",
    "serving.py": "serving.py",
    "ports.py": "ports.py",
    "ties.py": "ties.py",
    "desktop.py": "desktop.py",
    "desktop.html": "desktop.html",
    "dashboards.py": "dashboards.py",
    "rstudio.py": "rstudio.py",
}
"""The files of ``machine``, and what they are called there."""

OF_ONE = {
    "desktop.py": "desktop",
    "desktop.html": "desktop",
    "dashboards.py": "dask",
    "rstudio.py": "rstudio",
}
"""Files that only one application needs."""


def wanted_apps(apps: Mapping[str, AppSettings]) -> dict[str, AppSettings]:
    """Return by name the applications that sessions have: ours as configured, and the configuration's own."""
    ours = built_in()
    changed = {
        name: app.model_copy(update=_given(apps[name])) if name in apps else app for name, app in ours.items()
    }
    own = {name: app for name, app in apps.items() if name not in ours}
    return {name: app for name, app in (changed | own).items() if app.enabled}


def app_files(apps: Mapping[str, AppSettings]) -> dict[str, str]:
    """Return the files of a session's plan by which it has these applications; none for none."""
    wanted = wanted_apps(apps)
    if not wanted:
        return {}
    told = {name: app.model_dump(mode="json", exclude={"enabled", "icon"}) for name, app in wanted.items()}
    files = {there: _read(here) for here, there in PROGRAMS.items() if OF_ONE.get(here, "") in {"", *wanted}}
    files |= {f"{name}.svg": app.icon for name, app in wanted.items() if app.icon}
    files["apps.json"] = json.dumps(told, indent=1)
    return {f"{FOLDER}/{path}": text for path, text in files.items()}


def app_environment(apps: Mapping[str, AppSettings]) -> dict[str, str]:
    """Return the variable of a session's plan by which its server finds these files; none for none."""
    return {"JUPYTER_CONFIG_PATH": f"{{files}}/{FOLDER}"} if wanted_apps(apps) else {}


def _given(app: AppSettings) -> dict[str, Any]:
    """Return what an entry says itself; the rest stays as it was."""
    return {name: getattr(app, name) for name in app.model_fields_set}


@cache
def _read(name: str) -> str:
    return (MACHINE / name).read_text(encoding="utf-8")
