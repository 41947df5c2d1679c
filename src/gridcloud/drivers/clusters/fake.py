"""Clusters that are lines in a file: for trying gridcloud, and for its tests. Faults can be asked for.

::

    clusters:
      pretend:
        driver: fake
        seconds: 2
        faults:
          - {call: scale, error: unreachable, times: 2}
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.clusters.driver import ClusterDriver, ClusterSettings
from gridcloud.clusters.model import (
    ClusterHandle,
    ClusterHolding,
    ClusterObservation,
    ClusterPhase,
    ClusterRequest,
    ClusterSpec,
)
from gridcloud.errors import GridcloudError, NotFound, QuotaExceeded, Rejected, Unreachable
from gridcloud.instances.model import Finding, Shape

__all__ = ["ClusterFault", "FakeClusterDriver", "FakeClusterSettings"]


class ClusterFault(BaseModel):
    """Something that goes wrong in a call, a number of times."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    call: Literal["create", "observe", "scale", "destroy", "holdings", "kubeconfig"] = Field(
        description="the call that fails"
    )
    error: Literal["unreachable", "rejected", "quota", "crash-after"] = Field(
        description="how it fails; crash-after does what was asked and then answers as if the line had been cut"
    )
    times: int = Field(default=1, ge=1, description="how often; kept over restarts")


class FakeClusterSettings(ClusterSettings):
    """Settings of clusters that are none."""

    place: ClassVar[tuple[str, ...]] = ("region",)

    region: str = Field(
        default="",
        pattern=r"^[a-z0-9-]{0,40}$",
        description="where they pretend to be; another one has others",
    )
    seconds: float = Field(
        default=0, ge=0, description="seconds that making, changing and removing one takes"
    )
    nodes: int = Field(default=100, ge=1, description="nodes that all clusters together may have")
    shapes: tuple[str, ...] = Field(default=("standard",), description="shapes that nodes may have")
    faults: tuple[ClusterFault, ...] = Field(default=(), description="what goes wrong, in order")


