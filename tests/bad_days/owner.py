"""A gridcloud with one session, until it is killed.

    python -m tests.bad_days.owner FOLDER PORT

It owns the store in FOLDER/data, as configured by FOLDER/config.yaml, starts a session that reaches back to PORT here,
and prints the session's record once it answers.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gridcloud.connections.model import Port
from gridcloud.service.process import owning
from gridcloud.settings import SettingsFile
from tests.sessions.visit import begin, plan_back

__all__ = ["own"]


async def own(folder: Path, port: int) -> None:
    """Start the session and keep it until somebody ends us."""
    async with owning(SettingsFile(folder / "config.yaml", {}), folder / "data") as house:
        print((await begin(house, plan_back(Port(port=port)))).model_dump_json(), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(own(Path(sys.argv[1]), int(sys.argv[2])))
