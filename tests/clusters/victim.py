"""A gridcloud that starts, scales and stops clusters until it is killed.

    python -m tests.clusters.victim FOLDER

It owns the store in FOLDER/data, as configured by FOLDER/config.yaml, and prints a line for each step of a life.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import count
from pathlib import Path

from gridcloud.clusters.model import FINAL, ClusterRequest, State
from gridcloud.clusters.runner import Timing
from gridcloud.service.process import owning
from gridcloud.settings import SettingsFile

__all__ = ["live"]


async def live(folder: Path) -> None:
    """Start, scale and stop until somebody ends us."""
    async with owning(SettingsFile(folder / "config.yaml", {}), folder / "data") as house:
        house.clusters.timing = Timing(poll=0.02)
        print("open", flush=True)
        for number in count():
            made = await house.clusters.submit("ada", f"c{number}", ClusterRequest(nodes=2))
            async for now in house.clusters.lives.follow(made.id):
                print(f"cluster {now.state} {now.nodes}", flush=True)
                if now.state is State.READY and now.nodes == 2:
                    await house.clusters.scale(now.id, 5)
                elif now.state is State.READY:
                    await house.clusters.stop(now.id)
                if now.state in FINAL:
                    break


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1])))
