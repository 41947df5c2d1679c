"""The process that owns the store: HTTP API, the loops that run the runners, the tunnels."""
