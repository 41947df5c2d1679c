"""Clusters of Oracle's container engine (OKE): one cluster with one pool of nodes for each id.

Oracle takes minutes for a cluster and takes its nodes only then, so ``observe`` adds the nodes once the cluster is
there. What is made is found again by its tags, and made once by Oracle's retry tokens.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import yaml

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
from gridcloud.drivers.clusters.oke_choices import OKEChoices
from gridcloud.drivers.clusters.oke_settings import OKESettings
from gridcloud.drivers.oracle import Wire, begin_once, gather, is_ours
from gridcloud.errors import Conflict, Forbidden, GridcloudError, NotFound, Transient, Untrusted
from gridcloud.instances.model import Finding, Shape

__all__ = ["OKEDriver"]

INSTALLATION = "gridcloud-installation"
PROVIDER = "gridcloud-provider"
CLUSTER = "gridcloud-cluster"
COMMAND = ("oci", "ce", "cluster", "generate-token")
"""What makes the tokens of the access to a cluster."""
ENDED = frozenset({"DELETED"})
CHANGING = frozenset({"CREATING", "UPDATING", "DELETING"})


class OKEDriver(ClusterDriver):
    """Clusters of one compartment and region. ``observe`` is two listings."""

    Settings: ClassVar[type[ClusterSettings]] = OKESettings

    def __init__(self, settings: ClusterSettings, context: ClusterContext) -> None:
        super().__init__(settings, context)
        self.settings: OKESettings = cast(OKESettings, settings)
        self._tags = {INSTALLATION: context.installation[:256], PROVIDER: context.provider[:256]}
        self._wire = Wire(self.settings, context.provider)
        self._choices = OKEChoices(self._wire, self.settings, context.provider)

    async def node(self, request: ClusterRequest) -> Shape:
        """Return the shape that will be chosen; see the contract."""
        return await self._choices.node(request)

    async def create(self, spec: ClusterSpec) -> ClusterHandle:
        """Begin with the cluster; its nodes follow. See the contract."""
        from oci.container_engine import models

        try:
            plan = await self._choices.plan(spec.request)
            compartment = await self._choices.compartment()
            clusters = await self._ours("cluster", compartment, spec.id)
            if clusters:
                return ClusterHandle(data={"plan": plan, "request": ""})
            api, *balancers = plan["api"]
            details = models.CreateClusterDetails(
                name=f"gridcloud-{spec.id}",
                compartment_id=compartment,
                vcn_id=plan["vcn"],
                kubernetes_version=plan["version"],
                type=self.settings.type,
                freeform_tags={**self._tags, CLUSTER: spec.id},
                endpoint_config=models.CreateClusterEndpointConfigDetails(
                    subnet_id=api, is_public_ip_enabled=self.settings.public_address
                ),
                options=models.ClusterCreateOptions(service_lb_subnet_ids=balancers or None),
                cluster_pod_network_options=[models.FlannelOverlayClusterPodNetworkOptionDetails()],
            )
            request = await begin_once(self._wire, "clusters", "create_cluster", details, spec.id)
        except NotFound as error:
            raise Forbidden(error.message, remedy=error.remedy) from error
        return ClusterHandle(data={"plan": plan, "request": request})

    async def observe(self, handles: Mapping[str, ClusterHandle]) -> Mapping[str, ClusterObservation]:
        """Look at all with two listings; give nodes to those that are ready for them. See the contract."""
        if not handles:
            return {}
        try:
            compartment = await self._choices.compartment()
            clusters, pools = await gather(
                self._ours("cluster", compartment), self._ours("node_pool", compartment)
            )
        except NotFound as error:
            raise Transient(error.message, remedy=error.remedy) from error
        seen = await gather(*(self._observe(id_, handle, clusters, pools) for id_, handle in handles.items()))
        return dict(zip(handles, seen, strict=True))

    async def scale(self, cluster_id: str, handle: ClusterHandle, nodes: int) -> None:
        """Give the pool another size; see the contract."""
        from oci.container_engine import models

        compartment = await self._choices.compartment()
        clusters = await self._ours("cluster", compartment, cluster_id)
        if not clusters or clusters[0].lifecycle_state == "DELETING":
            raise NotFound(f"{self.context.provider} has no cluster {cluster_id}.")
        pools = await self._ours("node_pool", compartment, cluster_id)
        if not pools:
            raise Transient(f"{cluster_id} has no nodes yet.", remedy="Try again in some minutes.")
        if pools[0].node_config_details.size == nodes:
            return
        if pools[0].lifecycle_state in CHANGING:
            raise Transient(
                f"The nodes of {cluster_id} are being changed.", remedy="Try again in some minutes."
            )
        details = models.UpdateNodePoolDetails(
            node_config_details=models.UpdateNodePoolNodeConfigDetails(size=nodes)
        )
        await self._wire.begin("clusters", "update_node_pool", pools[0].id, details)

    async def destroy(self, cluster_id: str, handle: ClusterHandle | None) -> bool:
        """Remove the nodes, then the cluster; see the contract."""
        try:
            compartment = await self._choices.compartment()
            pools, clusters = await gather(
                self._ours("node_pool", compartment, cluster_id),
                self._ours("cluster", compartment, cluster_id),
            )
            for pool in pools:
                await self._delete("node_pool", pool)
            for cluster in () if pools else clusters:
                await self._delete("cluster", cluster)
        except NotFound as error:
            raise Transient(
                f"It is not certain that {cluster_id} is gone: {error.message}", remedy=error.remedy
            ) from error
        self.context.forget_kubeconfig(cluster_id)
        if not pools and not clusters and handle is not None:
            return not await self._is_under_way(handle)
        return not pools and not clusters

    async def holdings(self) -> Sequence[ClusterHolding]:
        """List our clusters and pools; see the contract."""
        try:
            compartment = await self._choices.compartment()
            clusters, pools = await gather(
                self._ours("cluster", compartment), self._ours("node_pool", compartment)
            )
        except NotFound as error:
            raise Transient(error.message, remedy=error.remedy) from error
        held = [
            ClusterHolding(
                cluster_id=one.freeform_tags[CLUSTER],
                what="cluster",
                name=one.id,
                created=one.metadata.time_created if one.metadata else None,
            )
            for one in clusters
        ]
        return held + [
            ClusterHolding(cluster_id=one.freeform_tags[CLUSTER], what="node pool", name=one.id)
            for one in pools
        ]

    async def kubeconfig(self, cluster_id: str, handle: ClusterHandle) -> Path:
        """Ask Oracle for the access, whose tokens its own command makes: `oci`, with the same key as ours."""
        from oci.container_engine import models

        clusters = await self._ours("cluster", await self._choices.compartment(), cluster_id)
        if not clusters:
            raise NotFound(f"{self.context.provider} has no cluster {cluster_id}.")
        endpoint = "PUBLIC_ENDPOINT" if self.settings.public_address else "PRIVATE_ENDPOINT"
        answer = await self._wire.call(
            "clusters",
            "create_kubeconfig",
            clusters[0].id,
            create_cluster_kubeconfig_content_details=models.CreateClusterKubeconfigContentDetails(
                token_version="2.0.0",  # noqa: S106 - of the format, no secret
                endpoint=endpoint,
            ),
        )

        def read() -> str:
            return str(answer.content.decode())

        return self.context.keep_kubeconfig(cluster_id, self._with_account(await asyncio.to_thread(read)))

    async def check(self) -> Sequence[Finding]:
        """Try the key, the networks, the version and the shape; see the contract."""
        findings = []
        for subject, look in (
            ("compartment", self._choices.compartment),
            ("network", self._choices.networks),
            ("version", self._choices.versions),
            ("shape", self._choices.default_shape),
        ):
            name = f"{self.context.provider}: {subject}"
            try:
                found = await look()
                findings.append(Finding(subject=name, ok=True, message=f"The {subject} is there: {found}."))
            except GridcloudError as error:
                remedy = error.remedy or "See docs/guide/oracle.md."
                findings.append(Finding(subject=name, ok=False, message=error.message, remedy=remedy))
        return findings

    async def close(self) -> None:
        """Close the connections."""
        await self._wire.close()

    async def _observe(
        self, cluster_id: str, handle: ClusterHandle, clusters: Sequence[Any], pools: Sequence[Any]
    ) -> ClusterObservation:
        cluster = next((one for one in clusters if one.freeform_tags[CLUSTER] == cluster_id), None)
        if cluster is None:
            if await self._is_under_way(handle):
                return ClusterObservation(phase=ClusterPhase.PENDING, detail="Oracle has accepted it")
            return ClusterObservation(phase=ClusterPhase.GONE, detail="Oracle has it no longer")
        pool = next((one for one in pools if one.cluster_id == cluster.id), None)
        state, words = cluster.lifecycle_state, cluster.lifecycle_details or ""
        known = {"version": cluster.kubernetes_version.removeprefix("v"), "nodes": _size(pool)}
        if state == "FAILED":
            return ClusterObservation(
                phase=ClusterPhase.FAILED, detail=words or "the cluster failed", **known
            )
        if state == "ACTIVE" and pool is None:
            await self._add_nodes(cluster_id, handle.data["plan"], cluster)
            return ClusterObservation(phase=ClusterPhase.PENDING, detail="its nodes are asked for", **known)
        if state in {"CREATING", "DELETING"} or pool is None:
            return ClusterObservation(phase=ClusterPhase.PENDING, detail=f"it is {state.lower()}", **known)
        state, words = pool.lifecycle_state, pool.lifecycle_details or ""
        if state in CHANGING:
            detail = f"its nodes are {state.lower()}"
            return ClusterObservation(phase=ClusterPhase.PENDING, detail=detail, **known)
        if state == "FAILED":
            return ClusterObservation(phase=ClusterPhase.FAILED, detail=words or "its nodes failed", **known)
        problem = (words or f"its nodes are {state.lower()}") if state != "ACTIVE" else ""
        return ClusterObservation(phase=ClusterPhase.READY, problem=problem, **known)

    async def _add_nodes(self, cluster_id: str, plan: Mapping[str, Any], cluster: Any) -> None:
        from oci.container_engine import models

        domains = await self._choices.domains()
        details = models.CreateNodePoolDetails(
            compartment_id=cluster.compartment_id,
            cluster_id=cluster.id,
            name=f"gridcloud-{cluster_id}",
            kubernetes_version=cluster.kubernetes_version,
            node_shape=plan["shape"],
            node_source_details=models.NodeSourceViaImageDetails(
                image_id=plan["image"], boot_volume_size_in_gbs=self.settings.disk
            ),
            node_config_details=models.CreateNodePoolNodeConfigDetails(
                size=plan["nodes"],
                placement_configs=[
                    models.NodePoolPlacementConfigDetails(availability_domain=one, subnet_id=plan["node"])
                    for one in domains
                ],
                freeform_tags={**self._tags, CLUSTER: cluster_id},
            ),
            freeform_tags={**self._tags, CLUSTER: cluster_id},
        )
        if plan["ocpus"]:
            details.node_shape_config = models.CreateNodeShapeConfigDetails(
                ocpus=plan["ocpus"], memory_in_gbs=plan["memory"]
            )
        await begin_once(self._wire, "clusters", "create_node_pool", details, cluster_id)

    async def _ours(self, kind: str, compartment: str, cluster_id: str = "") -> list[Any]:
        """Return our clusters or pools that are not gone, those that live before those on their way out."""
        tags = {**self._tags, CLUSTER: cluster_id} if cluster_id else self._tags
        listed = await self._wire.pages("clusters", f"list_{kind}s", compartment)
        ours = [
            one
            for one in listed
            if is_ours(one, tags)
            and re.fullmatch(CLUSTER_ID, str(one.freeform_tags.get(CLUSTER, "")))
            and one.lifecycle_state not in ENDED
        ]
        return sorted(ours, key=lambda one: (one.lifecycle_state == "DELETING", one.id))

    async def _delete(self, kind: str, thing: Any) -> None:
        """Begin to remove a thing; one that Oracle is busy with is asked for again later."""
        if thing.lifecycle_state == "DELETING":
            return
        try:
            await self._wire.begin("clusters", f"delete_{kind}", thing.id)
        except (NotFound, Conflict):
            return

    async def _is_under_way(self, handle: ClusterHandle) -> bool:
        """Return whether the request for a cluster that no listing shows is still being worked on."""
        if not (request := handle.data.get("request")):
            return False
        try:
            work = await self._wire.call("clusters", "get_work_request", request)
        except NotFound:
            return False
        return work.status in {"ACCEPTED", "IN_PROGRESS"}

    def _with_account(self, text: str) -> str:
        """Return the access with the section of Oracle's configuration file that its command is to use.

        Whoever uses the access runs its command: another than the one expected is refused. Raises Untrusted.
        """
        try:
            document = yaml.safe_load(text)
            servers = [str(one["cluster"]["server"]) for one in document["clusters"]]
            commands = [one["user"]["exec"] for one in document["users"]]
            words = [(one["command"], *one["args"][:3]) for one in commands]
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise Untrusted(f"{self.context.provider}: Oracle's answer is no access to a cluster.") from error
        if not servers or not all(one.startswith("https://") for one in servers) or set(words) != {COMMAND}:
            raise Untrusted(
                f"{self.context.provider}: the access to the cluster is not as Oracle gives it: it leads to "
                f"{', '.join(servers)!r:.200} and runs {words!r:.200}."
            )
        for command in commands:
            command["env"] = [
                {"name": "OCI_CLI_CONFIG_FILE", "value": str(self.settings.config_file.expanduser())},
                {"name": "OCI_CLI_PROFILE", "value": self.settings.profile},
            ]
            if self.settings.principal == "instance":
                command["env"] = [{"name": "OCI_CLI_AUTH", "value": "instance_principal"}]
        return yaml.safe_dump(document, sort_keys=False)


def _size(pool: Any) -> int:
    return int(pool.node_config_details.size or 0) if pool is not None and pool.node_config_details else 0
