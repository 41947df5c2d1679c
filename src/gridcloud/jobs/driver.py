"""The contract of what runs jobs: submit, observe, cancel, remove, holdings, logs, in batches; and what it can run.

A scheduler answers and never waits for a job: the runner polls, or is told where the driver is `Telling`. It keeps
nothing that matters in memory, so that all of it works after a restart. Every implementation passes
`gridcloud.testing.jobs.JobDriverContract`.

What a driver runs is the frame (`gridcloud.jobs.frame`) over a folder that it lays out from the files it is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from pydantic import Field

from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.identity.credentials import Secret
from gridcloud.instances.model import Finding, Instance, Offer
from gridcloud.jobs.frame import End
from gridcloud.jobs.model import Cause
from gridcloud.settings import ProviderSettings
from gridcloud.settings.request import Record, Request

__all__ = [
    "HANDLE",
    "Housekeeping",
    "JobContext",
    "JobDriver",
    "JobHolding",
    "JobObservation",
    "JobOffer",
    "Machines",
    "Part",
    "Phase",
    "Place",
    "SchedulerSettings",
    "Stream",
    "Submission",
    "Telling",
]

HANDLE = "[a-z0-9][a-z0-9-]{2,40}"
"""What handles look like: a job's id, a hyphen, the number of the attempt. What a scheduler says is not one until it
was seen to be."""


class SchedulerSettings(ProviderSettings):
    """What the entry of every scheduler has."""


class Machines(Protocol):
    """Machines for the jobs of one scheduler: asked for as by everybody, through the broker, within the limits and
    budgets of their owner. A scheduler that needs some never asks a provider itself."""

    async def offers(self, request: Request, owner: str) -> Sequence[Offer]:
        """Return what could be had, best first; nothing is started."""

    async def ask(self, request: Request, owner: str, avoid: Sequence[Offer] = ()) -> Instance:
        """Have a machine made; returns at once. ``avoid``: offers to take last. Raises QuotaExceeded, InvalidRequest,
        NotFound for a provider that is not there."""

    async def all(self) -> Mapping[str, Instance]:
        """Return the machines of this scheduler that live, by id: also those whose making was not heard of."""

    async def find(self, instance_id: str) -> Instance | None:
        """Return a machine, also one that has ended."""

    async def connect(self, instance: Instance) -> Connection:
        """Return the kept connection to a ready machine; it is not to be closed. Raises what opening it raises."""

    async def stop(self, instance_id: str, detail: str) -> None:
        """Have a machine end; returns at once. May be called twice."""


async def _nobody() -> Set[str]:
    return frozenset()


@dataclass(frozen=True, slots=True)
class JobContext:
    """What the house gives a driver."""

    provider: str
    """The entry's name in the configuration."""
    installation: str
    """Our owner tag: the id of this gridcloud installation. Whatever is submitted carries it and the handle."""
    folder: Path
    """A private folder (0700) for this scheduler, kept between runs."""
    connect: Callable[[Address], Awaitable[Connection]]
    """Open a connection, as the house would; the driver closes it. Raises what `connections.open` raises."""
    secret: Callable[[str], Awaitable[Secret]]
    """Read a secret by reference. Raises NotFound, Forbidden, InvalidSettings."""
    machines: Machines | None = None
    """The machines of this scheduler; None: nobody gives it any."""
    wanted: Callable[[], Awaitable[Set[str]]] = _nobody
    """Return the handles of jobs that go on, or of which something is still to be brought."""


class JobOffer(Record):
    """What a scheduler says of a request."""

    possible: bool = True
    wait: float = Field(default=0, description="seconds until it would begin, as far as is known")
    price: Decimal = Decimal(0)
    why_not: str = Field(default="", description="why it never runs it, or not now")


