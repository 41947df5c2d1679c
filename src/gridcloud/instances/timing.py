"""How long the steps of an instance's life may take."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Timing"]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds."""

    create: float = 120.0
    boot: float = 900.0
    poll: float = 0.5
    watch: float = 5.0
    first_pause: float = 1.0
    longest_pause: float = 60.0
    warning: float = 600.0
    silence: float = 0.0
    """How long a machine may not answer before it is given up; 0: as long as it likes."""
    longest_life: float = 0.0
    """The time limit of requests that name none; 0: none."""
    use: float = 30.0
    """Between two looks whether a machine is used."""
    before_end: float = 60.0
    """How long the command may take that is run on a machine before its end."""
