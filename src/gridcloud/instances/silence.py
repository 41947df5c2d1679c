"""How long machines have not answered: told once, and given up when it has lasted too long."""

from __future__ import annotations

from datetime import datetime, timedelta

__all__ = ["Silences"]


class Silences:
    """Since when each instance has been silent. Kept in memory: a new run gives everybody the whole time again."""

    def __init__(self, seconds: float) -> None:
        """``seconds``: how long a silence may last; 0: as long as it likes."""
        self._longest = timedelta(seconds=seconds)
        self._since: dict[str, datetime] = {}

    def begin(self, instance_id: str, now: datetime) -> bool:
        """Note that it does not answer; return whether that is news."""
        news = instance_id not in self._since
        self._since.setdefault(instance_id, now)
        return news

    def end(self, instance_id: str) -> bool:
        """Note that it answers, or is no longer asked; return whether that is news."""
        return self._since.pop(instance_id, None) is not None

    def given_up(self, instance_id: str, now: datetime) -> datetime | None:
        """Return since when it has been silent, if that is too long."""
        since = self._since.get(instance_id)
        return since if since is not None and self._longest and now - since >= self._longest else None
