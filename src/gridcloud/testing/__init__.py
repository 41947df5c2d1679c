"""Suites that every driver passes, to be subclassed by anybody's driver; real parts with faults on demand."""

__all__: list[str] = []
