"""Configurers that come with gridcloud."""
