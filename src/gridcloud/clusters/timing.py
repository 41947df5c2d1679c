"""How long the steps of a cluster's life may take."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Timing"]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds."""

    call: float = 120.0
    """One call of a driver."""
    make: float = 3600.0
    """Until it can be used, from when its provider was asked; and until a change of its nodes is done."""
    poll: float = 5.0
    """Between two looks at one that is being made, changed or removed."""
    watch: float = 30.0
    """Between two looks at those that are ready."""
    first_pause: float = 1.0
    longest_pause: float = 60.0
    longest_life: float = 0.0
    """The time limit of requests that name none; 0: none."""
