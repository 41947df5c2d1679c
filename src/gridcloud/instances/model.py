"""Requests, offers and instances: frozen records, sizes in bytes, times in seconds or UTC."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from gridcloud.connections.model import Address
from gridcloud.settings import format_size, parse_duration, parse_size
from gridcloud.settings.request import Kind, Record, Request, Text

__all__ = [
    "FINAL",
    "HOLDING",
    "MOUNTS",
    "NOBODY",
    "SHARED",
    "Charge",
    "Discovery",
    "Finding",
    "Folder",
    "Found",
    "Handle",
    "Holding",
    "Instance",
    "Kind",
    "Observation",
    "Offer",
    "Phase",
    "Reason",
    "Record",
    "Request",
    "Shape",
    "Spec",
    "State",
    "Step",
    "Text",
    "format_size",
    "parse_duration",
    "parse_size",
]


class Shape(Record):
    """What an offer or a machine has."""

    name: str = ""
    cpus: float
    memory: int
    disk: int = 0
    gpus: int = 0
    gpu_model: str = ""
    gpu_memory: int = 0


class Step(Record):
    """One of the four choices that make a machine: what was chosen of what was discovered, and why."""

    step: Literal["image", "shape", "location", "network"]
    chosen: str
    why: str


class Offer(Record):
    """What one provider can give for a request, or why it cannot."""

    provider: str
    kind: Kind
    shape: Shape
    location: str = ""
    institution: str = Field(
        default="", description="what the institution calls itself that lends it; empty: it is ours"
    )
    terms: str = Field(default="", description="what it is lent under, in words")
    image: str = ""
    price: Decimal = Field(default=Decimal(0), ge=0, description="per hour, in the configured currency")
    priced: bool = Field(
        default=True, description="false: the provider takes money, but how much is not known"
    )
    spot: bool = Field(default=False, description="the provider may take it back at any time")
    available: bool = True
    distance: int = Field(
        default=0, ge=0, description="0: our own; offers of other institutions come after all that are nearer"
    )
    wait: int = Field(default=0, ge=0, description="expected seconds until it is free")
    why_not: str = Field(default="", description="why it cannot be had, when not available")
    refusal: str = Field(default="", description="name of the error it was refused with, once it was taken")
    possible: bool = Field(
        default=True,
        description="false: never here, however long one waits; shape then holds the largest there is",
    )
    choice: dict[str, Any] = Field(default_factory=dict, description="the driver's own words for this offer")
    steps: tuple[Step, ...] = Field(
        default=(), description="image, shape, location and network: what was chosen, and why"
    )

    @property
    def source(self) -> str:
        """Whose it is, for people: the provider, and the institution that lends it."""
        return f"{self.provider} ({self.institution})" if self.institution else self.provider


class Found(Record):
    """One image, shape, location or network that a provider has."""

    id: str
    name: str = ""
    detail: str = ""
    shape: Shape | None = None
    price: Decimal | None = Field(default=None, description="per hour; None: not known, or it has none")


class Discovery(Record):
    """What a provider has to choose from in the four steps that make a machine."""

    images: tuple[Found, ...] = ()
    shapes: tuple[Found, ...] = ()
    locations: tuple[Found, ...] = ()
    networks: tuple[Found, ...] = ()


class Spec(Record):
    """What a driver is told to make. ``id`` is the idempotency key."""

    id: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{2,40}$", description="instance id: unique, safe as a host or file name"
    )
    owner: str = Field(
        description="user name as gridcloud knows it: any text; never to be trusted as a name elsewhere"
    )
    name: str = Field(default="", description="what the owner calls it: any text")
    request: Request
    offer: Offer
    first: bool = Field(
        default=False,
        description="nobody asked for this id before, not even before a crash: there is nothing to be found yet",
    )
    guest: bool = Field(
        default=False, description="the owner is of another institution: nothing of theirs is kept after it"
    )
    seat: bool = Field(
        default=False,
        description="made ahead for nobody yet: it is handed to its owner later, or ended. See `Handing`",
    )
    folders: tuple[Folder, ...] = Field(
        default=(),
        description="to be seen there, below `MOUNTS`, where the provider can mount what lies here",
    )


class Handle(Record):
    """What a driver needs to find again what it made. Opaque to everybody else; at most 8 KiB as JSON."""

    version: int = 1
    data: dict[str, Any]


class Phase(StrEnum):
    """What a provider says of something it holds."""

    PENDING = "pending"
    RUNNING = "running"
    FAILED = "failed"
    GONE = "gone"


class Observation(Record):
    """What a provider says of one instance now."""

    phase: Phase
    address: Address | None = Field(default=None, description="how to reach it; set when running")
    detail: str = Field(default="", description="the provider's own words, for the event log")


MOUNTS = "/gridcloud/courses"
"""Where instances have folders of this computer, each at its own relative path below: what is there, is used."""

SHARED = "shared"
"""Stands for an instance's id on what serves all instances of a provider (a network, a security group): it goes with
the last of them."""

NOBODY = "course/"
"""Owners of what was made ahead for nobody (seats) begin with it: the hub takes no names with a slash."""


class Holding(Record):
    """One thing that a provider holds under our owner tag."""

    instance_id: str = Field(description="the instance it was made for, or SHARED")
    what: str = Field(description="machine, disk, address, security group, network, pod, container, …")
    name: str = Field(description="as the provider names it")
    created: datetime | None = None
    handle: Handle | None = None


class Finding(Record):
    """One result of checking a provider: ``ok``, or what is wrong and how to mend it; or that it could not be found
    out, which need not be wrong."""

    subject: str
    ok: bool
    known: bool = Field(default=True, description="false: it could not be found out, and may be well or not")
    message: str
    remedy: str = ""


class State(StrEnum):
    """Where an instance is in its life."""

    REQUESTED = "requested"
    """The wish is stored; no provider was asked to make anything, or all it made is gone again."""
    CREATING = "creating"
    """An offer is chosen and stored; the provider is being asked to make it."""
    STARTING = "starting"
    """The provider is making it; it cannot be reached yet."""
    CONFIGURING = "configuring"
    """It is reached, and being configured."""
    READY = "ready"
    """It can be used."""
    DISCARDING = "discarding"
    """What the refused offer may have left is being removed; the next offer follows."""
    STOPPING = "stopping"
    """It is being removed, as was asked."""
    FAILING = "failing"
    """It is being removed, for something went wrong."""
    STOPPED = "stopped"
    """Nothing is left of it, as was asked."""
    FAILED = "failed"
    """Nothing is left of it, and it was not asked to end."""


FINAL = frozenset({State.STOPPED, State.FAILED})
"""States that nothing leaves."""

HOLDING = frozenset(State) - FINAL - {State.REQUESTED}
"""States in which a provider may rightly hold something of an instance."""


class Reason(StrEnum):
    """Why an instance ended."""

    NONE = ""
    ASKED = "asked"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    IDLE = "idle"
    BUDGET = "budget"
    NO_OFFER = "no-offer"
    LOST = "lost"
    CONFIGURATION = "configuration"
    ABANDONED = "abandoned"


class Folder(Record):
    """A folder of this computer that the programs of an instance see."""

    source: str = Field(description="absolute path here")
    below: str = Field(default="", description="its path below the folder of all that may be mounted")
    at: str = Field(description="where the instance has it: a plain relative path")
    read_only: bool = True
    problem: str = Field(default="", description="why it cannot be had; empty: it can")


class Charge(Record):
    """What one machine costs, or cost: from the moment its provider was asked until it was certainly gone."""

    provider: str
    shape: str = ""
    price: Decimal = Field(default=Decimal(0), description="per hour, in the configured currency")
    priced: bool = True
    gpus: int = 0
    since: datetime
    until: datetime | None = Field(default=None, description="None: it still costs")


class Instance(Record):
    """A machine or container obtained from an offer: one life, one owner, one expiry."""

    id: str
    owner: str
    name: str = ""
    request: Request
    state: State = State.REQUESTED
    reason: Reason = Reason.NONE
    detail: str = Field(default="", description="what happened, in words")
    offer: Offer | None = None
    handle: Handle | None = None
    address: Address | None = None
    refused: tuple[Offer, ...] = Field(default=(), description="offers taken and refused, with why_not")
    avoid: tuple[Offer, ...] = Field(
        default=(), description="offers that are taken last: machines lost before"
    )
    only: Offer | None = Field(
        default=None, description="the machine that it is made of, at this price, or not at all; None: any"
    )
    guest: bool = Field(
        default=False, description="its owner is of another institution: nothing of theirs is kept after it"
    )
    seat: str = Field(
        default="",
        description="the course that it was made ahead for; it is nobody's until it is handed over",
    )
    claim: str = Field(default="", description="the session that a seat is, or is to be, handed to")
    scheduler: str = Field(default="", description="the scheduler whose jobs it was got for, which ends it")
    folders: tuple[Folder, ...] = Field(default=(), description="folders of this computer that it is to have")
    configure: tuple[dict[str, Any], ...] = Field(default=(), description="configurers to run, in order")
    charges: tuple[Charge, ...] = Field(
        default=(), description="one for each machine that was made for it, those of refused offers included"
    )
    boot: str = Field(default="", description="which start of the machine this is; another one: it rebooted")
    idle_since: datetime | None = Field(default=None, description="since when nothing was done on it")
    before_end: tuple[str, ...] = Field(
        default=(), description="command that is run there before it is ended: its words"
    )
    created: datetime
    ready_at: datetime | None = None
    ended_at: datetime | None = None
    expires: datetime | None = None
    armed: datetime | None = Field(
        default=None,
        description="when its machine ends by itself, as it was told last; None: it was not told",
    )
    warned: bool = False
    notice: str = Field(default="", description="what its user is warned of, beside its expiry")
    reclaimed: bool = Field(
        default=False,
        description="its owner takes the machine back before its time: what ran there may go elsewhere",
    )
    deadline: datetime | None = Field(
        default=None,
        description="when the present step is given up; of a ready one: when what is run before its end is",
    )
    keeper: str = Field(
        default="", description="the service that looks after it, where several share a store"
    )
    version: int = 0
