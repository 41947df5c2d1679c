"""What the API says of a course as it goes on now, as typed documents."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, Field

from gridcloud.service.documents import Event
from gridcloud.sessions.model import Session

__all__ = ["CoursePot", "CourseState", "Seat"]


class Seat(BaseModel):
    """A machine that was made ahead."""

    instance: str
    state: str
    owner: str = Field(default="", description="whose it is; empty: nobody's yet")
    ready: bool = Field(description="whether a member could take it now")
    since: datetime
    provider: str = ""


class CoursePot(BaseModel):
    """How a budget stands that pays for the course's project."""

    name: str
    unit: str
    limit: Decimal
    spent: Decimal
    until: datetime


class CourseState(BaseModel):
    """A course now."""

    name: str
    project: str = ""
    currency: str
    sessions: list[Session] = Field(default_factory=list, description="those that have not ended")
    seats: list[Seat] = Field(default_factory=list)
    closes: datetime | None = Field(
        default=None, description="until when seats are kept ready, where that is now"
    )
    opens: datetime | None = Field(default=None, description="when seats are made ready next")
    spent: Decimal | None = Field(
        default=None, description="what its project has cost since the course began; None: it has no project"
    )
    waited: Decimal = Field(default=Decimal(0), description="of that, seats that nobody took")
    unpriced: int = Field(default=0, description="machines whose price is not known: not in it")
    budgets: list[CoursePot] = Field(default_factory=list, description="that pay for its project")
    events: list[Event] = Field(
        default_factory=list, description="what was told of its seats, the latest last"
    )
