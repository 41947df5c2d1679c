"""Kubernetes clusters that are made, scaled and ended at a provider."""
