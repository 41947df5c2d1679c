"""Asking other institutions: one signed envelope out, one back, over mutual TLS; and streams of bytes to them."""

from __future__ import annotations

import socket

from gridcloud.federation.encoding import Json

__all__ = ["Caller"]


class Caller:
    """Reaches members by their ids. `Office.caller` is the one to use."""

    async def ask(
        self, institution: str, kind: str, body: Json, *, timeout: float = 30.0
    ) -> tuple[str, Json]:
        """Send one message to a member, and return the kind and body of its answer; kind is empty where it has none.

        Addresses of its record are tried first, then its relays. Raises Unreachable or TimedOut when it does not
        answer (it may have taken the message all the same), MessageRefused of the fitting kind when either side does
        not believe the other, UnknownSigner when it is no member, and what the other side says: Throttled,
        InvalidRequest, NotFound, Unavailable.
        """
        raise NotImplementedError

    async def open_stream(
        self, institution: str, name: str, id: str, *, timeout: float = 30.0
    ) -> socket.socket:
        """Open a stream of bytes to what a member serves as `name` (`Doorway.stream`) for `id`.

        Returns a non-blocking Unix socket, whose bytes go through TLS to that member and nobody else; closing it ends
        the stream, and the other side's end reads as an end of file. Raises as `ask` does; NotFound when it serves
        none.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """End what is under way. May be called twice."""
        raise NotImplementedError
