"""A gridcloud that starts, configures and stops machines of a cloud until it is killed.

    python -m tests.bad_days.cloud_victim FOLDER DOOR

It owns the store in FOLDER/data, as configured by FOLDER/config.yaml, reaches machines through the ground behind DOOR,
and prints a line for each step of a life.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gridcloud.instances.model import FINAL, Request
from gridcloud.service.process import lock_of
from gridcloud.settings import SettingsFile
from tests.labs.ground import grounded

__all__ = ["live"]

SMALL = Request(cpus=1, memory=512 << 20, time=3600)
CONFIGURE = ({"use": "script", "text": "echo configured; sleep 0.2"},)


async def live(folder: Path, door: Path) -> None:
    """Start and stop until somebody ends us."""
    if not lock_of(folder / "data").try_acquire(""):
        raise SystemExit("somebody else owns the store")
    house = await grounded(door).open(SettingsFile(folder / "config.yaml", {}), folder / "data")

    async def instance(owner: str) -> None:
        made = await house.instances.submit(owner, SMALL, name="a b; touch /tmp/x", configure=CONFIGURE)
        async for now in house.instances.records.follow(made.id):
            print(f"instance {now.state}", flush=True)
            if now.state == "ready":
                await house.instances.stop(now.id)
            if now.state in FINAL:
                return

    print("open", flush=True)
    while True:
        await asyncio.gather(instance("ada"), instance("bob"))


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), Path(sys.argv[2])))
