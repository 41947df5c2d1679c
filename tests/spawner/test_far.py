"""Sessions on machines of others: all their traffic, the hub's API included, goes through the connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gridcloud.client import connect_async
from gridcloud.spawner.lab import lab_files
from tests import houses
from tests.labs.containers import SESSION_IMAGE, Engine
from tests.labs.machines import Machine
from tests.services import make_certificate
from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import UpHouse

EXTENSION = "gridcloud-notice/static/remoteEntry.3.js"

REACH = """
import json, os, urllib.request
token = os.environ["JUPYTERHUB_API_TOKEN"]
url = os.environ["JUPYTERHUB_API_URL"] + "/user"
request = urllib.request.Request(url, headers={"Authorization": "token " + token})
print(json.load(urllib.request.urlopen(request))["name"], os.getcwd())
"""


async def check(house: UpHouse) -> None:
    """Run a cell that reaches the hub, and see that nothing is left."""
    async with house.api() as client:
        path = await house.spawn(client, "ada", {"cpus": 0.5, "memory": "512MiB"})
        async with open_kernel(client, path) as kernel:
            assert (await kernel.run(REACH)).startswith("ada /")
            async with client.get(f"{path}lab/extensions/{EXTENSION}") as answer:
                assert await answer.text() == lab_files()[EXTENSION]
            listeners = await kernel.run("print(open('/proc/net/tcp').read())")
        await house.stop_server(client, "ada")
    for line in listeners.splitlines()[1:]:
        words = line.split()
        if words[3:4] == ["0A"] and not words[1].endswith(":0016"):  # what listens, save sshd
            assert words[1].startswith(("0100007F", "0B00007F")), listeners


@pytest.mark.needs_root
async def test_on_a_machine_reached_by_ssh(make_house: Callable[..., UpHouse], ssh_machine: Machine) -> None:
    house = make_house({"lab": houses.machines(ssh_machine)})
    house.start()
    try:
        await check(house)
    finally:
        house.stop()


@pytest.mark.needs_root
async def test_in_a_container_without_a_network(
    make_house: Callable[..., UpHouse], podman_engine: Engine
) -> None:
    house = make_house({"box": houses.containers(podman_engine, SESSION_IMAGE)})
    house.start()
    try:
        await check(house)
    finally:
        house.stop()


@pytest.mark.lab
@pytest.mark.needs_root
async def test_in_a_container_of_a_machine_that_dialled_in(
    make_house: Callable[..., UpHouse], podman_engine: Engine, tmp_path: Path
) -> None:
    certificate, key = make_certificate(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    door = {"host": "127.0.0.1", "port": port, "certificate": str(certificate), "key": str(key)}
    house = make_house({"machines": {"driver": "agent"}}, service=door)
    house.start()
    async with await connect_async(data=house.data, alone=True) as client:
        token = (await client.agents.invite("lab-pc")).token
    words = ["--ca", str(certificate), "--containers-only", "--image", SESSION_IMAGE, "--as-root"]
    log = tmp_path / "log"
    with log.open("wb") as said:
        machine = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gridcloud", "agent", "join", f"https://localhost:{port}", *words, "--token-file", "-"),
            stdin=asyncio.subprocess.PIPE,
            stdout=said,
            stderr=said,
            env=os.environ | {"DOCKER_HOST": podman_engine.url, "GRIDCLOUD_DATA": str(tmp_path / "machine")},
        )
    try:
        assert machine.stdin is not None
        machine.stdin.write(token.encode() + b"\n")
        machine.stdin.close()
        async with asyncio.timeout(60), await connect_async(data=house.data, alone=True) as client:
            while not (await client.agents.get("lab-pc")).connected:
                assert machine.returncode is None, log.read_text()
                await asyncio.sleep(0.1)
        await check(house)
    finally:
        with contextlib.suppress(ProcessLookupError):
            machine.send_signal(signal.SIGINT)
        await machine.wait()
        house.stop()
