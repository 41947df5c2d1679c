"""What clusters cost: each node by its shape, and what a cluster costs beside its nodes. Pure functions."""

from __future__ import annotations

import fnmatch
from datetime import datetime
from decimal import Decimal

from gridcloud.budgets.model import Account, Ask
from gridcloud.clusters.driver import ClusterSettings
from gridcloud.clusters.model import FINAL, SERVING, Cluster, ClusterRequest, Rate
from gridcloud.instances.costs import close_charges
from gridcloud.instances.model import Charge, Shape

__all__ = ["account_of", "charge_for", "growth_of", "paying_for", "rate_of", "start_of"]


def rate_of(settings: ClusterSettings, node: Shape) -> Rate:
    """Return what a cluster costs whose nodes are of this shape. Without a price for the shape it is not known."""
    for pattern, price in settings.prices.items():
        if fnmatch.fnmatchcase(node.name, pattern):
            return Rate(shape=node.name, base=settings.price, node=price, priced=True, gpus=node.gpus)
    return Rate(shape=node.name, base=settings.price, gpus=node.gpus)


def charge_for(provider: str, rate: Rate, nodes: int, now: datetime) -> Charge:
    """Return what so many nodes cost from now on."""
    return Charge(
        provider=provider,
        shape=f"{nodes} × {rate.shape}" if rate.shape else f"{nodes} nodes",
        price=rate.base + nodes * rate.node if rate.priced else Decimal(0),
        priced=rate.priced,
        gpus=nodes * rate.gpus,
        since=now,
    )


def paying_for(cluster: Cluster, nodes: int, now: datetime) -> dict[str, object]:
    """Return the changes by which a cluster pays for so many nodes from now on; none where it does already."""
    is_open = bool(cluster.charges) and cluster.charges[-1].until is None
    if is_open and cluster.nodes_paid == nodes:
        return {}
    charge = charge_for(cluster.provider, cluster.rate, nodes, now)
    return {"charges": (*close_charges(cluster.charges, now), charge), "nodes_paid": nodes}


def start_of(owner: str, request: ClusterRequest, charge: Charge) -> Ask:
    """Return what the start of a cluster would take of a budget."""
    return Ask(owner, request.project, charge.price, charge.priced, charge.gpus, request.time)


def growth_of(cluster: Cluster, nodes: int, now: datetime) -> Ask | None:
    """Return what more nodes than are paid for would take of a budget until the cluster's end; None for no more."""
    more = nodes - cluster.nodes_paid
    if more <= 0:
        return None
    rate = cluster.rate
    seconds = cluster.request.time
    if cluster.expires is not None:
        seconds = max(1, int((cluster.expires - now).total_seconds()))
    project = cluster.request.project
    price, gpus = more * rate.node, more * rate.gpus
    return Ask(cluster.owner, project, price, rate.priced, gpus, seconds, "ask for fewer nodes")


def account_of(cluster: Cluster) -> Account:
    """Return the account of a cluster as it is now."""
    return Account(
        cluster.id,
        cluster.owner,
        cluster.name,
        cluster.request.project,
        cluster.charges,
        cluster.state not in FINAL,
        cluster.state in SERVING,
        cluster.request.time,
        cluster.expires,
        cluster.version,
    )
