"""What ``gridcloud up`` gives JupyterHub as its configuration file; imported otherwise, it does nothing."""

from __future__ import annotations

from gridcloud.spawner.configuration import configure
from gridcloud.spawner.desk import the_desk

__all__: list[str] = []

if given := globals().get("get_config"):  # JupyterHub gives it to its file, and load_subconfig
    configure(given())
    if more := the_desk().settings().hub.configuration:
        globals()["load_subconfig"](more)
