"""Institutions that lend to each other: the protocol without sockets, as functions over records and small tables."""
