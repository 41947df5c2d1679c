"""Jobs: frozen records. Sizes in bytes, times in seconds or UTC."""

from __future__ import annotations

import posixpath
import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from gridcloud.jobs.constraints import Value
from gridcloud.settings.request import Record, Request, Text

__all__ = [
    "FINAL",
    "Array",
    "ArrayState",
    "Cause",
    "Command",
    "Dependency",
    "Input",
    "Job",
    "NotebookRun",
    "Order",
    "Output",
    "Retries",
    "State",
    "Usage",
    "When",
    "Work",
]

ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _within(path: str) -> str:
    """A relative path that stays in the job's folder."""
    if not path or path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ValueError(f"{path!r} is no path within the job's folder")
    return posixpath.normpath(path)


Within = Annotated[Text, AfterValidator(_within)]


class State(StrEnum):
    """Where a job is in its life."""

    WAITING = "waiting"
    """Other jobs have to end first."""
    QUEUED = "queued"
    """It may run, and no scheduler has it."""
    STAGING = "staging"
    """Its inputs are being brought to where it will run."""
    SUBMITTED = "submitted"
    """A scheduler has it."""
    RUNNING = "running"
    """It runs."""
    COLLECTING = "collecting"
    """It has ended well; its outputs are being brought to where they belong."""
    ENDING = "ending"
    """It was cancelled; its scheduler is being told."""
    DONE = "done"
    """It ended well, and its outputs are where they belong."""
    FAILED = "failed"
    """It did not; `Cause` says why."""
    CANCELLED = "cancelled"
    """Somebody ended it."""
    SKIPPED = "skipped"
    """It never ran: the same was done before, or a job that it waited for did not end as it had to."""


FINAL = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.SKIPPED})
"""States that nothing leaves."""


class Cause(StrEnum):
    """Why a job ended otherwise than well."""

    NONE = ""
    EXIT = "exit"
    """Its own program said so."""
    MEMORY = "memory"
    TIME = "time"
    MACHINE = "machine"
    """What it ran on was lost."""
    PREEMPTED = "preempted"
    """What it ran on was wanted by somebody else."""
    STAGING = "staging"
    """Its inputs or outputs could not be brought."""
    REFUSED = "refused"
    """No scheduler takes it."""
    DEPENDENCY = "dependency"
    """What it waited for did not end as it had to."""
    REUSED = "reused"
    """The same was done before: its results are those."""


class Command(Record):
    """Words to run, taken literally."""

    kind: Literal["command"] = "command"
    words: tuple[str, ...] = Field(min_length=1)


class NotebookRun(Record):
    """A notebook to run from its first cell to its last."""

    kind: Literal["notebook"] = "notebook"
    path: Within = Field(description="where it lies in the job's folder: one of its inputs")
    which: Literal["first", "all"] = Field(
        default="first",
        description="without a tagged cell: whether a parameter's first assignment is given its value, or each",
    )
    resume: bool = Field(default=False, description="an attempt goes on at the cell that failed before")


class Input(Record):
    """A file or folder that a job is given."""

    source: Text = Field(min_length=1, description="any URL that a storage of ours reads, or a path here")
    path: Within = Field(description="where it lies in the job's folder")


class Output(Record):
    """What a job leaves."""

    pattern: Within = Field(
        description="path or pattern in the job's folder, as of a shell, ** for any folders"
    )
    target: Text = Field(
        default="", description="URL of a folder to bring it to; empty: kept with the job's results"
    )
    overwrite: bool = Field(default=False, description="replace what is there")


class When(StrEnum):
    """How a job must have ended before another may begin."""

    OK = "ok"
    FAILED = "failed"
    ENDED = "ended"


class Dependency(Record):
    """A job, or all jobs of an array, that has to end first."""

    on: Text = Field(min_length=1, description="id of the job or array")
    when: When = When.OK


class Retries(Record):
    """How often a job is tried again, by what went wrong."""

    exit: int = Field(default=0, ge=0, le=100)
    memory: int = Field(default=0, ge=0, le=100, description="each time with twice the memory")
    time: int = Field(default=0, ge=0, le=100)
    machine: int = Field(default=2, ge=0, le=100)
    preempted: int = Field(default=10, ge=0, le=1000)
    staging: int = Field(default=3, ge=0, le=100)

    def left(self, cause: Cause, spent: dict[Cause, int]) -> bool:
        """Return whether it is tried again after so many ends of each cause, this one not counted."""
        return spent.get(cause, 0) < getattr(self, cause.value or "none", 0)


