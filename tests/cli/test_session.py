"""`gridcloud session`, on a session that runs."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from gridcloud.client import connect_async
from gridcloud.sessions.model import Session
from tests.cli.conftest import Caller, Program
from tests.sessions.visit import PLAN, SMALL


async def begin(program: Program) -> Session:
    async with await connect_async(data=program.folder / "data", alone=True) as client:
        request = SMALL.model_copy(update={"on": "cloud", "time": 600})
        session = await client.start_session(request, PLAN, name="mine")
        await client.wait_session(session.id)
        return session


def test_a_session_is_extended(call: Caller, program: Program, service: object) -> None:
    session = asyncio.run(begin(program))
    first = datetime.fromisoformat(call.json("session", "extend", "mine", "30m")["ends"])
    second = datetime.fromisoformat(call.json("session", "extend", session.id)["ends"])
    assert second - first == timedelta(hours=1)
    assert call("session", "extend", "mine", "3h").startswith(f"{session.id} ends in ")
    assert call("session", "extend", "mine", "1h", code=2) == ""
    assert "later anyway" in call.err
    call("session", "stop", "mine")
