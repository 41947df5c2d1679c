"""Kubernetes clusters that OpenStack's Magnum makes.

Credentials stay in clouds.yaml. A cluster carries our marks twice, as labels and in its name, since older versions of
Magnum list clusters without their labels. Magnum takes one number for the nodes, changed by one verb.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from weakref import WeakValueDictionary

from gridcloud.clusters.driver import ClusterContext, ClusterDriver, ClusterSettings
from gridcloud.clusters.model import (
    CLUSTER_ID,
    ClusterHandle,
    ClusterHolding,
    ClusterObservation,
    ClusterPhase,
    ClusterRequest,
    ClusterSpec,
)
from gridcloud.drivers.clusters.magnum_access import Access
from gridcloud.drivers.clusters.magnum_settings import MagnumSettings
from gridcloud.drivers.clusters.magnum_wire import Wire
from gridcloud.drivers.openstack import another_project
from gridcloud.errors import GridcloudError, NotFound, Rejected, Transient
from gridcloud.instances.choosing import PricedShape, choose_shapes
from gridcloud.instances.model import Finding, Request, Shape

__all__ = ["MagnumDriver"]

T = TypeVar("T")

INSTALLATION = "gridcloud_installation"
CLUSTER = "gridcloud_cluster"
"""Our labels."""

MEBIBYTE = 1024**2


class MagnumDriver(ClusterDriver):
    """One project in one region."""

    Settings: ClassVar[type[ClusterSettings]] = MagnumSettings
    settings: MagnumSettings

    def __init__(self, settings: ClusterSettings, context: ClusterContext) -> None:
        super().__init__(settings, context)
        self._wire = Wire(self.settings)
        self._prefix = f"gridcloud-{hashlib.sha256(context.installation.encode()).hexdigest()[:8]}-"
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def node(self, request: ClusterRequest) -> Shape:
        """Look up the flavor that will be chosen; see the contract."""
        return await self._ask(lambda: self._node(request))

    async def create(self, spec: ClusterSpec) -> ClusterHandle:
        """Order the cluster, or find it by its name and labels; see the contract."""
        lock = self._locks.setdefault(spec.id, asyncio.Lock())
        async with lock:
            return await self._ask(lambda: self._handle(self._create(spec)))

    async def observe(self, handles: Mapping[str, ClusterHandle]) -> Mapping[str, ClusterObservation]:
        """List the project's clusters once, and remove the twins of those that are there; see the contract."""
        if not handles:
            return {}
        await self._ask(lambda: self._check_project(*handles.values()))
        by_uuid = {one["uuid"]: one for one in await self._ask(self._wire.clusters)}
        for uuid in self._twins(handles, by_uuid):
            await self._ask(partial(self._wire.delete, uuid))
        found = {}
        for cluster_id, handle in handles.items():
            seen = by_uuid.get(handle.data["uuid"])
            if seen is not None and str(seen.get("status", "")).endswith(("_FAILED", "_COMPLETE")):
                seen = await self._ask(partial(self._wire.cluster, seen["uuid"]))
            found[cluster_id] = _observation(seen)
        return found

    async def scale(self, cluster_id: str, handle: ClusterHandle, nodes: int) -> None:
        """Change the number of nodes; see the contract."""
        await self._ask(lambda: self._check_project(handle))
        await self._ask(lambda: self._scale(handle.data["uuid"], nodes))

    async def destroy(self, cluster_id: str, handle: ClusterHandle | None) -> bool:
        """Order the removal of all clusters of this id; see the contract."""
        lock = self._locks.setdefault(cluster_id, asyncio.Lock())
        async with lock:
            await self._ask(lambda: self._check_project(*([handle] if handle else [])))
            gone = await self._ask(lambda: self._destroy(cluster_id))
        if gone:
            await asyncio.to_thread(self.context.forget_kubeconfig, cluster_id)
        return gone

    async def holdings(self) -> Sequence[ClusterHolding]:
        """List our clusters; see the contract."""
        return await self._ask(self._holdings)

    async def kubeconfig(self, cluster_id: str, handle: ClusterHandle) -> Path:
        """Have a key of our own signed by the cluster's authority; see the contract."""

        def work() -> Path:
            self._check_project(handle)
            cluster = self._wire.cluster(handle.data["uuid"])
            if cluster is None:
                raise NotFound(f"The cluster {cluster_id} is not there.")
            if not cluster.get("api_address"):
                raise Transient(f"The cluster {cluster_id} has no address yet.")
            access = Access(self._prefix + cluster_id, str(cluster["api_address"]))
            authority = self._wire.authority(cluster["uuid"])
            signed = self._wire.sign(cluster["uuid"], access.signing_request())
            return self.context.keep_kubeconfig(cluster_id, access.kubeconfig(authority, signed))

        return await self._ask(work)

    async def check(self) -> Sequence[Finding]:
        """Try credentials, templates and shapes; see the contract."""
        findings = []
        for subject, look in (
            ("credentials", lambda: f"{len(self._wire.clusters())} clusters in the project"),
            ("template", self._check_templates),
            ("shapes", self._check_shapes),
        ):
            try:
                findings.append(Finding(subject=subject, ok=True, message=await self._ask(look)))
            except GridcloudError as error:
                remedy = error.remedy or "Look at the entry and at clouds.yaml."
                findings.append(Finding(subject=subject, ok=False, message=error.message, remedy=remedy))
                if subject == "credentials":
                    break
        return findings

    async def close(self) -> None:
        """Let go of the connection; see the contract."""
        await asyncio.to_thread(self._wire.close)

    # What is asked in a thread -------------------------------------------------------------------------------

    async def _ask(self, call: Callable[[], T]) -> T:
        return await asyncio.to_thread(self._wire.ask, call)

    def _handle(self, uuid: str) -> ClusterHandle:
        return ClusterHandle(data={"uuid": uuid, "project": self._wire.project()})

    def _check_project(self, *handles: ClusterHandle) -> None:
        """Raise InvalidSettings where the credentials are now of another project: in it nothing of these is seen."""
        for handle in handles:
            here = self._wire.project()
            made_in = str(handle.data.get("project", here))
            if made_in != here:
                self._wire.close()  # whoever asks next reads clouds.yaml anew
                raise another_project(self.context.provider, here, made_in, "clusters")

    def _holdings(self) -> list[ClusterHolding]:
        return [
            ClusterHolding(
                cluster_id=cluster_id,
                what="cluster",
                name=str(one.get("name") or one["uuid"]),
                created=_when(one.get("created_at")),
                handle=self._handle(one["uuid"]),
            )
            for cluster_id, clusters in self._ours().items()
            for one in clusters
        ]

    def _ours(self) -> dict[str, list[dict[str, Any]]]:
        """Return our clusters by id, the oldest of each first."""
        found: dict[str, list[dict[str, Any]]] = {}
        for one in sorted(
            self._wire.clusters(), key=lambda one: (str(one.get("created_at") or ""), one["uuid"])
        ):
            if (cluster_id := self._id_of(one)) and one.get("status") != "DELETE_COMPLETE":
                found.setdefault(cluster_id, []).append(one)
        return found

    def _twins(self, handles: Mapping[str, ClusterHandle], by_uuid: Mapping[str, Any]) -> list[str]:
        """Return the clusters that were made for an id beside the one that serves: an order that was given before a
        crash may be taken only after it was given again."""
        return [
            uuid
            for uuid, one in by_uuid.items()
            if (handle := handles.get(self._id_of(one))) is not None
            and handle.data["uuid"] != uuid
            and handle.data["uuid"] in by_uuid
            and not str(one.get("status", "")).startswith("DELETE")
        ]

    def _id_of(self, cluster: Mapping[str, Any]) -> str:
        """Return the id that a cluster was made for; empty where it is not ours."""
        labels = cluster.get("labels") or {}
        if INSTALLATION in labels:
            found = str(labels.get(CLUSTER, "")) if labels[INSTALLATION] == self.context.installation else ""
        else:
            name = str(cluster.get("name") or "")
            found = name.removeprefix(self._prefix) if name.startswith(self._prefix) else ""
        return found if re.fullmatch(CLUSTER_ID, found) else ""

    def _create(self, spec: ClusterSpec) -> str:
        held = self._ours().get(spec.id)
        if held is None:
            self._wire.create(self._body(spec))
            held = self._ours().get(spec.id)
            if held is None:
                raise Transient(f"{self._wire.label} took the order for {spec.id}, and does not list it yet.")
        # Names are not unique at Magnum: two that asked at once may each have made one.
        for twin in held[1:]:
            self._wire.delete(twin["uuid"])
        return str(held[0]["uuid"])

    def _body(self, spec: ClusterSpec) -> dict[str, Any]:
        settings = self.settings
        body: dict[str, Any] = {
            "name": self._prefix + spec.id,
            "cluster_template_id": self._template(spec.request.version)["uuid"],
            "node_count": spec.request.nodes,
            "create_timeout": settings.timeout,
            "labels": {**settings.labels, INSTALLATION: self.context.installation, CLUSTER: spec.id},
            "merge_labels": True,
        }
        if flavor := self._flavor(spec.request):
            body["flavor_id"] = flavor
        given = {
            "keypair": settings.keypair,
            "master_count": settings.masters,
            "master_flavor_id": settings.master_shape,
            "fixed_network": settings.network,
            "fixed_subnet": settings.subnet,
        }
        return body | {key: value for key, value in given.items() if value}

    def _template(self, version: str = "") -> dict[str, Any]:
        wanted = self.settings.versions.get(version) if version else self.settings.template
        if wanted is None:
            known = ", ".join(self.settings.versions) or "none"
            raise Rejected(
                f"{self.context.provider} has no Kubernetes {version}.",
                remedy=f"It has: {known}; or name none.",
            )
        templates = self._wire.templates()
        found = [one for one in templates if wanted in (one["uuid"], one.get("name"))]
        if not found:
            names = ", ".join(sorted(str(one.get("name")) for one in templates)) or "none"
            raise Rejected(
                f"{self._wire.label} has no cluster template {wanted!r}.", remedy=f"It has: {names}."
            )
        if found[0].get("coe") not in (None, "kubernetes"):
            raise Rejected(f"The cluster template {wanted!r} makes no Kubernetes, but {found[0]['coe']}.")
        return found[0]

    def _flavor(self, request: ClusterRequest) -> str:
        """Return the flavor of the nodes; empty for the template's own."""
        if not (request.shape or request.cpus or request.memory or request.gpus):
            return self.settings.shape
        flavors = self._wire.flavors()
        if request.shape:
            named = [one for one in flavors if request.shape in (one["id"], one["name"])]
            if not named:
                names = ", ".join(sorted(one["name"] for one in flavors))
                raise Rejected(f"There is no shape {request.shape!r:.100}.", remedy=f"There are: {names}.")
            return str(named[0]["id"])
        if request.gpus:
            raise Rejected(
                "Flavors do not say what GPUs they have.", remedy="Name one that has them: --shape."
            )
        wanted = Request(cpus=request.cpus or 0.1, memory=request.memory or MEBIBYTE)
        shapes = [
            PricedShape(
                Shape(
                    name=one["name"],
                    cpus=one["vcpus"],
                    memory=one["ram"] * MEBIBYTE,
                    disk=one["disk"] * 1024**3,
                ),
                choice={"id": one["id"]},
            )
            for one in flavors
        ]
        fitting = choose_shapes(wanted, shapes, self.settings.shapes, 1)
        if not fitting:
            raise Rejected("No shape has so much.", remedy="Ask for less, or name a shape: --shape.")
        return str(fitting[0].choice["id"])

    def _node(self, request: ClusterRequest) -> Shape:
        template = self._template(request.version)
        wanted = self._flavor(request) or str(template.get("flavor_id") or "")
        for one in self._wire.flavors():
            if wanted in (one["id"], one["name"]):
                name = str(one["name"])
                gpus = next((n for pattern, n in self.settings.gpus.items() if fnmatchcase(name, pattern)), 0)
                gpus = max(gpus, request.gpus)
                return Shape(name=name, cpus=one["vcpus"], memory=one["ram"] * MEBIBYTE, gpus=gpus)
        return Shape(name=wanted, cpus=0, memory=0)

    def _scale(self, uuid: str, nodes: int) -> None:
        cluster = self._wire.cluster(uuid)
        status = str((cluster or {}).get("status", ""))
        if cluster is None or status.startswith("DELETE"):
            raise NotFound(f"{self._wire.label} has no such cluster any more.")
        if cluster.get("node_count") == nodes and status != "UPDATE_FAILED":
            return
        if status.endswith("_IN_PROGRESS"):
            raise Transient(f"{self._wire.label} is still changing it ({status}).")
        self._wire.resize(uuid, nodes)

    def _destroy(self, cluster_id: str) -> bool:
        held = self._ours().get(cluster_id, [])
        for one in held:
            status = str(one.get("status", ""))
            if status == "DELETE_FAILED":
                # Asked again at once, and its words told: what keeps it may need a person.
                detail = self._wire.cluster(one["uuid"]) or {}
                self._wire.delete(one["uuid"])
                raise Transient(
                    f"{self._wire.label} could not remove it: {detail.get('status_reason') or status}"
                )
            if status != "DELETE_IN_PROGRESS":
                self._wire.delete(one["uuid"])
        return not held

    def _check_templates(self) -> str:
        names = [str(self._template(version).get("name")) for version in ("", *self.settings.versions)]
        return f"clusters are made from {', '.join(dict.fromkeys(names))}"

    def _check_shapes(self) -> str:
        flavors = {one["name"]: one["id"] for one in self._wire.flavors()}
        for wanted in filter(None, (self.settings.shape, self.settings.master_shape)):
            if wanted not in flavors and wanted not in flavors.values():
                raise Rejected(f"There is no shape {wanted!r}.", remedy=f"There are: {', '.join(flavors)}.")
        return f"{len(flavors)} shapes"


def _observation(cluster: Mapping[str, Any] | None) -> ClusterObservation:
    if cluster is None or cluster.get("status") == "DELETE_COMPLETE":
        return ClusterObservation(phase=ClusterPhase.GONE)
    status = str(cluster.get("status") or "")
    reason = str(cluster.get("status_reason") or "")
    words = f"{status}: {reason}"[:1000] if reason else status
    nodes, version = int(cluster.get("node_count") or 0), str(cluster.get("coe_version") or "")
    if status in ("CREATE_FAILED", "DELETE_FAILED", "ROLLBACK_FAILED"):
        return ClusterObservation(phase=ClusterPhase.FAILED, nodes=nodes, detail=words)
    if status in ("UPDATE_FAILED", "ROLLBACK_COMPLETE"):
        return ClusterObservation(phase=ClusterPhase.READY, nodes=nodes, version=version, problem=words)
    if status.endswith("_COMPLETE"):
        return ClusterObservation(phase=ClusterPhase.READY, nodes=nodes, version=version)
    return ClusterObservation(phase=ClusterPhase.PENDING, nodes=nodes, detail=words)


def _when(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
