"""A gridcloud that starts and stops instances and sessions until it is killed.

    python -m tests.bad_days.victim FOLDER PAGE

It owns the store in FOLDER/data, as configured by FOLDER/config.yaml, and prints a line for each step of a life.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gridcloud import connections
from gridcloud.connections import programs
from gridcloud.connections.driver import Command
from gridcloud.instances.model import FINAL, Request
from gridcloud.service.process import owning
from gridcloud.sessions.model import FINAL as SESSION_FINAL
from gridcloud.sessions.model import Plan, State
from gridcloud.settings import SettingsFile

__all__ = ["live"]

SMALL = Request(cpus=0.1, memory=64 << 20, time=3600)


async def live(folder: Path, page: str) -> None:
    """Start and stop until somebody ends us."""
    async with owning(SettingsFile(folder / "config.yaml", {}), folder / "data") as house:
        plan = Plan(
            words=("python3", "-c", page), listening=("--socket", "{socket}"), environment={"PORT": "{port}"}
        )

        async def instance() -> None:
            made = await house.instances.submit("ada", SMALL, name="a b; touch /tmp/x")
            async for now in house.instances.records.follow(made.id):
                print(f"instance {now.state}", flush=True)
                if now.state == "ready" and now.address is not None:
                    there = await house.links.get(now.id, now.address)
                    await programs.launch(there, Command(("sleep", "7777")), name="p", folder="p")
                    print("instance busy", flush=True)
                    await connections.run(there, Command(("true",)))
                    await house.instances.stop(now.id)
                if now.state in FINAL:
                    return

        async def session() -> None:
            made = await house.sessions.submit("bob", SMALL, plan)
            async for now in house.sessions.lives.follow(made.id):
                print(f"session {now.state}", flush=True)
                if now.state is State.RUNNING:
                    await house.sessions.stop(now.id)
                if now.state in SESSION_FINAL:
                    return

        print("open", flush=True)
        while True:
            await asyncio.gather(instance(), session())


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), sys.argv[2]))
