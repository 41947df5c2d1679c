"""Finders of members besides gossip."""
