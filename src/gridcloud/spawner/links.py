"""The one-time link to log in: made by ``gridcloud up``, used once, kept only as a hash."""

from __future__ import annotations

import getpass
import hashlib
import hmac
import json
import secrets
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from gridcloud.spawner.hub_files import HubFiles

__all__ = ["LIFE", "claim_link", "issue_link"]

LIFE = timedelta(hours=1)
"""How long an unused link is good for."""


def issue_link(files: HubFiles, url: str) -> str:
    """Return a new link to log in as the user this runs as, at the hub whose pages lie under ``url``.

    The link before it is void.
    """
    token = secrets.token_urlsafe(32)
    files.write_link(
        {"hash": _hash(token), "user": getpass.getuser(), "until": (datetime.now(UTC) + LIFE).isoformat()}
    )
    return f"{url.rstrip('/')}/hub/login?{urlencode({'token': token})}"


def claim_link(files: HubFiles, token: str) -> str | None:
    """Return whom the link's token lets in, once; None when it is wrong, used or too old."""
    try:
        known = json.loads(files.link.read_text())
    except (OSError, ValueError):
        return None
    if not hmac.compare_digest(str(known["hash"]), _hash(token)):
        return None
    try:
        files.link.unlink()  # whoever removes it has used it
    except FileNotFoundError:
        return None
    if datetime.fromisoformat(str(known["until"])) < datetime.now(UTC):
        return None
    return str(known["user"])


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