@dataclass(frozen=True, slots=True)
class Submission:
    """One attempt at a job. ``handle`` is the idempotency key: what was submitted once is not submitted again."""

    handle: str
    owner: str
    """User name as gridcloud knows it: any text; never to be trusted as a name."""
    name: str
    request: Request
    files: Mapping[str, bytes]
    """What lies in its folder, by path: the frame's own files, and inputs below ``work/``."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """Files of this computer to be copied into its folder, by path."""


class Phase(StrEnum):
    """What a scheduler says of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    GONE = "gone"
    """It knows nothing of it, and holds nothing of it."""


class JobObservation(Record):
    """What a scheduler says of one job now."""

    phase: Phase
    end: End | None = Field(
        default=None, description="its own last words; None: it had none, or has not ended"
    )
    cause: Cause = Field(
        default=Cause.NONE, description="why it ended, where the scheduler knows; none: well"
    )
    detail: str = Field(default="", description="the scheduler's own words")
    begun: bool = Field(default=False, description="whether its program may have begun")


class JobHolding(Record):
    """Something that a scheduler holds under our owner tag: a job, its folder, or both."""

    handle: str
    name: str = Field(default="", description="as the scheduler names it")


class Stream(StrEnum):
    """A file of a job that can be read as it grows."""

    OUT = "out"
    ERR = "err"
    RESULT = "result"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file: its bytes, where the next ones begin, and how many there are in all."""

    data: bytes
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Place:
    """A folder at a scheduler that holds a job's files, and how to reach it."""

    address: Address
    folder: str


class JobDriver(ABC):
    """One scheduler. Methods may be called at the same time and in any order; each may be called again.

    All raise Transient when the scheduler does not answer: nothing is known then.
    """

    Settings: ClassVar[type[SchedulerSettings]] = SchedulerSettings

    def __init__(self, settings: SchedulerSettings, context: JobContext) -> None:
        """Keep both; touch nothing outside. Called again whenever the configuration changes."""
        self.settings = settings
        self.context = context

    @abstractmethod
    async def offer(self, request: Request, owner: str) -> JobOffer:
        """Say whether a job like this can be run for somebody, and how soon; nothing is begun. Within 10 seconds."""

    @abstractmethod
    async def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:
        """Take jobs, or find those already taken by their handles; return why any of them is not taken, by handle.

        Two calls for one handle, even at once, make one job. What raised may have been taken: it is submitted again.
        """

    @abstractmethod
    async def observe(self, handles: Sequence[str]) -> Mapping[str, JobObservation]:
        """Return what each job is now, in as few calls as the scheduler allows, within 20 seconds. A job of which
        nothing can be said now, for only its machine does not answer, is left out."""

    @abstractmethod
    async def cancel(self, handles: Sequence[str]) -> None:
        """Begin to end jobs; their folders stay. Ending what has ended, or is not there, succeeds."""

    @abstractmethod
    async def remove(self, handles: Sequence[str]) -> None:
        """Remove the folders of jobs that have ended, and what is left of these. What is not there is removed."""

    @abstractmethod
    async def holdings(self) -> Sequence[JobHolding]:
        """Return everything the scheduler holds under our owner tag, half-made things included."""

    @abstractmethod
    async def logs(self, handle: str, stream: Stream, offset: int, most: int) -> Part:
        """Return at most so many bytes of what a job said, or of its result, from a place on. A negative offset
        counts from the end. Raises NotFound where there is none (any more)."""

    @abstractmethod
    async def place(self, handle: str) -> Place:
        """Return where a job's files lie. Raises NotFound."""

    @abstractmethod
    async def check(self) -> Sequence[Finding]:
        """Try what there is; submit nothing, raise for nothing that is found."""

    async def close(self) -> None:
        """Let go of connections. May be called twice. Jobs live on."""


@runtime_checkable
class Telling(Protocol):
    """A scheduler that notices by itself when a job begins or ends."""

    async def changed(self) -> None:
        """Return when any job has changed since this was last called."""


@runtime_checkable
class Housekeeping(Protocol):
    """A scheduler that has something to look after whether or not jobs are asked for: machines that cost."""

    async def keep_house(self) -> float:
        """Do what is to be done now, and return after how many seconds to ask again; 0: nothing is left to look after.
        Called again, too, whenever the scheduler was given jobs."""
