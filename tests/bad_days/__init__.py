"""What goes wrong on bad days, each on real parts."""

__all__: list[str] = []
