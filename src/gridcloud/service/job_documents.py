"""What the API says and takes of jobs, as typed documents: shared by the service and its clients."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.instances.model import Text
from gridcloud.jobs.model import Array, Cause, Job, Order, State

__all__ = [
    "Counted",
    "JobLine",
    "JobList",
    "JobResult",
    "JobResults",
    "JobShown",
    "JobWish",
    "LogPart",
    "Scheduler",
    "SchedulerList",
]


class JobWish(BaseModel):
    """A job to be run, or an array of them."""

    model_config = ConfigDict(extra="forbid")

    order: Order
    owner: Text | None = Field(default=None, description="for whom; administrators only")


class JobLine(BaseModel):
    """One job, or one array, in a list."""

    id: str
    owner: str
    name: str = ""
    state: str = Field(description="of a job its state; of an array open or ended")
    cause: Cause = Cause.NONE
    detail: str = ""
    counts: dict[State, int] = Field(default_factory=dict, description="of an array: its jobs by state")
    scheduler: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    created: datetime
    begun: datetime | None = None
    ended: datetime | None = None


class JobList(BaseModel):
    """Jobs and arrays, oldest first."""

    jobs: list[JobLine]


class JobShown(BaseModel):
    """All about a job or an array: one of both is there."""

    job: Job | None = None
    array: Array | None = None
    counts: dict[State, int] = Field(default_factory=dict, description="of an array: its jobs by state")
    folder: str = Field(default="", description="where its files lie, at its scheduler; empty: nowhere")

    @property
    def id(self) -> str:
        """Its id."""
        return (self.job or self._array).id

    @property
    def order(self) -> Order:
        """What was asked; of an array's job it is the array that has it."""
        found = self.job.order if self.job else self._array.order
        assert found is not None  # noqa: S101 - the service fills it in
        return found

    @property
    def ended(self) -> bool:
        """Whether it goes on no more."""
        return (self.job or self._array).ended is not None

    @property
    def _array(self) -> Array:
        assert self.array is not None  # noqa: S101 - one of both is there
        return self.array


class JobResult(BaseModel):
    """What came of one job."""

    id: str
    state: State
    cause: Cause = Cause.NONE
    parameters: dict[str, Any] = Field(default_factory=dict)
    results: dict[str, Any] = Field(default_factory=dict)
    kept: tuple[str, ...] = ()


class JobResults(BaseModel):
    """What came of a job, or of an array's."""

    results: list[JobResult]


class Counted(BaseModel):
    """How many something was done to."""

    count: int


class LogPart(BaseModel):
    """A part of what a job said."""

    text: str = Field(description="bytes that are no UTF-8 are replaced")
    offset: int = Field(description="where the next part begins")
    size: int = Field(description="how much there is by now")
    ended: bool = Field(description="whether nothing more will come")


class Scheduler(BaseModel):
    """One entry of 'schedulers' in the configuration."""

    name: str
    driver: str = ""
    location: str = ""
    problem: str = ""


class SchedulerList(BaseModel):
    """What runs jobs."""

    schedulers: list[Scheduler]
    drivers: dict[str, str] = Field(
        default_factory=dict, description="installed drivers: name and distribution"
    )
