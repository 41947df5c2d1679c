"""What gridcloud can use: one provider of one kind is one file, found by its entry point."""

__all__: list[str] = []
