"""Kubernetes clusters over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter, Response

from gridcloud import plugins
from gridcloud.clusters import forgetting
from gridcloud.clusters.model import FINAL, Cluster, State
from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.service.access import Admin, Asking, Caller, TheHouse
from gridcloud.service.cluster_documents import (
    ClusterAccess,
    ClusterProvider,
    ClusterProviders,
    Clusters,
    ClusterWish,
    Scaling,
)
from gridcloud.service.documents import Findings, ForgetOrder, ForgottenProvider
from gridcloud.service.entries import check_entry, list_entries

__all__ = ["owned", "router"]

router = APIRouter(tags=["clusters"])


@router.post("/clusters", status_code=201)
async def start(wish: ClusterWish, caller: Asking, house: TheHouse) -> Cluster:
    """Ask for a cluster; answers at once."""
    house.check_cluster(wish.request)
    owner = caller.owner(wish.owner)
    async with house.admitting(owner, wish.request.nodes):
        return await house.clusters.submit(owner, wish.name, wish.request)


@router.get("/clusters")
async def find(caller: Asking, house: TheHouse, all: bool = False, owner: str | None = None) -> Clusters:
    """List clusters: one's own, or everybody's for an administrator; those that have ended too with ``all``."""
    found = await house.clusters.lives.find(owner=owner if caller.admin else caller.user)
    return Clusters(clusters=[cluster for cluster in found if all or cluster.state not in FINAL])


@router.get("/clusters/{cluster_id}")
async def show(cluster_id: str, caller: Asking, house: TheHouse) -> Cluster:
    """Return one cluster, by its id or by the name of one's own."""
    return await owned(house, caller, cluster_id)


@router.post("/clusters/{cluster_id}/scale")
async def scale(cluster_id: str, scaling: Scaling, caller: Asking, house: TheHouse) -> Cluster:
    """Have it get so many nodes; answers at once."""
    cluster = await owned(house, caller, cluster_id)
    async with house.admitting(cluster.owner, scaling.nodes, cluster=cluster.id):
        return await house.clusters.scale(cluster.id, scaling.nodes)


@router.post("/clusters/{cluster_id}/stop")
async def stop(cluster_id: str, caller: Asking, house: TheHouse) -> Cluster:
    """Have it end; answers at once. May be asked twice."""
    cluster = await owned(house, caller, cluster_id)
    return await house.clusters.stop(cluster.id)


@router.get("/clusters/{cluster_id}/access")
async def access(cluster_id: str, caller: Asking, house: TheHouse, response: Response) -> ClusterAccess:
    """Return the administrator's access to a cluster that is ready, to its owner."""
    response.headers["Cache-Control"] = "no-store"
    cluster = await owned(house, caller, cluster_id)
    if cluster.state not in (State.READY, State.SCALING) or not cluster.kubeconfig:
        raise InvalidRequest(f"The cluster {cluster.name} is {cluster.state}: it has no access yet.")
    try:
        text = await asyncio.to_thread(Path(cluster.kubeconfig).read_text)
    except OSError as error:
        raise NotFound(
            f"The access to the cluster {cluster.name} is lost: {error.strerror}.",
            remedy="It is written again within a minute.",
        ) from error
    return ClusterAccess(kubeconfig=text)


@router.get("/cluster-providers")
async def providers(caller: Asking, house: TheHouse) -> ClusterProviders:
    """List what makes clusters, and what is wrong with any of the entries."""
    listed = list_entries(ClusterProvider, house.settings().clusters, caller)
    return ClusterProviders(providers=listed, drivers=plugins.names("clusters"))


@router.get("/cluster-providers/{name}/check")
async def check(name: str, caller: Admin, house: TheHouse) -> Findings:
    """Try what makes clusters, without making any."""
    return await check_entry(name, house.clusters.providers.get)


@router.post("/cluster-providers/{name}/forget")
async def forget(name: str, order: ForgetOrder, caller: Admin, house: TheHouse) -> ForgottenProvider:
    """Ask what makes clusters, and left the configuration, never again; refused while something may be left there,
    unless that is given up."""
    done = await forgetting.forget(house.clusters, name, order.give_up)
    return ForgottenProvider(provider=name, given_up=list(done.given_up))


async def owned(house: TheHouse, caller: Caller, word: str) -> Cluster:
    """Return a cluster that the caller may see, by id or by name. Raises NotFound."""
    try:
        cluster = await house.clusters.lives.get(word)
    except NotFound:
        return await house.clusters.find(caller.user, word)
    caller.check(cluster.owner, f"cluster {word!r:.100}")
    return cluster
