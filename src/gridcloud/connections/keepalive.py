"""Have the kernel find out whether the other end of a TCP connection is still there."""

from __future__ import annotations

import socket

__all__ = ["keep_alive"]

IDLE, INTERVAL, COUNT = 30, 10, 3
"""Seconds of silence before the first question, seconds between questions, unanswered ones that mean it is gone."""


def keep_alive(connection: socket.socket) -> None:
    """Have a socket noticed as lost a minute after its other end has vanished, however little is sent.

    A listening socket hands this on to those that it accepts.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, COUNT)
