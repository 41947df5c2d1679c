"""Who a service is among those that share a store: a name chosen once, kept in its data folder."""

from __future__ import annotations

import re
import secrets
import socket
from pathlib import Path

from gridcloud.identity.keys import write_whole

__all__ = ["keeper_of"]

LONGEST = 40
"""Characters of a computer's name that are taken."""


def keeper_of(data: Path) -> str:
    """Return the name of the service of a data folder, made when it is first asked for.

    It has the computer's name in it for people to read. What tells two services of one computer, or of two computers of
    one name, apart is its end; a folder that is moved keeps its name, and with it what the service looks after.
    """
    path = data / "service-name"
    try:
        kept = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        kept = ""
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{0,59}", kept):
        return kept
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")[:LONGEST]
    name = f"{host or 'service'}-{secrets.token_hex(3)}"
    write_whole(path, f"{name}\n".encode(), 0o600)
    return name
