"""Requests, offers and instances: from what is asked for to a machine that is ready, and away again."""
