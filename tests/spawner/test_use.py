"""Whether a session is used: as its own server tells, asked with the token that only it and its account have."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gridcloud.client import connect_async
from gridcloud.connections import programs
from gridcloud.connections.driver import Command
from gridcloud.connections.local import LocalConnection
from gridcloud.connections.model import LocalAddress
from gridcloud.sessions.use import find_token, jupyter_use
from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import UpHouse


async def test_the_token_of_a_program_is_found_again_by_its_account(tmp_path: Path) -> None:
    connection = await LocalConnection.open(LocalAddress(directory=str(tmp_path)))
    try:
        command = Command(("sleep", "60"), {"JUPYTERHUB_API_TOKEN": "a secret = of its own"})
        program = await programs.launch(connection, command, name="one", folder=str(tmp_path / "one"))
        assert await find_token(connection, program) == "a secret = of its own"
        await programs.stop(connection, program)
        assert await find_token(connection, program) == ""
    finally:
        await connection.close()


async def test_a_kernel_that_only_sleeps_is_busy_and_an_open_page_is_no_use(
    house: UpHouse, tmp_path: Path
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    async with house.api() as client:
        path = await house.spawn(client, "una")
        service = await connect_async(data=house.data, config=house.config, alone=True)
        try:
            (session,) = [one for one in await service.sessions(all=False) if one.name == "una"]
        finally:
            await service.close()
        assert session.endpoint
        token = ""

        async def use(now: datetime | None = None) -> str | None:
            assert session.endpoint
            return await jupyter_use(session.endpoint, session.plan.probe, token, now)

        async with open_kernel(client, path) as kernel:
            token = (await kernel.run("import os; print(os.environ['JUPYTERHUB_API_TOKEN'])")).strip()
            enough = tmp_path / "enough"
            wait = f"import os, time\nwhile not os.path.exists({str(enough)!r}): time.sleep(0.05)"
            running = asyncio.create_task(kernel.run(wait))
            async with asyncio.timeout(60):
                while await use(later) != "a kernel is busy":  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.05)
            enough.touch()
            await running
            assert await use() == "somebody works there"
            assert await use(later) == "", "its page is still open"
        status = f"{path}api/status?no_track_activity=1"
        before = await (await client.get(status)).json()
        await asyncio.sleep(1)
        await use()
        after = await (await client.get(status)).json()
        assert before["last_activity"] == after["last_activity"], "asking is no use"
        assert await jupyter_use(session.endpoint, session.plan.probe, "wrong") is None
        await house.stop_server(client, "una")
        assert await use() is None
