"""The protocol between institutions: no sockets, no waiting, a clock that is handed in."""
