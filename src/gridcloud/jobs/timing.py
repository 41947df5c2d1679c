"""How long the steps of a job's life may take."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Timing"]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds."""

    poll: float = 2.0
    """Between looks at what schedulers say, where nobody tells."""
    gather: float = 0.02
    """In which several changes become one look."""
    missed: float = 5.0
    """After which a job is given up that its scheduler twice knows nothing of."""
    first_pause: float = 1.0
    """Before a job is tried again; then doubled."""
    longest_pause: float = 60.0
    tidy: float = 3600.0
    """Between looks for folders that are to be kept no longer."""
