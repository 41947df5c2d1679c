"""What one institution wishes of another: whole numbers only, since what is signed holds no fractions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gridcloud.instances.model import Record, Text

__all__ = ["NOTHING", "Capacity", "Wish"]

Count = Annotated[int, Field(ge=0, le=1_000_000_000)]


class Capacity(Record):
    """An amount of computing: what is wished, lent, free or limited."""

    millicores: Count = 0
    """Thousandths of a CPU core."""
    memory: Count = 0
    """MiB."""
    gpus: Count = 0

    def fits(self, room: Capacity) -> bool:
        """Whether there is room for it."""
        return self.millicores <= room.millicores and self.memory <= room.memory and self.gpus <= room.gpus

    def __add__(self, other: Capacity) -> Capacity:
        return Capacity(
            millicores=self.millicores + other.millicores,
            memory=self.memory + other.memory,
            gpus=self.gpus + other.gpus,
        )

    def __sub__(self, other: Capacity) -> Capacity:
        """What is left, never below nothing."""
        return Capacity(
            millicores=max(0, self.millicores - other.millicores),
            memory=max(0, self.memory - other.memory),
            gpus=max(0, self.gpus - other.gpus),
        )


NOTHING = Capacity()


class Wish(Record):
    """What is asked of a peer, for whom and what for. The envelope around it says which institution vouches for it."""

    need: Text
    """The borrower's own id of what it needs this for, such as a session."""
    capacity: Capacity
    seconds: int = Field(gt=0, le=366 * 86400)
    """How long it is wished for."""
    user: Text
    """As the borrower knows them; the lender knows them as ``user@institution``."""
    groups: tuple[Text, ...] = Field(default=(), max_length=64)
    """Of the user, as the borrower states them."""
    purpose: Text = ""
    image: Text = ""
    gpu_model: Text = ""
