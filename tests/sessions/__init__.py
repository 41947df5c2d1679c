"""Sessions on real instances."""

__all__: list[str] = []