class Work(Record):
    """What is run, and with what: the part of a job on which its results depend, and so what its digest is of."""

    run: Annotated[Command | NotebookRun, Field(discriminator="kind")]
    parameters: dict[str, Any] = Field(default_factory=dict, description="values, as JSON has them")
    environment: dict[str, str] = Field(default_factory=dict)
    image: Text = ""
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()

    @model_validator(mode="after")
    def _check_names(self) -> Work:
        for name in self.environment:
            if not ENVIRONMENT_NAME.fullmatch(name):
                raise ValueError(f"environment: {name!r} is not a variable's name")
        places = [one.path for one in self.inputs]
        if twice := sorted({path for path in places if places.count(path) > 1}):
            raise ValueError(f"inputs: {', '.join(twice)} is given twice")
        return self


class Order(Record):
    """What somebody asks for: one job, or with ``rows`` an array of them."""

    work: Work
    name: Text = ""
    project: Text = Field(default="", description="project that it is charged to")
    request: Request = Field(
        default_factory=Request, description="what it needs to run; ``time`` is its limit"
    )
    secrets: dict[str, str] = Field(
        default_factory=dict,
        description="variables of its environment, by reference: file:…, env:…, keyring:…",
    )
    rows: tuple[dict[str, Value], ...] = Field(
        default=(), description="parameters of each job of an array, over those of ``work``"
    )
    after: tuple[Dependency, ...] = ()
    retries: Retries = Retries()
    rerunnable: bool = Field(default=False, description="it may be begun again where it was begun already")
    reuse: bool = Field(
        default=False, description="take the results of the same job, where it was done before"
    )
    on: tuple[Text, ...] = Field(default=(), description="these schedulers only")
    within: int = Field(
        default=0, ge=0, description="seconds in which it is to begin, at the least price; 0: soonest"
    )


class Usage(Record):
    """What a job used."""

    cpu: float = Field(default=0, description="seconds of CPU")
    memory: int = Field(default=0, description="most memory at once")
    wall: float = Field(default=0, description="seconds from its begin to its end")
    gpu: float | None = Field(
        default=None, description="mean share of its GPUs that was busy; None: not known"
    )


class Job(Record):
    """One run, from its being asked for to its results."""

    id: str
    owner: str
    array: str = Field(default="", description="id of the array that it is of")
    index: int = Field(default=0, description="its number in the array, from 0")
    order: Order | None = Field(default=None, description="what was asked; None: what was asked of its array")
    parameters: dict[str, Any] = Field(default_factory=dict, description="its row: over those of its work")
    state: State = State.QUEUED
    cause: Cause = Cause.NONE
    detail: str = Field(default="", description="what happened, in words")
    scheduler: str = Field(default="", description="the provider that has it")
    handle: str = Field(
        default="", description="what its present attempt is known by there; empty: no scheduler has it"
    )
    attempt: int = Field(default=1, ge=1)
    spent: dict[Cause, int] = Field(
        default_factory=dict, description="ends of each cause that were tried again"
    )
    exit: int | None = Field(default=None, description="its program's exit code, 128 + n after signal n")
    usage: Usage | None = None
    results: dict[str, Any] = Field(
        default_factory=dict, description="the values that it found, as it wrote them"
    )
    kept: tuple[str, ...] = Field(default=(), description="outputs that are kept with its results, by path")
    reused: str = Field(
        default="", description="id of the job whose results it has, where it was not run itself"
    )
    digest: str = Field(default="", description="of its work and its inputs; empty until they are known")
    created: datetime
    begun: datetime | None = None
    ended: datetime | None = None
    keeper: str = Field(
        default="", description="the service that looks after it, where several share a store"
    )
    version: int = 0


class ArrayState(StrEnum):
    """Whether an array goes on."""

    OPEN = "open"
    ENDED = "ended"
    """All its jobs have ended."""


class Array(Record):
    """Jobs that one sweep made. The job of row n has the id of the array, a hyphen, and n."""

    id: str
    owner: str
    order: Order = Field(description="with its rows")
    state: ArrayState = ArrayState.OPEN
    counts: dict[State, int] = Field(
        default_factory=dict, description="its jobs by state, once all have ended"
    )
    well: bool = Field(default=False, description="whether all of them ended well")
    created: datetime
    ended: datetime | None = None
    keeper: str = Field(
        default="", description="the service that looks after it, where several share a store"
    )
    version: int = 0
