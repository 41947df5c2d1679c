"""A `gridcloud up` of one's own: its own ports and data folder, asked through its REST API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml

from gridcloud.settings import SettingsFile
from gridcloud.spawner.up import new_link

__all__ = ["NAVIGATE", "PROGRAM", "TOKEN", "UpHouse"]

NAVIGATE = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "none"}
"""What a browser says when a person opens a page."""

TOKEN = "t" * 40
"""Token of the tests' own service, which may do anything."""

PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from gridcloud.settings import SettingsFile
from gridcloud.spawner import up

asyncio.run(up.run_up(SettingsFile(Path(sys.argv[1])), Path(sys.argv[2]), lambda text: print(text, flush=True)))
"""

SERVICES = f"""
c.JupyterHub.services.append({{"name": "tests", "api_token": "{TOKEN}"}})
c.JupyterHub.load_roles.append({{"name": "tests", "services": ["tests"],
    "scopes": ["admin:users", "admin:servers", "access:servers", "admin:groups", "tokens", "read:hub"]}})
c.Authenticator.allow_all = True
"""


class UpHouse:
    """One `gridcloud up` in ``folder``."""

    def __init__(self, folder: Path, providers: dict[str, Any], **settings: Any) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.config = folder / "config.yaml"
        self.providers = providers
        extra = folder / "more.py"
        extra.write_text(SERVICES)
        self.settings: dict[str, Any] = {
            "hub": {"port": 0, "configuration": str(extra), "named_servers": 3},
            "limits": {"retry_first": 0.1},
            **settings,
        }
        self.before: tuple[str, ...] = ()
        """Words to run it by, as of unshare."""
        self.network = "127.0.0.1"
        """Its address where it runs in another network."""
        self.process: subprocess.Popen[bytes] | None = None
        self.output = folder / "output"
        self.write()

    def write(self) -> None:
        """Write the configuration."""
        self.config.write_text(yaml.safe_dump({"providers": self.providers, **self.settings}))

    def start(self, timeout: float = 200) -> None:
        """Start it and return when it is up, within so many seconds."""
        self.data.mkdir(mode=0o700, exist_ok=True)
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*self.before, sys.executable, "-c", PROGRAM, str(self.config), str(self.data)],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while "Press Ctrl-C" not in self.said():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self.said() + self.logs())
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it; return its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def said(self) -> str:
        """What it printed."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def logs(self) -> str:
        """The ends of its logs."""
        return "".join(
            f"\n== {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted((self.data / "logs").glob("*.log"))
        )

    @property
    def url(self) -> str:
        """Where the pages lie, without a slash at the end."""
        return f"http://{self.network}:{json.loads((self.data / 'hub' / 'ports.json').read_text())['public']}"

    @property
    def link(self) -> str:
        """The link to log in that it printed."""
        return next(word for word in self.said().split() if "login?token=" in word)

    def child(self, words: str) -> psutil.Process:
        """The child whose command line holds these words."""
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):  # one that has ended and is not yet waited for
                if words in " ".join(child.cmdline()):
                    return child
        raise LookupError(words)

    @asynccontextmanager
    async def api(self, token: str = TOKEN) -> AsyncIterator[aiohttp.ClientSession]:
        """Open a client of the REST API and, through the proxy, of the sessions."""
        timeout = aiohttp.ClientTimeout(total=90)
        headers = {"Authorization": f"token {token}"}
        connector = aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver())  # another keeps a thread
        async with aiohttp.ClientSession(
            self.url, headers=headers, timeout=timeout, connector=connector
        ) as client:
            yield client

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Open a browser of sorts, logged in by a new link as the user who runs the hub."""
        async with self.stranger() as client:
            link = new_link(SettingsFile(self.config), self.data).replace(
                "//127.0.0.1:", f"//{self.network}:"
            )
            async with client.get(link, headers=NAVIGATE) as answer:
                assert answer.status == 200, await answer.text()
                assert "token=" not in str(answer.url)
            yield client

    @asynccontextmanager
    async def stranger(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Open a browser of sorts that is not logged in."""
        # Closed after each answer: a browser may outlive the test that one page is of.
        connector = aiohttp.TCPConnector(resolver=aiohttp.ThreadedResolver(), force_close=True)
        jar = aiohttp.CookieJar(unsafe=True)  # it keeps cookies of addresses
        async with aiohttp.ClientSession(self.url, cookie_jar=jar, connector=connector) as client:
            yield client

    async def user(self, client: aiohttp.ClientSession, name: str) -> str:
        """Have a user; return an API token of theirs."""
        async with client.post(f"/hub/api/users/{name}") as answer:
            assert answer.status in (201, 409), await answer.text()
        async with client.post(f"/hub/api/users/{name}/tokens", json={}) as answer:
            assert answer.status == 201, await answer.text()
            return str((await answer.json())["token"])

    async def spawn(
        self,
        client: aiohttp.ClientSession,
        name: str,
        options: dict[str, Any] | None = None,
        *,
        patience: float = 60,
    ) -> str:
        """Start a user's session and return its path once it is ready, after at most ``patience`` seconds."""
        await self.user(client, name)
        async with client.post(f"/hub/api/users/{name}/server", json=options or {}) as answer:
            assert answer.status in (201, 202), await answer.text() + self.logs()
        for _ in range(int(patience * 10)):
            server = await self.server(client, name)
            if server.get("ready"):
                return str(server["url"])
            assert server.get("pending"), self.logs()
            await asyncio.sleep(0.1)
        raise TimeoutError(self.logs())

    async def server(self, client: aiohttp.ClientSession, name: str) -> dict[str, Any]:
        """What the hub says of a user's server; empty when there is none."""
        async with client.get(f"/hub/api/users/{name}?include_stopped_servers") as answer:
            servers: dict[str, dict[str, Any]] = (await answer.json())["servers"]
        server = servers.get("", {})
        return {} if server.get("stopped") else server

    async def stop_server(self, client: aiohttp.ClientSession, name: str) -> None:
        """Stop a user's session and return when the hub says so."""
        async with client.delete(f"/hub/api/users/{name}/server") as answer:
            assert answer.status in (202, 204), await answer.text()
        for _ in range(600):
            if not await self.server(client, name):
                return
            await asyncio.sleep(0.05)
        raise TimeoutError(self.logs())
