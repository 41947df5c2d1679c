"""A session's story as the live steps of the hub's progress page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gridcloud.service.documents import Event

__all__ = ["Steps"]

PLACES = {
    "requested": 5,
    "creating": 15,
    "discarding": 15,
    "starting": 30,
    "configuring": 45,
    "ready": 70,
    "launching": 80,
    "running": 95,
}
"""How far one is, in percent, at an event of this type."""

LONGEST = 300
"""Characters of a line that are shown."""

LINES = 40
"""Lines of one event that are shown."""


class Steps:
    """Turns events into steps; the bar never goes back."""

    def __init__(self) -> None:
        self._percent = 0

    def of(self, event: Event) -> Iterator[dict[str, Any]]:
        """Yield the steps of one event. Their messages are plain text: the page escapes them."""
        self._percent = max(self._percent, PLACES.get(event.type, 0))
        lines = [line for line in event.message.splitlines() if line.strip()]
        if event.type == "creating":
            lines += [_refusal(offer) for offer in event.data.get("offers", []) if offer.get("why_not")]
        hidden = len(lines) - LINES
        if hidden > 0:
            lines = [f"… ({hidden} lines more)", *lines[-LINES:]]
        for line in lines:
            yield {"progress": self._percent, "message": line[:LONGEST]}


def _refusal(offer: dict[str, Any]) -> str:
    return f"Not {offer.get('provider', '?')}: {offer['why_not']}"
