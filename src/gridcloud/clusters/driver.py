"""The contract of what makes Kubernetes clusters: create, observe, scale, destroy, and give access.

A driver answers and never waits for a cluster: the runner polls. It keeps nothing that matters in memory, so that all
of it works after a restart. Every implementation passes `gridcloud.testing.clusters.ClusterDriverContract`.
"""

from __future__ import annotations

import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from gridcloud.clusters.model import (
    CLUSTER_ID,
    ClusterHandle,
    ClusterHolding,
    ClusterObservation,
    ClusterRequest,
    ClusterSpec,
)
from gridcloud.errors import InvalidRequest
from gridcloud.identity.credentials import Secret
from gridcloud.instances.model import Finding, Shape
from gridcloud.settings import ProviderSettings

__all__ = ["ClusterContext", "ClusterDriver", "ClusterSettings"]


class ClusterSettings(ProviderSettings):
    """What the entry of every maker of clusters has."""

    price: Decimal = Field(
        default=Decimal(0),
        ge=0,
        description="price per hour of a cluster beside its nodes: control nodes, load balancers",
    )
    prices: Mapping[str, Annotated[Decimal, Field(ge=0)]] = Field(
        default_factory=dict,
        description="price per hour of a node by name of its shape, * stands for anything; others have none known",
    )


@dataclass(frozen=True, slots=True)
class ClusterContext:
    """What the house gives a driver."""

    provider: str
    """The entry's name in the configuration."""
    installation: str
    """Our owner tag: the id of this gridcloud installation. Whatever is created carries it and the cluster's id."""
    folder: Path
    """A private folder (0700) for this provider, kept between runs."""
    secret: Callable[[str], Awaitable[Secret]]
    """Read a secret by reference (``file:…``, ``env:…``). Raises NotFound, Forbidden, InvalidSettings."""

    def kubeconfig(self, cluster_id: str) -> Path:
        """Return where the access to a cluster is kept. Raises InvalidRequest for what is no id."""
        if not re.fullmatch(CLUSTER_ID, cluster_id):
            raise InvalidRequest(f"{cluster_id!r:.80} is no id of a cluster.")
        return self.folder / f"{cluster_id}.kubeconfig"

    def keep_kubeconfig(self, cluster_id: str, text: str) -> Path:
        """Write the access to a cluster, readable by us alone (0600), whole or not at all; return where it lies."""
        path = self.kubeconfig(cluster_id)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
        return path

    def forget_kubeconfig(self, cluster_id: str) -> None:
        """Remove the access to a cluster, and what writing it may have left. Removing what is not there succeeds."""
        path = self.kubeconfig(cluster_id)
        path.unlink(missing_ok=True)
        for half in self.folder.glob(f".{path.name}.*"):
            half.unlink(missing_ok=True)


class ClusterDriver(ABC):
    """One provider. Methods may be called at the same time and in any order; each may be called again."""

    Settings: ClassVar[type[ClusterSettings]] = ClusterSettings

    def __init__(self, settings: ClusterSettings, context: ClusterContext) -> None:
        """Keep both; touch nothing outside. Called again whenever the configuration changes."""
        self.settings = settings
        self.context = context

    @abstractmethod
    async def node(self, request: ClusterRequest) -> Shape:
        """Return what each node would be: the shape's name, by which prices go, and its GPUs; the rest as far as it is
        known. Makes nothing. Raises Rejected for what can never be had, Transient when it is not known now."""

    @abstractmethod
    async def create(self, spec: ClusterSpec) -> ClusterHandle:
        """Begin to make the cluster, or find the one already begun for ``spec.id``; return within 60 seconds.

        Two calls for one id, even at once, make one. A call that raised may have left something behind: ``destroy``
        removes it. Raises Unavailable (NoCapacity, QuotaExceeded) or another Transient when it may work later,
        Rejected when it never can (no such shape, template or version).
        """

    @abstractmethod
    async def observe(self, handles: Mapping[str, ClusterHandle]) -> Mapping[str, ClusterObservation]:
        """Return what each cluster (by id) is now, in as few calls as the provider allows, within 20 seconds.
        What is not there is GONE. Raises Transient when the provider does not answer: nothing is known then."""

    @abstractmethod
    async def scale(self, cluster_id: str, handle: ClusterHandle, nodes: int) -> None:
        """Begin to give it so many nodes; where it has, or is being given, so many already, nothing changes.

        Raises Transient while the provider is busy with it or has not the capacity, QuotaExceeded when the quota does
        not allow so many, Rejected when it never can, NotFound when it is not there.
        """

    @abstractmethod
    async def destroy(self, cluster_id: str, handle: ClusterHandle | None) -> bool:
        """Begin, or go on, to remove everything made for this id; return whether nothing is left. The runner asks
        until that is so.

        Works without a handle (the crash came before it was stored) and on what is half made. Of what is not there
        nothing is left. Removes the kept access, too. Raises Transient when it is not certain, with the provider's
        words when a removal failed; asking again tries again.
        """

    @abstractmethod
    async def holdings(self) -> Sequence[ClusterHolding]:
        """Return everything the provider holds under our owner tag, half-made things and those being removed
        included. ``destroy`` of each id removes it."""

    @abstractmethod
    async def kubeconfig(self, cluster_id: str, handle: ClusterHandle) -> Path:
        """Return the file with the administrator's access to a cluster that is ready, written anew by
        ``context.keep_kubeconfig``. Raises Transient, NotFound."""

    @abstractmethod
    async def check(self) -> Sequence[Finding]:
        """Try credentials, reachability, templates and limits; make nothing, raise for nothing that is found.

        What is wrong, and what could not be found out (``known=False``), says in ``remedy`` what to do.
        """

    async def close(self) -> None:
        """Let go of connections and clients. May be called twice. Clusters live on."""
