"""A long-running program on an instance, reached from here through tunnels that heal."""
