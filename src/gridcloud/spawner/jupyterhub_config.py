"""What ``gridcloud up`` gives JupyterHub as its configuration file."""

from __future__ import annotations

from typing import Any

from gridcloud.spawner.configuration import configure
from gridcloud.spawner.desk import the_desk

__all__: list[str] = []

c: Any = get_config()  # type: ignore[name-defined]  # noqa: F821 - JupyterHub gives it to its file
configure(c)
if more := the_desk().settings().hub.configuration:
    load_subconfig(more)  # type: ignore[name-defined]  # noqa: F821 - and this
