"""Where other institutions come in: a listener with mutual TLS that knows who is there before it reads anything."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from gridcloud.federation.encoding import Json

__all__ = ["Doorway", "MessageHandler", "StreamHandler"]

MessageHandler: TypeAlias = Callable[[str, str, Json], Awaitable[tuple[str, Json] | None]]
"""`async (sender, kind, body)`: called with a member's accepted message; returns kind and body of the answer, or None.

It has stored what it changed when it returns. A GridcloudError that it raises is told to the sender by its class and
message.
"""
StreamHandler: TypeAlias = Callable[[str, str, socket.socket], Awaitable[None]]
"""`async (sender, id, socket)`: called with a member that TLS proved, and a non-blocking Unix socket to talk to it.

It returns when the stream is over, and is cancelled when the member went or the door closes; the socket is closed then.
Raise NotFound or Forbidden before anything was written to refuse: the member is told.
"""


class Doorway:
    """Takes messages and streams of members. `Office.doorway` is the one to use; it may take relayed ones only."""

    def handle(self, prefix: str, handler: MessageHandler) -> None:
        """Have messages whose kind is `prefix` or begins with `prefix.` go to `handler`; a longer prefix goes first."""
        raise NotImplementedError

    def stream(self, name: str, handler: StreamHandler) -> None:
        """Have streams of this name (`leases`) go to `handler`."""
        raise NotImplementedError

    @property
    def port(self) -> int:
        """The port that is listened on; 0 when none is."""
        raise NotImplementedError
