"""Watch ready clusters: what is gone, what has other nodes than before, whose time is over, whose access is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gridcloud.clock import Clock
from gridcloud.clusters.costs import paying_for
from gridcloud.clusters.model import (
    Cluster,
    ClusterHandle,
    ClusterObservation,
    ClusterPhase,
    Reason,
    State,
)
from gridcloud.clusters.providers import ClusterProviders
from gridcloud.clusters.timing import Timing
from gridcloud.errors import Conflict, GridcloudError
from gridcloud.store.lives import Lives

__all__ = ["Watch"]

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds that a provider may take to say what its clusters are."""

End = Callable[[str, Reason, str], Awaitable[Cluster]]
"""Have the cluster of an id end, for a reason, in words."""
Lose = Callable[[Cluster, str], Awaitable[None]]
"""Note that a cluster is gone, in words."""


class Watch:
    """Looks at all ready clusters now and then."""

    def __init__(
        self,
        lives: Lives[Cluster],
        providers: ClusterProviders,
        clock: Clock,
        timing: Callable[[], Timing],
        end: End,
        lose: Lose,
    ) -> None:
        self._lives = lives
        self._providers = providers
        self._clock = clock
        self._timing = timing
        self._end = end
        self._lose = lose
        self._silent: set[str] = set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                ready: dict[str, list[Cluster]] = {}
                for cluster in filter(self._lives.keeps, await self._lives.find(states=[State.READY])):
                    ready.setdefault(cluster.provider, []).append(cluster)
                await asyncio.gather(*(self._look(name, found) for name, found in ready.items()))
            except GridcloudError as error:
                log.warning("watching clusters: %s", error)
            await self._clock.sleep(self._timing().watch)

    async def observe(self, cluster: Cluster) -> ClusterObservation:
        """Return what the provider says of one; PENDING with the reason when it does not answer."""
        if cluster.handle is None:
            return ClusterObservation(phase=ClusterPhase.GONE, detail="It was never made.")
        try:
            found = await self._ask(cluster.provider, {cluster.id: cluster.handle})
        except (GridcloudError, TimeoutError) as error:
            return ClusterObservation(phase=ClusterPhase.PENDING, detail=str(error) or "It does not answer.")
        return found[cluster.id]

    async def _ask(self, name: str, handles: dict[str, ClusterHandle]) -> dict[str, ClusterObservation]:
        driver = await self._providers.holder(name)
        async with asyncio.timeout(PATIENCE):
            found = await driver.observe(handles)
        # What is gone is said to be: no word is no reason to give a cluster up.
        unknown = ClusterObservation(phase=ClusterPhase.PENDING, detail=f"{name} says nothing of it.")
        return {cluster_id: found.get(cluster_id, unknown) for cluster_id in handles}

    async def _look(self, name: str, clusters: list[Cluster]) -> None:
        now = self._clock.now()
        for cluster in [one for one in clusters if one.expires is not None and one.expires <= now]:
            clusters.remove(cluster)
            await self._end(cluster.id, Reason.EXPIRED, "Its time is over.")
        handles = {one.id: one.handle for one in clusters if one.handle is not None}
        if not handles:
            return
        try:
            found = await self._ask(name, handles)
        except (GridcloudError, TimeoutError) as error:
            if name not in self._silent:
                log.warning("%s does not say what its clusters are: %s", name, error or "no answer")
            self._silent.add(name)
            return
        self._silent.discard(name)
        for cluster in clusters:
            await self._note(cluster, found.get(cluster.id))

    async def _note(self, cluster: Cluster, seen: ClusterObservation | None) -> None:
        if seen is None or seen.phase is ClusterPhase.PENDING:
            return
        if seen.phase is ClusterPhase.GONE:
            await self._lose(cluster, f"It is gone: {seen.detail or 'the provider holds it no longer'}")
            return
        changes: dict[str, Any] = {}
        words = ""
        if seen.phase is ClusterPhase.FAILED:
            words = f"It cannot be used: {seen.detail or 'the provider does not say why'}"
            changes["detail"] = words
        elif seen.nodes != cluster.nodes_there:
            words = f"It has {seen.nodes} nodes now."
            changes |= {"nodes": seen.nodes, "nodes_there": seen.nodes}
            changes |= paying_for(cluster, seen.nodes, self._clock.now())
        if seen.phase is ClusterPhase.READY and cluster.detail.startswith("It cannot be used"):
            changes["detail"] = ""
        if any(getattr(cluster, key) != value for key, value in changes.items()):
            with contextlib.suppress(Conflict):
                cluster = await self._lives.save(cluster, "changed" if words else "", words, **changes)
        if seen.phase is ClusterPhase.READY and not await asyncio.to_thread(Path(cluster.kubeconfig).is_file):
            await self._give_access(cluster)

    async def _give_access(self, cluster: Cluster) -> None:
        """Write the access again that was lost, or could not be had before."""
        if cluster.handle is None:
            return
        try:
            driver = await self._providers.holder(cluster.provider)
            path = await driver.kubeconfig(cluster.id, cluster.handle)
            if str(path) != cluster.kubeconfig:
                await self._lives.save(cluster, "", "", kubeconfig=str(path))
        except GridcloudError as error:
            log.warning("the access to the cluster %s: %s", cluster.id, error)
