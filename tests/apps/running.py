"""An application as a session's server would run it, without the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil

from gridcloud.settings.apps import AppSettings
from gridcloud.spawner.apps import app_files

__all__ = ["Running", "run_app"]

PREFIX = "/user/ada/"

SERVER = """
import os, subprocess, sys
subprocess.run([sys.executable, "-I", *sys.argv[1:], str(os.getpid())], check=False)
"""
"""Stands for the session's server: it starts an application's program, and is killed."""


class Running:
    """An application behind its socket."""

    def __init__(self, folder: Path, server: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self.server = server
        self.socket = folder / "sockets" / "thing"

    def processes(self) -> list[psutil.Process]:
        """Return all of its processes, wherever they hang: they have its mark."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("GRIDCLOUD_APP") == str(self.socket):
                    found.append(process)
        return found

    async def get(self, path: str = "/", data: bytes | None = None) -> tuple[int, str]:
        """Ask it for a page; return the status and the text."""
        connector = aiohttp.UnixConnector(str(self.socket))
        async with aiohttp.ClientSession(connector=connector) as client:
            how = client.get if data is None else client.post
            async with how(f"http://session{path}", data=data) as answer:
                return answer.status, await answer.text()

    async def gone(self) -> None:
        """Return once nothing is left of it."""
        async with asyncio.timeout(30):
            while self.processes() or self.socket.parent.exists():  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.05)


@asynccontextmanager
async def run_app(app: AppSettings, **environment: str) -> AsyncIterator[Running]:
    """Run an application until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="gca-"))  # short: sockets lie below it
    for path, text in app_files({"thing": app}).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVER, str(folder / "apps" / "app.py"), str(folder / "apps" / "apps.json")),
        *("thing", str(folder / "sockets" / "thing")),
        env={**os.environ, "JUPYTERHUB_SERVICE_PREFIX": PREFIX, **environment},
        start_new_session=True,
    )
    running = Running(folder, server)
    try:
        async with asyncio.timeout(60):
            while True:
                assert server.returncode is None
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_unix_connection(running.socket)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        await server.wait()
        await running.gone()
        shutil.rmtree(folder)
