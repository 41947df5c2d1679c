"""One strict configuration file."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ProviderSettings"]


class ProviderSettings(BaseModel):
    """What every provider's entry has; each driver's ``Settings`` extends it. Every field carries help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver: str = Field(description="the driver that serves this entry: local, container, ssh, …")
    price: Decimal = Field(default=Decimal(0), ge=0, description="price per hour of the whole, in the currency set")
    location: str = Field(default="", description="where it is, in any words; requests may ask for it")
