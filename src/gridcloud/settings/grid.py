"""What may be configured of the grid: where other institutions reach us."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["GridSettings"]

Address = Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?$", max_length=256)]
Institution = Annotated[str, Field(pattern=r"^[0-9a-hjkmnp-tv-z]{32}$")]


class GridSettings(BaseModel):
    """Taking part in the grid of institutions, once `gridcloud grid init` was done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: str = Field(
        default="",
        pattern=r"^(([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5})?$",
        description="HOST:PORT on which other institutions are let in; empty: no port is opened",
    )
    addresses: tuple[Address, ...] = Field(
        default=(),
        max_length=8,
        description="https://HOST:PORT under which they reach it; empty: through relays only",
    )
    relays: tuple[Institution, ...] = Field(
        default=(),
        max_length=8,
        description="ids of members to be reached through; empty: those that offer it, where there is no address",
    )
    relays_others: bool = Field(
        default=False, description="carry what is for members that cannot be reached, who come to our address"
    )
    location: str = Field(
        default="", max_length=200, description="where the institution is, in any words; members see it"
    )
