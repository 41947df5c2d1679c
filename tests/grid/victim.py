"""A gridcloud of one institution, until it is killed.

    python -m tests.grid.victim FOLDER [INSTANCE]

It owns the store in FOLDER/data, as configured by FOLDER/config.yaml, and says that it is open. With an instance's id
it asks for that, and tells each state that it comes to.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gridcloud.instances.model import Request
from gridcloud.service.process import owning
from gridcloud.settings import SettingsFile

__all__ = ["own"]


async def own(folder: Path, instance_id: str) -> None:
    """Open it, and keep it until somebody ends us."""
    async with owning(SettingsFile(folder / "config.yaml", {}), folder / "data") as house:
        print("open", flush=True)
        if instance_id:
            request = Request(cpus=0.25, memory=64 << 20)
            await house.instances.submit("ada", request, instance_id=instance_id)
            async for instance in house.instances.records.follow(instance_id):
                print(instance.state, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(own(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""))
