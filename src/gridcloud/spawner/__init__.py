"""JupyterHub on gridcloud: the only package that knows it.

`running` and `run_up` (module ``up``) start service, proxy and hub; `session_spawner.GridcloudSpawner` is what the hub
starts sessions with.
"""

from __future__ import annotations

__all__: list[str] = []
