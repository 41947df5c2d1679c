"""What the hub's pages tell a user of the sessions: why one ended, when one will."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from gridcloud.spawner.desk import Desk

__all__ = ["endings_for", "notes_for"]


def notes_for(desk: Desk, user: str, now: datetime | None = None) -> list[dict[str, str]]:
    """Return the notes for a user, each with ``level`` (of the page's style) and ``text``."""
    now = now or datetime.now(UTC)
    notes = [
        {"level": "warning", "text": f"{text}{_of(server)}"}
        for (owner, server), text in (*sorted(desk.ended.items()), *sorted(desk.notices.items()))
        if owner == user
    ]
    warning = timedelta(seconds=desk.settings().limits.warning)
    for (owner, server), expires in sorted(desk.expires.items()):
        if owner == user:
            left = max(0, int((expires - now).total_seconds() // 60))
            near = expires - now <= warning
            text = f"Your session{_of(server)} ends at {expires:%Y-%m-%d %H:%M} UTC, in {left} minutes."
            notes.append(
                {
                    "level": "danger" if near else "info",
                    "text": text + (" Save your work." if near else ""),
                }
            )
    return notes


def endings_for(desk: Desk, user: str, now: datetime | None = None) -> dict[str, dict[str, Any]]:
    """Return, by server, when a user's sessions end, seconds ``left`` until then, whether to ``warn`` already and
    whether a user may ``extend`` it, and the ``notice`` that there is beside that. What has no end has none of the
    first two."""
    now = now or datetime.now(UTC)
    endings: dict[str, dict[str, Any]] = {}
    extend = desk.settings().session.extend > 0
    for (owner, server), expires in sorted(desk.expires.items()):
        if owner == user:
            left = max(0.0, (expires - now).total_seconds())
            warn = left <= desk.settings().limits.warning
            endings[server] = {"ends": expires.isoformat(), "left": left, "warn": warn, "extend": extend}
    for (owner, server), notice in sorted(desk.notices.items()):
        if owner == user:
            nothing: dict[str, Any] = {"ends": None, "left": None, "warn": False, "extend": False}
            endings.setdefault(server, nothing)["notice"] = notice
    return endings


def _of(server: str) -> str:
    return f" ({server})" if server else ""
