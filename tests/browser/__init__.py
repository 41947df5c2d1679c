"""The hub as people see it: through a browser."""