class FakeClusterDriver(ClusterDriver):
    """The provider of clusters that are none."""

    Settings = FakeClusterSettings
    settings: FakeClusterSettings

    async def node(self, request: ClusterRequest) -> Shape:
        """Return the shape asked for, or the first; see the contract."""
        name = request.shape or self.settings.shapes[0]
        if name not in self.settings.shapes:
            known = ", ".join(self.settings.shapes)
            raise Rejected(f"{self.context.provider} has no shape {name!r:.80}.", remedy=f"It has: {known}.")
        return Shape(name=name, cpus=request.cpus, memory=request.memory, gpus=request.gpus)

    async def create(self, spec: ClusterSpec) -> ClusterHandle:
        """Write the cluster down; see the contract."""
        cut = await self._answer("create")
        await self.node(spec.request)
        with self._changing() as state:
            if spec.id not in state["clusters"]:
                self._check_room(state, spec.id, spec.request.nodes)
                state["clusters"][spec.id] = {
                    "installation": self.context.installation,
                    "nodes": spec.request.nodes,
                    "version": spec.request.version or "1.31",
                    "created": time.time(),
                    "until": time.time() + self.settings.seconds,
                    "going": False,
                }
        self._cut(cut)
        return ClusterHandle(data={"id": spec.id})

    async def observe(self, handles: Mapping[str, ClusterHandle]) -> Mapping[str, ClusterObservation]:
        """Look each up; see the contract."""
        cut = await self._answer("observe")
        held = self._read()["clusters"]
        self._cut(cut)
        return {cluster_id: _observation(held.get(cluster_id)) for cluster_id in handles}

    async def scale(self, cluster_id: str, handle: ClusterHandle, nodes: int) -> None:
        """Write the new number down; see the contract."""
        cut = await self._answer("scale")
        with self._changing() as state:
            entry = state["clusters"].get(cluster_id)
            if entry is None or entry["going"]:
                raise NotFound(f"{self.context.provider} has no cluster {cluster_id}.")
            if entry["nodes"] != nodes:
                self._check_room(state, cluster_id, nodes)
                entry |= {"nodes": nodes, "until": time.time() + self.settings.seconds}
        self._cut(cut)

    async def destroy(self, cluster_id: str, handle: ClusterHandle | None) -> bool:
        """Strike the cluster out; see the contract."""
        cut = await self._answer("destroy")
        with self._changing() as state:
            entry = state["clusters"].get(cluster_id)
            if entry is not None and not entry["going"]:
                entry |= {"going": True, "until": time.time() + self.settings.seconds}
            if entry is not None and entry["until"] <= time.time():
                del state["clusters"][cluster_id]
            gone = cluster_id not in state["clusters"]
        if gone:
            self.context.forget_kubeconfig(cluster_id)
        self._cut(cut)
        return gone

    async def holdings(self) -> Sequence[ClusterHolding]:
        """List what carries our tag; see the contract."""
        cut = await self._answer("holdings")
        held = [
            ClusterHolding(
                cluster_id=cluster_id,
                what="cluster",
                name=cluster_id,
                created=datetime.fromtimestamp(entry["created"], UTC),
                handle=ClusterHandle(data={"id": cluster_id}),
            )
            for cluster_id, entry in self._read()["clusters"].items()
            if entry["installation"] == self.context.installation
        ]
        self._cut(cut)
        return held

    async def kubeconfig(self, cluster_id: str, handle: ClusterHandle) -> Path:
        """Write access to nothing; see the contract."""
        self._cut(await self._answer("kubeconfig"))
        if cluster_id not in self._read()["clusters"]:
            raise NotFound(f"{self.context.provider} has no cluster {cluster_id}.")
        nothing = {"apiVersion": "v1", "kind": "Config", "clusters": [], "contexts": [], "users": []}
        return self.context.keep_kubeconfig(cluster_id, json.dumps(nothing))

    async def check(self) -> Sequence[Finding]:
        """Say that these are none; see the contract."""
        return [
            Finding(subject=self.context.provider, ok=True, message="fake: its clusters are lines in a file")
        ]

    def _check_room(self, state: dict[str, Any], cluster_id: str, nodes: int) -> None:
        taken = sum(entry["nodes"] for name, entry in state["clusters"].items() if name != cluster_id)
        if taken + nodes > self.settings.nodes:
            raise QuotaExceeded(
                f"{self.context.provider} allows {self.settings.nodes} nodes, of which {taken} are taken."
            )

    async def _answer(self, call: str) -> ClusterFault | None:
        """Fail if a fault says so; return the fault that strikes after the deed."""
        await asyncio.sleep(0)
        if not any(fault.call == call for fault in self.settings.faults):
            return None
        with self._changing() as state:
            for number, fault in enumerate(self.settings.faults):
                if fault.call == call and state["struck"].get(f"{number}", 0) < fault.times:
                    state["struck"][f"{number}"] = state["struck"].get(f"{number}", 0) + 1
                    if fault.error == "crash-after":
                        return fault
                    raise _error(fault, self.context.provider)
        return None

    def _cut(self, fault: ClusterFault | None) -> None:
        if fault is not None:
            raise _error(fault, self.context.provider)

    @property
    def _file(self) -> Path:
        region = self.settings.region
        return self.context.folder / (f"clusters-{region}.json" if region else "clusters.json")

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._file.read_text())
        except FileNotFoundError:
            found = {"clusters": {}, "struck": {}}
        return found

    @contextmanager
    def _changing(self) -> Generator[dict[str, Any], None, None]:
        """Read the state and write it back whole, while nobody else does, in this process or another; what is changed
        before an error is raised is not written, but for the count of faults."""
        self.context.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.context.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._read()
            try:
                yield state
            finally:
                new = self._file.with_suffix(".new")
                new.write_text(json.dumps(state))
                new.replace(self._file)


def _observation(entry: dict[str, Any] | None) -> ClusterObservation:
    if entry is None:
        return ClusterObservation(phase=ClusterPhase.GONE, detail="no such cluster")
    left = entry["until"] - time.time()
    if left > 0 or entry["going"]:
        phase, detail = ClusterPhase.PENDING, f"{max(0, left):.0f} s left"
    else:
        phase, detail = ClusterPhase.READY, ""
    return ClusterObservation(phase=phase, nodes=entry["nodes"], version=entry["version"], detail=detail)


def _error(fault: ClusterFault, provider: str) -> GridcloudError:
    kinds = {"rejected": Rejected, "quota": QuotaExceeded}
    return kinds.get(fault.error, Unreachable)(f"{provider} fails to {fault.call} (a configured fault).")
