"""Schedulers: what runs jobs."""
