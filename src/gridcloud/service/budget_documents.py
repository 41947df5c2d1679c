"""What the API says of budgets and of the ledger, as typed documents. Amounts have six digits after the point."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, Field

from gridcloud.budgets.model import Entry

__all__ = ["Budget", "Budgets", "Ledger", "Limit", "Part"]


class Limit(BaseModel):
    """How one limit of a budget stands."""

    unit: str = Field(description="the currency, or GPU-hours")
    limit: Decimal
    spent: Decimal
    running: Decimal = Field(description="committed to what runs, until it ends or the period does")
    left: Decimal = Field(description="what a start may still take; below 0 where it was passed")
    percent: float = Field(description="how much of it is spent")


class Part(BaseModel):
    """What was taken of a budget at one provider."""

    provider: str
    money: Decimal
    gpu_hours: Decimal


class Budget(BaseModel):
    """A budget as it stands, or one user's part of it where each has one."""

    name: str
    user: str = Field(default="", description="whose part it is, where each has one")
    whose: str = Field(description="for whom it is, in words")
    project: str = ""
    period: str
    time_zone: str
    since: datetime
    until: datetime
    current: bool = Field(description="whether its term is now; a period always is")
    limits: list[Limit]
    running: int = Field(description="instances that it pays for now")
    unpriced: int = Field(default=0, description="machines whose price is not known: not in the money")
    warned: datetime | None = None
    ending: datetime | None = Field(default=None, description="when its end was announced")
    providers: list[Part] = Field(
        default_factory=list, description="told of one budget only; one's own, or all for an administrator"
    )
    instances: list[Entry] = Field(
        default_factory=list, description="told of one budget only; one's own, or all for an administrator"
    )


class Budgets(BaseModel):
    """Budgets, in the order of the configuration."""

    budgets: list[Budget]
    currency: str


class Ledger(BaseModel):
    """Lines of the ledger, by owner and project, and what they come to."""

    entries: list[Entry]
    money: Decimal
    gpu_hours: Decimal
    unpriced: int = Field(default=0, description="lines whose price is not known: not in the money")
    currency: str
