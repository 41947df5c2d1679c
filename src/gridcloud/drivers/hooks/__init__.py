"""Hooks: what is done before a session starts, one file each."""
