"""What a cluster is: so many nodes of one shape under Kubernetes, with one owner and one life."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

from gridcloud.instances.model import Charge, Record, Text, parse_size
from gridcloud.settings import Duration

__all__ = [
    "CLUSTER_ID",
    "FINAL",
    "HOLDING",
    "MOST",
    "SERVING",
    "Cluster",
    "ClusterHandle",
    "ClusterHolding",
    "ClusterName",
    "ClusterObservation",
    "ClusterPhase",
    "ClusterRequest",
    "ClusterSpec",
    "NodeCount",
    "Rate",
    "Reason",
    "State",
]

CLUSTER_ID = "[a-z0-9][a-z0-9-]{2,40}"
"""What ids of clusters look like. What a provider's tags say is not one until it was seen to be."""

MOST = 1000
"""Nodes of one cluster."""

ClusterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
"""What an owner calls a cluster; no two live ones of an owner have the same."""

NodeCount = Annotated[int, Field(ge=1, le=MOST)]


class ClusterRequest(Record):
    """What is asked for. CPUs, memory and GPUs are those of each node, at least; where none of them and no shape is
    given, nodes are of the provider's own shape."""

    on: Text = Field(
        default="",
        description="the entry of 'clusters' in the configuration that makes it; its first when not given",
    )
    nodes: NodeCount = Field(default=1, description="nodes that work is done on")
    shape: Text = Field(default="", description="shape (flavor) of the nodes, as the provider names it")
    cpus: float = Field(default=0, ge=0, le=1_000_000, description="CPU cores of each node, at least; 0: any")
    memory: Annotated[int, BeforeValidator(parse_size)] = Field(
        default=0, ge=0, description="memory of each node, at least, e.g. 4GiB; 0: any"
    )
    gpus: int = Field(default=0, ge=0, le=1000, description="GPUs of each node, at least")
    version: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._+-]{0,40}$")] = Field(
        default="", description="version of Kubernetes, e.g. 1.31; the provider's own when not given"
    )
    time: Duration = Field(default=0, description="time limit, e.g. 8h; 0: none but the configured one")
    project: Text = Field(default="", description="project whose budget it is charged to")


class ClusterSpec(Record):
    """What a driver is told to make. ``id`` is the idempotency key."""

    id: str = Field(pattern=f"^{CLUSTER_ID}$", description="cluster id: unique, safe as a name")
    owner: str = Field(description="user name as gridcloud knows it: any text; never to be trusted as a name")
    name: str = Field(default="", description="what the owner calls it: any text")
    request: ClusterRequest


class ClusterHandle(Record):
    """What a driver needs to find again what it made. Opaque to everybody else; at most 8 KiB as JSON."""

    version: int = 1
    data: dict[str, Any]


class ClusterPhase(StrEnum):
    """What a provider says of a cluster."""

    PENDING = "pending"
    """It is being made, changed or removed."""
    READY = "ready"
    """It can be used."""
    FAILED = "failed"
    """It cannot be used, and will not become so by itself."""
    GONE = "gone"


class ClusterObservation(Record):
    """What a provider says of one cluster now."""

    phase: ClusterPhase
    nodes: int = Field(default=0, ge=0, description="nodes it has, or is to have, as the provider says")
    version: str = Field(default="", description="version of Kubernetes")
    detail: str = Field(default="", description="the provider's own words, for the event log")
    problem: str = Field(
        default="", description="why the last change of a cluster that can be used did not succeed"
    )


class ClusterHolding(Record):
    """One thing that a provider holds under our owner tag."""

    cluster_id: str
    what: str = Field(description="cluster, node pool, network, load balancer, …")
    name: str = Field(description="as the provider names it")
    created: datetime | None = None
    handle: ClusterHandle | None = None


class State(StrEnum):
    """Where a cluster is in its life."""

    REQUESTED = "requested"
    """The wish is stored; no provider was asked."""
    CREATING = "creating"
    """The provider is being asked to make it, or makes it."""
    READY = "ready"
    """It can be used."""
    SCALING = "scaling"
    """It can be used, and is being given more or fewer nodes."""
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
"""States in which a provider may rightly hold something of a cluster."""

SERVING = frozenset({State.CREATING, State.READY, State.SCALING})
"""States of a cluster that goes on."""


class Reason(StrEnum):
    """Why a cluster ended."""

    NONE = ""
    ASKED = "asked"
    EXPIRED = "expired"
    BUDGET = "budget"
    REFUSED = "refused"
    LOST = "lost"


class Rate(Record):
    """What a cluster costs per hour, in the configured currency, as it was when its provider was asked."""

    shape: str = Field(default="", description="of each node, as prices name it")
    base: Decimal = Field(default=Decimal(0), description="beside its nodes")
    node: Decimal = Field(default=Decimal(0), description="each node")
    priced: bool = Field(default=False, description="whether the price of a node is known")
    gpus: int = Field(default=0, description="of each node")


class Cluster(Record):
    """A Kubernetes cluster: one life, one owner."""

    id: str
    owner: str
    name: str
    request: ClusterRequest
    provider: str = Field(description="entry of the configuration that makes it")
    nodes: int = Field(description="nodes it is to have")
    state: State = State.REQUESTED
    reason: Reason = Reason.NONE
    detail: str = Field(default="", description="what happened, in words")
    handle: ClusterHandle | None = None
    nodes_there: int = Field(default=0, description="nodes it has, as the provider says")
    version_there: str = Field(default="", description="version of Kubernetes, as the provider says")
    kubeconfig: str = Field(
        default="",
        description="file with the administrator's access, where the service runs; never its content",
    )
    rate: Rate = Rate()
    nodes_paid: int = Field(default=0, description="nodes of its present charge: those it has, or will have")
    charges: tuple[Charge, ...] = Field(default=(), description="one for each number of nodes it had")
    created: datetime
    ready_at: datetime | None = None
    ended_at: datetime | None = None
    expires: datetime | None = None
    deadline: datetime | None = Field(default=None, description="when the present step is given up")
    keeper: str = Field(
        default="", description="the service that looks after it, where several share a store"
    )
    version: int = 0
