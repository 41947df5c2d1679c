"""Institutions on sockets and in the store: `gridcloud.federation` with keys, files and a clock."""
