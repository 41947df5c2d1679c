"""Spawn to ready, beside JupyterHub's SimpleLocalProcessSpawner on the same hub in the same run.

    python -m benchmarks.spawn [--rounds 5] [--together 10] [--json FILE]

Two hubs are up at once, started by the same `gridcloud up` with the same configuration, but for one line: the peer's
spawner class is `SimpleLocalProcessSpawner`. They take turns, a round each, so that what else the machine does meets
both. Ready is when the session answers through the proxy. Each spawned once before, so that all code is compiled.

- wall: the median of the rounds in a row, and the time until the last of those started together answers, the better
  of two tries;
- CPU: user and system seconds of the server's process tree until ready, and of everything that the hub consists of
  (hub, proxy, service, fork server and servers) over the spawn;
- memory: of those started together, ten seconds after all are ready: USS and PSS of the server's process tree. A
  forked server shares pages with the fork server, so "per session" counts the fork server too: PSS of all servers and
  of the fork server, divided by the servers. The peer's is PSS of all servers, divided likewise.

Ours run within limits, one CPU each in a row and an equal share of the computer together; the peer has none.

Goal: at least 4x quicker and 2x less memory per session.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml

from benchmarks.report import run
from gridcloud.client import connect_async

TOKEN = "b" * 40

CROWDS = 2
"""How often each starts many at once; the better time counts, for both."""

UP = """
import asyncio, sys
from pathlib import Path
from gridcloud.settings import SettingsFile
from gridcloud.spawner.up import run_up

asyncio.run(run_up(SettingsFile(Path(sys.argv[1])), Path(sys.argv[2]), lambda text: print(text, flush=True)))
"""

HUB = f"""
c.JupyterHub.services.append({{"name": "benchmark", "api_token": "{TOKEN}"}})
c.JupyterHub.load_roles.append({{"name": "benchmark", "services": ["benchmark"],
    "scopes": ["admin:users", "admin:servers", "access:servers", "read:hub"]}})
c.Authenticator.allow_all = True
"""

PEER = """
c.JupyterHub.spawner_class = "jupyterhub.spawner.SimpleLocalProcessSpawner"
c.SimpleLocalProcessSpawner.home_dir_template = "{homes}/{{username}}"
c.Spawner.cmd = ["{programs}/jupyterhub-singleuser"]
c.Spawner.args = ["--ServerApp.allow_root=True"]
"""

ACCOUNT = {"allow_root": True} if os.geteuid() == 0 else {"share_account": True}


SETTLE = 10.0
"""Seconds until a server that answers has done what it does once: jupyter-lsp asks npm for its folder, say."""


class Hub:
    """One `gridcloud up`, ours or the peer's."""

    def __init__(self, folder: Path, *, peer: bool) -> None:
        self.folder, self.peer = folder, peer
        self.data = folder / "data"
        self.data.mkdir(mode=0o700)
        more = folder / "more.py"
        more.write_text(
            HUB + (PEER.format(homes=folder, programs=Path(sys.executable).parent) if peer else "")
        )
        here = {"driver": "local", **ACCOUNT}
        hub = {"port": 0, "configuration": str(more)}
        (folder / "config.yaml").write_text(yaml.safe_dump({"providers": {"here": here}, "hub": hub}))
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        """Start it and return when it is up."""
        words = [sys.executable, "-c", UP, str(self.folder / "config.yaml"), str(self.data)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "is up:" in line:
                self.url = line.split()[-1].rstrip("/")
                return
        raise SystemExit("gridcloud did not come up")

    def stop(self) -> None:
        """End it with all its sessions."""
        if self._process is not None:
            known = self.tree()
            self._process.send_signal(signal.SIGINT)
            self._process.communicate(timeout=90)
            for process in psutil.wait_procs(known, timeout=0)[1]:
                process.terminate()  # a server of the peer's, when something went wrong

    def tree(self) -> list[psutil.Process]:
        """Hub, proxy, service, fork server, and the servers."""
        assert self._process is not None
        return [
            psutil.Process(self._process.pid),
            *psutil.Process(self._process.pid).children(recursive=True),
        ]

    def fork_server(self) -> psutil.Process | None:
        """The process that servers are forked from; the peer uses none."""
        for process in self.tree():
            if not self.peer and "gridcloud.connections.forkserver" in process.cmdline():
                return process
        return None

    async def server(self, user: str) -> list[psutil.Process]:
        """A user's server with the processes it consists of."""
        if self.peer:
            return [one for one in self.tree() if _environment(one).get("JUPYTERHUB_USER") == user]
        else:
            async with await connect_async(data=self.data, alone=True) as gridcloud:
                session = next(one for one in await gridcloud.sessions(owner=user) if one.program)
            assert session.program is not None
            server = psutil.Process(session.program.pid)
            keeper = server.parent()  # it waits for the server, to tell its exit code
            found = [server, *server.children(recursive=True)]
            if keeper is not None and keeper.pid != 1 and keeper != self.fork_server():
                found.append(keeper)
        return found

    @contextlib.asynccontextmanager
    async def client(self) -> Any:
        """Open a client of the hub and, through its proxy, of the servers."""
        timeout = aiohttp.ClientTimeout(total=180)
        headers = {"Authorization": f"token {TOKEN}"}
        async with aiohttp.ClientSession(self.url, headers=headers, timeout=timeout) as client:
            yield client

    async def spawn(
        self, client: aiohttp.ClientSession, user: str, cpus: float = 1, memory: str = "512MiB"
    ) -> float:
        """Start a user's server; return the seconds until it answered."""
        async with client.post(f"/hub/api/users/{user}") as answer:
            await answer.read()
        asked = {"cpus": cpus, "memory": memory}  # limits that the peer does not have
        begin = time.perf_counter()
        async with client.post(f"/hub/api/users/{user}/server", json=asked) as answer:
            if answer.status not in (201, 202):
                raise RuntimeError(f"{user}: {await answer.text()}")
            pending = answer.status == 202
        if pending:
            async with client.get(f"/hub/api/users/{user}/server/progress") as answer:
                await answer.read()  # it ends when the server is ready
        async with client.get(f"/user/{user}/api/status") as answer:
            if answer.status != 200:
                raise RuntimeError(f"{user}: {answer.status} {await answer.text()}")
        return time.perf_counter() - begin

    async def end(self, client: aiohttp.ClientSession, user: str) -> None:
        """Stop a user's server and return when it is gone."""
        async with client.delete(f"/hub/api/users/{user}/server") as answer:
            await answer.read()
        while True:
            async with client.get(f"/hub/api/users/{user}") as answer:
                if not (await answer.json())["servers"]:
                    return
            await asyncio.sleep(0.1)


def measure(rounds: int, together: int) -> dict[str, Any]:
    """Return what both took, and the ratios."""
    folder = Path(tempfile.mkdtemp(prefix="gcb-"))
    hubs = {}
    try:
        for name in ("peer", "ours"):
            (folder / name).mkdir()
            hubs[name] = Hub(folder / name, peer=name == "peer")
            hubs[name].start()
        return asyncio.run(_measure(hubs, rounds, together))
    finally:
        for hub in hubs.values():
            hub.stop()
        shutil.rmtree(folder)


async def _measure(hubs: dict[str, Hub], rounds: int, together: int) -> dict[str, Any]:
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in hubs}
    for number in range(rounds + 1):
        for name, hub in hubs.items():
            row = await _one(hub, f"row{number}")
            if number:  # the first is to compile what is not compiled yet
                rows[name].append(row)
    crowds: dict[str, list[dict[str, float]]] = {name: [] for name in hubs}
    for number in range(CROWDS):
        for name, hub in hubs.items():
            crowds[name].append(await _many(hub, together, number))
    found: dict[str, Any] = {}
    for name in hubs:
        found |= {f"{name}_{key}": min(crowd[key] for crowd in crowds[name]) for key in crowds[name][0]}
        for key in rows[name][0]:
            found[f"{name}_{key}"] = statistics.median(row[key] for row in rows[name])

    def ratio(key: str) -> float:
        return float(found[f"peer_{key}"] / found[f"ours_{key}"])

    return {
        "rounds": rounds,
        "together": together,
        **dict(sorted(found.items(), reverse=True)),
        "quicker": ratio("seconds"),
        "quicker_together": ratio("seconds_together"),
        "less_cpu": ratio("cpu_seconds"),
        "less_cpu_with_hub": ratio("cpu_seconds_with_hub"),
        "less_memory": ratio("mib_per_session"),
        "goals": {"quicker": "at least 4", "quicker_together": "at least 4", "less_memory": "at least 2"},
    }


