"""Storages: where the files of shares lie, one file for each kind of place."""
