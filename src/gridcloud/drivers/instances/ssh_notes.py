"""Which hosts were asked to make which instance: removing what one host refused must not wait for all the others."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Notes"]


class Notes:
    """One small file per instance, written before a host is asked and removed once nothing is left there.

    Without its note an instance is looked for on every host: notes save time, and nothing depends on them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, instance_id: str, hosts: Mapping[str, Any]) -> None:
        """Note that these hosts (address by label; none at first) are asked. ``instance_id`` is a safe file name."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._folder / f"{instance_id}.{os.getpid()}.new"
        new.write_text(json.dumps({**(self.get(instance_id) or {}), **hosts}), encoding="utf-8")
        new.replace(self._path(instance_id))

    def get(self, instance_id: str) -> dict[str, Any] | None:
        """Return the hosts that were asked, by label; None when nothing is noted."""
        with contextlib.suppress(OSError, ValueError):
            noted = json.loads(self._path(instance_id).read_text(encoding="utf-8"))
            return noted if isinstance(noted, dict) else None
        return None

    def drop(self, instance_id: str) -> None:
        """Forget an instance."""
        self._path(instance_id).unlink(missing_ok=True)

    def _path(self, instance_id: str) -> Path:
        return self._folder / f"{instance_id}.json"