async def _one(hub: Hub, user: str) -> dict[str, float]:
    """Spawn one; return the seconds it took, and those of the CPU."""
    async with hub.client() as client:
        before = _by_process(hub.tree())
        wall = await hub.spawn(client, user)
        total = _growth(before, hub.tree())
        own = _seconds(await hub.server(user))
        await hub.end(client, user)
    return {"seconds": wall, "cpu_seconds": own, "cpu_seconds_with_hub": total}


async def _many(hub: Hub, together: int, number: int) -> dict[str, float]:
    """Spawn many at once; return the seconds until the last answered, and the memory of each."""
    users = [f"crowd{number}-{one}" for one in range(together)]
    cpus = (os.cpu_count() or 1) / together
    async with hub.client() as client:
        walls = await asyncio.gather(*(hub.spawn(client, user, cpus) for user in users))
        await asyncio.sleep(SETTLE)
        uss, pss = _memory([one for user in users for one in await hub.server(user)])
        source = hub.fork_server()
        shared = _memory([source] if source else [])[1]
        await asyncio.gather(*(hub.end(client, user) for user in users))
    return {
        "seconds_together": max(walls),
        "uss_mib": uss / together / 2**20,
        "pss_mib": pss / together / 2**20,
        "mib_per_session": (pss + shared) / together / 2**20,
    }


def _memory(processes: Iterable[psutil.Process]) -> tuple[int, int]:
    """Return USS and PSS of processes."""
    uss = pss = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = process.memory_full_info()
            uss, pss = uss + memory.uss, pss + memory.pss
    return uss, pss


def _seconds(processes: Iterable[psutil.Process]) -> float:
    """User and system seconds, with those of children that have ended."""
    return sum(_by_process(processes).values())


def _by_process(processes: Iterable[psutil.Process]) -> dict[psutil.Process, float]:
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found[process] = float(sum(process.cpu_times()[:4]))
    return found


def _growth(before: dict[psutil.Process, float], now: list[psutil.Process]) -> float:
    return sum(seconds - before.get(process, 0) for process, seconds in _by_process(now).items())


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


if __name__ == "__main__":
    run(__doc__, measure, rounds=5, together=10)
