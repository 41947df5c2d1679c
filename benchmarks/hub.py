"""The hub of an institution, beside JupyterHub's own SimpleLocalProcessSpawner and plain `ssh` in the same run.

    python -m benchmarks.hub [--together 100] [--rounds 5] [--megabytes 200] [--idle 1000] [--json FILE]

- a crowd: so many sessions asked for at once on this computer. Seconds until each answers through the proxy (p50, p95),
  and how many never did. The peer is the same hub, but for its spawner class.
- a restart: a page of each session of the crowd is open (a websocket) when the hub is killed with -9. Seconds until it
  knows all sessions as ready again, and the websockets that were closed, whoever closed them.
- far: spawn to ready through the `ssh` provider, to an sshd on loopback, beside `ssh -L host jupyter-labhub` by hand to
  the same one; medians of the rounds.
- bytes: a file of so many megabytes from either server: through the hub's proxy and our tunnel, and straight through
  `ssh -L`, with the same cipher, in turns; the best round of each.
- idle: memory of the service, which holds the tunnels, with so many sessions through the `ssh` provider that do
  nothing; their programs are small ones, which only answer.

A part whose number is 0 is left out: `--together 0 --idle 0` measures the bytes and the far spawns alone.

Goals: no failure, no websocket lost, bytes at least 0.8 of ssh's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml

from benchmarks.report import run
from benchmarks.spawn import TOKEN, Hub
from gridcloud.client import connect_async
from gridcloud.instances.model import Request
from gridcloud.sessions.model import Plan, State
from gridcloud.testing.sshd import SSHServer

CIPHER = "aes128-gcm@openssh.com"
SETTLE = 8.0
"""Seconds in which a websocket that was cut is noticed, by its heartbeat every two."""

# Answers every request, as an idle server would.
TINY = r"""
use IO::Socket::UNIX;
$door = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 5) or die;
while ($guest = $door->accept) {
    while (<$guest>) { last if /^\r?$/ }
    print $guest "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    close $guest;
}
"""


class FarHub(Hub):
    """A hub whose sessions are on an SSH host."""

    def __init__(self, folder: Path, server: SSHServer) -> None:
        super().__init__(folder, peer=False)
        host = {"host": "127.0.0.1", "port": server.port, "user": server.user, "host_keys": server.host_key}
        far = {
            "driver": "ssh",
            "hosts": [{**host, "cpus": 10_000, "memory": "10TiB"}],
            "key": f"file:{server.folder / 'user_key'}",
            "accounts": "login",
            "directory": str(folder / "there"),
        }
        # Nobody's login has our programs on its path.
        session = {"command": [str(Path(sys.executable).parent / "jupyterhub-singleuser")]}
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config |= {"providers": {"far": far}, "session": session}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))


def measure(together: int, rounds: int, megabytes: int, idle: int) -> dict[str, Any]:
    """Return what all of it took."""
    folder = Path(tempfile.mkdtemp(prefix="gcb-"))
    found: dict[str, Any] = {"together": together, "rounds": rounds, "megabytes": megabytes, "idle": idle}
    try:
        for name in ("peer", "ours") if together else ():
            (folder / name).mkdir()
            crowd = _with(Hub(folder / name, peer=name == "peer"), lambda hub: _crowd(hub, together))
            found |= {f"{name}_{key}": value for key, value in crowd.items()}
        for name in ("sshd", "far"):
            (folder / name).mkdir()
        with SSHServer(folder / "sshd") as server:
            hub = FarHub(folder / "far", server)
            found |= _with(hub, lambda one: _far(one, server, rounds, megabytes, idle))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found["throughput_ratio"] = found["ours_megabytes_per_second"] / found["ssh_megabytes_per_second"]
    goals = {
        "ours_failures": "under 1",
        "ours_websockets_lost": "under 1",
        "throughput_ratio": "at least 0.8",
    }
    return {**found, "goals": {name: goal for name, goal in goals.items() if name in found}}


def _with(hub: Any, work: Callable[[Any], Any]) -> dict[str, Any]:
    """Do something with a hub that is up, and end it."""
    try:
        hub.start()
        found: dict[str, Any] = asyncio.run(work(hub))
        return found
    finally:
        hub.stop()


# Many at once, and a hub that dies under them ------------------------------------------------------------------


async def _crowd(hub: Hub, together: int) -> dict[str, float]:
    async with _patient(hub) as client:
        await hub.spawn(client, "first")  # so that all code is compiled
        await hub.end(client, "first")
        users = [f"crowd{number}" for number in range(together)]
        # An equal share each: more would be refused, as it should be.
        cpus = (os.cpu_count() or 1) / together
        memory = f"{int(0.8 * psutil.virtual_memory().total / together / 2**20)}MiB"
        walls = await asyncio.gather(*(_try(hub, client, user, cpus, memory) for user in users))
        seconds = sorted(wall for wall in walls if wall is not None)
        alive = [user for user, wall in zip(users, walls, strict=True) if wall is not None]
        found = {
            "failures": float(together - len(seconds)),
            "seconds_p50": _share(seconds, 0.5),
            "seconds_p95": _share(seconds, 0.95),
        }
        found |= await _restart(hub, client, alive)
        await asyncio.gather(*(hub.end(client, user) for user in users))
    return found


async def _try(hub: Hub, client: aiohttp.ClientSession, user: str, cpus: float, memory: str) -> float | None:
    """Return the seconds that a spawn took; None where it failed."""
    try:
        return await hub.spawn(client, user, cpus, memory)
    except (RuntimeError, aiohttp.ClientError, TimeoutError):
        return None


async def _restart(hub: Hub, client: aiohttp.ClientSession, users: list[str]) -> dict[str, float]:
    """Kill the hub; return how long sessions were not known, and how many open pages lost their websocket."""
    async with contextlib.AsyncExitStack() as stack:
        readers = []
        for user in users:
            path = f"/user/{user}/api/events/subscribe"
            page = await stack.enter_async_context(client.ws_connect(path, heartbeat=2))
            readers.append(asyncio.create_task(_read(page)))
        begin = time.perf_counter()
        _child(hub, "gridcloud.spawner.hub").kill()
        while not set(users) <= await _ready(client):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)
        seconds = time.perf_counter() - begin
        await asyncio.sleep(SETTLE)
        lost = sum(reader.done() for reader in readers)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    return {"restart_seconds": seconds, "websockets_lost": float(lost)}


async def _read(page: aiohttp.ClientWebSocketResponse) -> None:
    async for _ in page:
        pass


async def _ready(client: aiohttp.ClientSession) -> set[str]:
    """Return the users whose session the hub knows to be ready; nobody while it does not answer."""
    found: set[str] = set()
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        while True:
            where = {"state": "ready", "limit": "200", "offset": str(len(found))}
            async with client.get("/hub/api/users", params=where) as answer:
                names = {one["name"] for one in await answer.json()} if answer.status == 200 else set()
            if not names - found:
                break
            found |= names
    return found


# Through SSH ---------------------------------------------------------------------------------------------------


async def _far(hub: FarHub, server: SSHServer, rounds: int, megabytes: int, idle: int) -> dict[str, float]:
    async with _patient(hub) as client:
        ours, plain = [], []
        for number in range(rounds + 1):
            ours.append(await hub.spawn(client, "far"))
            if number < rounds:
                await hub.end(client, "far")
            async with _plain(hub, server, client) as by_hand:
                plain.append(by_hand.seconds)
                if number == rounds:
                    rates = await _bytes(hub, client, by_hand, rounds, megabytes)
        await hub.end(client, "far")
    memory = await _idle(hub, idle) if idle else {}
    spawns = {"ours_far": ours, "ssh_far": plain}
    return {
        # The first of each is to compile what is not compiled yet.
        **{f"{name}_seconds": statistics.median(walls[1:]) for name, walls in spawns.items()},
        **rates,
        **memory,
    }


class ByHand:
    """A server that was started by `ssh`, reached by its forwarding."""

    def __init__(self, port: int, folder: Path, seconds: float) -> None:
        self.url = f"http://127.0.0.1:{port}/user/plain/"
        self.folder = folder
        self.seconds = seconds


@contextlib.asynccontextmanager
async def _plain(hub: FarHub, server: SSHServer, client: aiohttp.ClientSession) -> AsyncIterator[ByHand]:
    here, there = _free_port(), _free_port()
    folder = hub.folder / f"plain-{there}"
    folder.mkdir()
    environment = {
        "JUPYTERHUB_API_TOKEN": TOKEN,
        "JUPYTERHUB_API_URL": f"{hub.url}/hub/api",
        "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-plain",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": '["access:servers"]',
        "JUPYTERHUB_SERVICE_PREFIX": "/user/plain/",
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{there}/user/plain/",
        "JUPYTERHUB_USER": "plain",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    lines = [f"export {name}='{value}'" for name, value in environment.items()]
    program = Path(sys.executable).parent / "jupyter-labhub"
    lines += [f"cd {folder}", f"exec {program} --ServerApp.allow_root=True"]
    script = folder / "start"
    script.touch(0o600)
    script.write_text("\n".join(lines) + "\n")
    begin = time.perf_counter()
    forward = f"{here}:127.0.0.1:{there}"
    process = subprocess.Popen(  # noqa: ASYNC220 - over in a millisecond
        # A terminal, so that the server ends with the connection.
        ["ssh", "-tt", "-L", forward, *_options(server), f"{server.user}@127.0.0.1", f"sh {script}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        found = ByHand(here, folder, 0)
        while not await _answers(client, f"{found.url}api/status"):
            if process.poll() is not None or time.perf_counter() - begin > 120:
                raise SystemExit("the server started by ssh does not answer")
            await asyncio.sleep(0.02)
        found.seconds = time.perf_counter() - begin
        yield found
    finally:
        process.terminate()
        process.wait()


async def _answers(client: aiohttp.ClientSession, url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        async with client.get(url) as answer:
            return answer.status == 200
    return False


def _options(server: SSHServer) -> list[str]:
    known = server.folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{server.port} {server.host_key}\n")
    options = {
        "Ciphers": CIPHER,
        "IdentityFile": str(server.folder / "user_key"),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": str(known),
        "BatchMode": "yes",
        "ExitOnForwardFailure": "yes",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return ["-F", "none", "-p", str(server.port), *words]


async def _bytes(
    hub: FarHub, client: aiohttp.ClientSession, by_hand: ByHand, rounds: int, megabytes: int
) -> dict[str, float]:
    """Return the rates at which both servers give a file, in MB/s."""
    async with await connect_async(data=hub.data, alone=True) as gridcloud:
        [session] = [one for one in await gridcloud.sessions(owner="far") if one.program]
    assert session.program is not None
    home = Path(psutil.Process(session.program.pid).cwd())  # the host is this computer
    urls = {"ssh": f"{by_hand.url}files/", "ours": f"{hub.url}/user/far/files/"}
    name = f"gridcloud-benchmark-{os.getpid()}"
    files = [home / name, by_hand.folder / name]
    rates: dict[str, list[float]] = {who: [] for who in urls}
    try:
        for file in files:
            with file.open("wb") as target:
                for _ in range(megabytes):
                    target.write(os.urandom(1_000_000))
        for _ in range(rounds):
            for who, url in urls.items():
                begin = time.perf_counter()
                size = await _get(client, url + name)
                if size != megabytes * 1_000_000:
                    raise SystemExit(f"{who}: {size} bytes came of {megabytes} MB")
                rates[who].append(megabytes / (time.perf_counter() - begin))
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    return {f"{who}_megabytes_per_second": max(found) for who, found in rates.items()}


async def _get(client: aiohttp.ClientSession, url: str) -> int:
    size = 0
    async with client.get(url) as answer:
        answer.raise_for_status()
        async for chunk in answer.content.iter_chunked(1 << 20):
            size += len(chunk)
    return size


# Sessions that do nothing --------------------------------------------------------------------------------------


async def _idle(hub: FarHub, count: int) -> dict[str, float]:
    """Return the service's memory with so many sessions more, and what each of them takes of it."""
    plan = Plan(words=("perl", "-e", TINY), listening=("{socket}",), probe="/")
    request = Request(cpus=0.01, memory=32 << 20, on="far")
    room = asyncio.Semaphore(20)
    service = _child(hub, "gridcloud.service")
    async with await connect_async(data=hub.data, alone=True) as gridcloud:

        async def start() -> str:
            async with room:
                session = await gridcloud.start_session(request, plan, owner="far")
                await gridcloud.wait_session(session.id)
                return session.id

        first = await start()
        before = service.memory_full_info().uss
        ids = [first, *await asyncio.gather(*(start() for _ in range(count - 1)))]
        await asyncio.sleep(SETTLE)
        after = service.memory_full_info().uss
        for id_ in ids:
            await gridcloud.stop_session(id_)
        left = set(ids)
        while left:
            states = {one.id: one.state for one in await gridcloud.sessions(owner="far")}
            left = {id_ for id_ in left if states.get(id_) not in (None, State.ENDED, State.FAILED)}
            await asyncio.sleep(0.2)
    each = (after - before) / max(1, count - 1)
    return {"idle_service_megabytes": after / 1e6, "idle_kilobytes_each": each / 1e3}


# ---------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _patient(hub: Hub) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a client that waits as long as a hub takes, with a connection for each of a crowd."""
    async with aiohttp.ClientSession(
        hub.url,
        headers={"Authorization": f"token {TOKEN}"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
        connector=aiohttp.TCPConnector(limit=0),
    ) as client:
        yield client


def _child(hub: Hub, module: str) -> psutil.Process:
    for process in hub.tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            if module in process.cmdline():
                return process
    raise LookupError(module)


def _share(seconds: list[float], share: float) -> float:
    """Return the time within which this share of the spawns was ready; infinity where none was."""
    return seconds[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else float("inf")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    run(__doc__, measure, together=100, rounds=5, megabytes=200, idle=1000)
