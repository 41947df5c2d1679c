"""Tests of configurers."""

__all__: list[str] = []
