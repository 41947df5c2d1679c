"""Real machines and container engines for the tests: see `machines` and `containers`."""

__all__: list[str] = []
