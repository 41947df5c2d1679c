"""Machines that dial out: who may, what they serve, and the switchboard they dial."""
