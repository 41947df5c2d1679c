"""Providers of Kubernetes clusters."""

__all__: list[str] = []
