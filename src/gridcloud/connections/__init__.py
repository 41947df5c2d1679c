"""Act on an instance: run commands, move files, open ports in both directions."""
