"""A gridcloud that starts, scales and stops clusters until it is killed.

    python -m tests.bad_days.cluster_victim FOLDER

It owns the store in FOLDER/data, as configured by FOLDER/config.yaml, and prints a line for each step of a life.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

from gridcloud.clusters.model import FINAL, Cluster, ClusterRequest, State
from gridcloud.clusters.runner import Runner
from gridcloud.service.house import House
from gridcloud.service.process import lock_of
from gridcloud.settings import SettingsFile
from gridcloud.settings.model import Settings

__all__ = ["SIZES", "HastyHouse", "live", "step_of"]

SIZES = (2, 5, 1)
"""Nodes that a cluster has, one after the other."""


class HastyHouse(House):
    """A house that looks at its clusters often, from its first moment on."""

    def _carry_clusters(self, settings: Settings) -> Runner:
        runner = super()._carry_clusters(settings)
        runner.timing = replace(runner.timing, poll=0.05, watch=0.1, first_pause=0.05, longest_pause=0.2)
        return runner


def step_of(cluster: Cluster) -> str:
    """Name what is being done to a cluster: start, up, down, stop; empty when nothing is."""
    if cluster.state is State.SCALING:
        return "up" if cluster.nodes == max(SIZES) else "down"
    steps = {State.REQUESTED: "start", State.CREATING: "start", State.STOPPING: "stop"}
    return steps.get(cluster.state, "")


async def live(folder: Path) -> None:
    """Start, scale and stop until somebody ends us."""
    if not lock_of(folder / "data").try_acquire(""):
        raise SystemExit("somebody else owns the store")
    house = await HastyHouse.open(SettingsFile(folder / "config.yaml", {}), folder / "data")

    async def cluster(owner: str, name: str) -> None:
        made = await house.clusters.submit(owner, name, ClusterRequest(nodes=SIZES[0]))
        async for now in house.clusters.lives.follow(made.id):
            print(step_of(now) or now.state, owner, now.nodes, flush=True)
            if now.state is State.READY and now.nodes != SIZES[-1]:
                await house.clusters.scale(now.id, SIZES[SIZES.index(now.nodes) + 1])
            elif now.state is State.READY:
                await house.clusters.stop(now.id)
            elif now.state in FINAL and now.state is not State.STOPPED:
                raise SystemExit(f"The cluster is {now.state}: {now.detail}")

    for number in count():
        await asyncio.gather(*(cluster(owner, f"c{number}") for owner in ("ada", "bob")))


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1])))
