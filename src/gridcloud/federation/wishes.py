"""What one institution wishes of another: whole numbers only, since what is signed holds no fractions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from gridcloud.federation.model import Document, Title

__all__ = ["NOTHING", "Capacity", "Wish"]

MOST = 1_000_000_000
Amount = Annotated[int, Strict(), Field(ge=0, le=MOST)]


class Capacity(Document):
    """An amount of computing: what is wished, lent, free or limited."""

    millicores: Amount = 0
    """Thousandths of a CPU core."""
    memory: Amount = 0
    """MiB."""
    gpus: Amount = 0

    def fits(self, room: Capacity) -> bool:
        """Whether there is room for it."""
        return self.millicores <= room.millicores and self.memory <= room.memory and self.gpus <= room.gpus

    def times(self, count: int) -> Capacity:
        """Return so many times as much, up to the most that can be written."""
        return _capped(self.millicores * count, self.memory * count, self.gpus * count)

    def __add__(self, other: Capacity) -> Capacity:
        """Return the sum, up to the most that can be written: wishes of others may be anything."""
        return _capped(self.millicores + other.millicores, self.memory + other.memory, self.gpus + other.gpus)

    def __sub__(self, other: Capacity) -> Capacity:
        """What is left, never below nothing."""
        return Capacity(
            millicores=max(0, self.millicores - other.millicores),
            memory=max(0, self.memory - other.memory),
            gpus=max(0, self.gpus - other.gpus),
        )


def _capped(millicores: int, memory: int, gpus: int) -> Capacity:
    return Capacity(millicores=min(MOST, millicores), memory=min(MOST, memory), gpus=min(MOST, gpus))


NOTHING = Capacity()


class Wish(Document):
    """What is asked of a peer, for whom and what for. The envelope around it says which institution vouches for it."""

    need: Title
    """The borrower's own id of what it needs this for, such as a session."""
    capacity: Capacity
    seconds: int = Field(strict=True, gt=0, le=366 * 86400)
    """How long it is wished for."""
    user: Title
    """As the borrower knows them; the lender knows them as ``user@institution``."""
    groups: tuple[Title, ...] = Field(default=(), max_length=64)
    """Of the user, as the borrower states them."""
    purpose: Title = ""
    image: Title = ""
    gpu_model: Title = ""
