"""A gridcloud that starts one instance until it is killed.

    python -m tests.budgets.victim FOLDER

It owns the store in FOLDER/data, as configured by FOLDER/config.yaml, and prints each state.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gridcloud.instances.model import Request
from gridcloud.service.process import owning
from gridcloud.settings import SettingsFile

__all__ = ["live"]


async def live(folder: Path) -> None:
    """Start it and wait to be ended."""
    async with owning(SettingsFile(folder / "config.yaml", {}), folder / "data") as house:
        made = await house.instances.submit("ada", Request(cpus=1, memory=1 << 30, time=16 * 3600))
        async for now in house.instances.records.follow(made.id):
            print(now.state, flush=True)


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1])))
