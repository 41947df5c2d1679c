"""Providers of instances."""

__all__: list[str] = []
