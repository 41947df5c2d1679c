"""A gridcloud of one institution, until it is killed.

    python -m tests.grid.victim FOLDER [INSTANCE [STEP]]

It owns the store in FOLDER/data, as configured by FOLDER/config.yaml, and says that it is open. With an instance's id
it asks for that, and tells each state that it comes to. With a step it is killed there by the system, at once:
`comes KIND`, `taken KIND` for a message that it is sent, `goes KIND`, `answered KIND` for one that it sends. It ends
its instance then once that is ready.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from gridcloud.instances.model import Request, State
from gridcloud.service.house import House
from gridcloud.service.process import owning
from gridcloud.settings import SettingsFile

__all__ = ["own"]


async def own(folder: Path, instance_id: str, step: str) -> None:
    """Open it, and keep it until somebody ends us."""
    async with owning(SettingsFile(folder / "config.yaml", {}), folder / "data") as house:
        if step:
            die_at(house, step)
        print("open", flush=True)
        if instance_id:
            request = Request(cpus=0.25, memory=64 << 20)
            await house.instances.submit("ada", request, instance_id=instance_id)
            async for instance in house.instances.records.follow(instance_id):
                print(instance.state, flush=True)
                if step and instance.state is State.READY:
                    await house.instances.stop(instance_id)
        await asyncio.Event().wait()


def die_at(house: House, step: str) -> None:
    """Have this program killed where a message comes to a step: neither it nor anything of it goes on after."""

    def strike(moment: str, kind: str) -> None:
        if f"{moment} {kind}" == step:
            os.kill(os.getpid(), signal.SIGKILL)

    doorway, caller = house.office.doorway, house.office.caller
    for prefix, handler in list(doorway._handlers.items()):

        async def take(sender: str, kind: str, body: Any, handler: Any = handler) -> Any:
            strike("comes", kind)
            answer = await handler(sender, kind, body)
            strike("taken", kind)
            return answer

        doorway.handle(prefix, take)
    ask = caller._ask

    async def send(theirs: Any, kind: str, body: Any, **more: Any) -> Any:
        strike("goes", kind)
        answer = await ask(theirs, kind, body, **more)
        strike("answered", kind)
        return answer

    caller._ask = send  # type: ignore[method-assign]


if __name__ == "__main__":
    asyncio.run(own(Path(sys.argv[1]), *(*sys.argv[2:], "", "")[:2]))
