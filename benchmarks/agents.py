"""Files and commands through an agent, beside OpenSSH straight to a server on the same computer, in one run.

    python -m benchmarks.agents [--mebibytes 64] [--rounds 5] [--commands 30] [--json FILE]

The service is this process and the agent one of its own, which dialled it over TLS; the instance is a share of this
computer. OpenSSH's `sftp` logs in for each file; for commands it keeps one connection (ControlMaster), as the service
does. They go in turns; of files the best round counts, of commands the median. Goal: half of OpenSSH's rate, both ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from tests.grid.offices import until
from tests.houses import link
from tests.services import Service, open_service

from benchmarks.report import run
from benchmarks.ssh_transfer import openssh
from gridcloud import connections
from gridcloud.connections.driver import Command, Connection
from gridcloud.instances.model import FINAL
from gridcloud.testing.sshd import SSHServer

ROOT = Path(__file__).parent.parent


def measure(mebibytes: int, rounds: int, commands: int) -> dict[str, Any]:
    """Return the rates in megabytes per second, the medians of a command in seconds, and their ratios."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="gcb", dir=base))
    try:
        (folder / "source").write_bytes(os.urandom(mebibytes << 20))
        (folder / "sshd").mkdir()
        with SSHServer(folder / "sshd") as server:
            found = asyncio.run(_measure(folder, server, rounds, commands))
    finally:
        shutil.rmtree(folder)
    return {
        "mebibytes": mebibytes,
        **found,
        "put_ratio": found["put_agent_megabytes_per_second"] / found["put_openssh_megabytes_per_second"],
        "get_ratio": found["get_agent_megabytes_per_second"] / found["get_openssh_megabytes_per_second"],
        "command_ratio": found["command_agent_seconds"] / found["command_openssh_seconds"],
        "goals": {"put_ratio": "at least 0.5", "get_ratio": "at least 0.5"},
    }


async def _measure(folder: Path, server: SSHServer, rounds: int, commands: int) -> dict[str, float]:
    source, back = folder / "source", folder / "back"
    size = source.stat().st_size
    seconds: dict[str, list[float]] = {}

    async def timed(name: str, work: Any) -> None:
        begin = time.perf_counter()
        await work
        seconds.setdefault(name, []).append(time.perf_counter() - begin)

    async with open_service(folder, {"machines": {"driver": "agent"}}) as service, _agent(folder, service):
        # What is written into memory-backed folders counts as the share's memory.
        instance = await service.obtain(on="machines", memory=4 * size)
        connection = await link(service.house, instance)
        for _ in range(rounds):
            there = folder / "sshd" / "there"
            for path in (there, back):
                path.unlink(missing_ok=True)
            await timed("put openssh", asyncio.to_thread(openssh, server, "put", source, there))
            await timed("put agent", connection.put(source, "there"))
            await timed("get openssh", asyncio.to_thread(openssh, server, "get", there, back))
            back.unlink()
            await timed("get agent", connection.get("there", back))
            if back.stat().st_size != size:
                raise SystemExit(f"{back.stat().st_size} bytes came of {size}")
        plain = await connections.open(server.address(), server.credentials())
        try:
            with _master(server) as words:
                for _ in range(commands):
                    await timed("command openssh", asyncio.to_thread(subprocess.run, words, check=True))
                    await timed("command own client", _true(plain))
                    await timed("command agent", _true(connection))
        finally:
            await plain.close()
        await service.house.instances.stop(instance.id)
        async with asyncio.timeout(60):
            async for now in service.house.instances.records.follow(instance.id):
                if now.state in FINAL:
                    break
    rates = {name: size / min(those) / 1e6 for name, those in seconds.items() if "command" not in name}
    return {
        **{f"{name.replace(' ', '_')}_megabytes_per_second": rate for name, rate in rates.items()},
        **{
            f"{name.replace(' ', '_')}_seconds": median(those)
            for name, those in seconds.items()
            if "command" in name
        },
    }


async def _true(connection: Connection) -> None:
    done = await connections.run(connection, Command(("true",)))
    if done.code:
        raise SystemExit(f"'true' ended with {done.code}")


@contextlib.contextmanager
def _master(server: SSHServer) -> Iterator[list[str]]:
    """Give OpenSSH's words for a command over a connection that is open already."""
    at = [
        *("-F", "none", "-i", str(server.folder / "user_key"), "-p", str(server.port)),
        *("-o", f"UserKnownHostsFile={server.folder / 'known_hosts'}", "-o", "BatchMode=yes"),
        *("-o", f"ControlPath={server.folder / 'master'}"),
        f"{server.user}@127.0.0.1",
    ]
    with subprocess.Popen(["ssh", "-o", "ControlMaster=yes", "-N", *at]) as master:
        try:
            while not (server.folder / "master").exists() and master.poll() is None:
                time.sleep(0.02)
            yield ["ssh", *at, "true"]
        finally:
            master.terminate()


@contextlib.asynccontextmanager
async def _agent(folder: Path, service: Service) -> AsyncIterator[None]:
    """Have a machine be connected, as people do it."""
    _, token = await service.house.agents.invite("lab-pc", "admin")
    home = folder / "home"
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = kept | {
        "HOME": str(home),
        "GRIDCLOUD_DATA": str(home / "data"),
        "PYTHONPATH": str(ROOT / "src"),
    }
    words = ["agent", "join", service.url, "--ca", str(service.certificate), "--token-file", "-"]
    if os.geteuid() == 0:
        words.append("--as-root")
    with (folder / "agent.log").open("wb") as log:
        program = _start(words, environment, log)
    assert program.stdin is not None
    program.stdin.write(f"{token.reveal()}\n".encode())
    program.stdin.close()
    try:
        await until(lambda: "lab-pc" in service.house.switchboard.present() or program.poll() is not None, 90)
        if program.poll() is not None:
            raise SystemExit((folder / "agent.log").read_text())
        yield
    finally:
        program.terminate()
        await asyncio.to_thread(program.wait, 30)


def _start(words: list[str], environment: dict[str, str], log: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gridcloud", *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)


if __name__ == "__main__":
    run(__doc__, measure, mebibytes=64, rounds=5, commands=30)
