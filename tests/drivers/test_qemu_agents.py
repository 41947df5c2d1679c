"""A virtual machine that nobody reaches from outside joins by itself at its first boot: a session, and commands."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.agents.machines import until
from tests.houses import ended, link
from tests.joined import Agents
from tests.labs.agent_packages import HOST, agent_of, serve_agent
from tests.labs.virtual_machines import image_entry, missing_for_virtual_machines, prepare_image
from tests.services import Service, free_port, make_certificate, open_service
from tests.sessions.visit import fetch, home, over, plan_back

from gridcloud.connections.model import SSHAddress
from gridcloud.drivers.instances.qemu import QEMUDriver
from gridcloud.drivers.instances.qemu_settings import QEMUSettings
from gridcloud.instances.driver import JoinedMachine
from gridcloud.instances.model import Handle, Observation, Phase, Request, Spec
from gridcloud.testing.instances import driver_context, read_output

pytestmark = [pytest.mark.needs_root]

SMALL = Request(cpus=1, memory=64 << 20)


@pytest.fixture
def fetching(tmp_path: Path) -> Iterator[str]:
    """How a machine fetches its agent."""
    if missing := missing_for_virtual_machines():
        pytest.skip(f"NOT TESTED: {missing}")
    with serve_agent(tmp_path / "packages") as lines:
        yield lines


async def test_a_machine_that_dials_is_waited_for_and_has_no_port(tmp_path: Path) -> None:
    if missing := missing_for_virtual_machines():
        pytest.skip(f"NOT TESTED: {missing}")
    words = ["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "empty.qcow2"), "64M"]
    await asyncio.to_thread(subprocess.run, words, check=True)
    settings = {
        "driver": "qemu",
        "images": {"empty": {"source": str(tmp_path / "empty.qcow2")}},
        "directory": str(tmp_path / "host"),
        "outbound": True,
        "agent": {"url": "https://hub.example"},
    }
    agents = Agents()
    context = dataclasses.replace(driver_context(tmp_path / "provider"), agents=agents)
    driver = QEMUDriver(QEMUSettings.model_validate(settings), context)
    (offer,) = await driver.offers(SMALL)
    spec = Spec(id="t-dials", owner="ada", request=SMALL, offer=offer)
    handle = await driver.create(spec)
    try:
        async with asyncio.timeout(60):
            while not (seen := await look(driver, spec, handle)).detail.startswith("it runs"):
                assert seen.phase is Phase.PENDING, seen
                await asyncio.sleep(0.1)
        assert seen.detail == "it runs, and its agent has not connected yet"
        assert await driver.create(spec) == handle
        assert agents.count == 1
        assert "hostfwd" not in words_of_machines(tmp_path)
        joined = JoinedMachine(spec.id, {}, "ssh-ed25519 AAAA", "/s", instance_of=context.provider)
        agents.joined.append(joined)
        seen = await look(driver, spec, handle)
        assert seen.phase is Phase.RUNNING
        assert isinstance(seen.address, SSHAddress)
        assert (seen.address.socket, seen.address.principal) == ("/s", "gridcloud-t-dials")
    finally:
        await driver.destroy(spec.id, handle)
        await driver.close()
    assert agents.forgotten[-1] == spec.id


async def look(driver: QEMUDriver, spec: Spec, handle: Handle) -> Observation:
    return (await driver.observe({spec.id: handle}))[spec.id]


@pytest.mark.lab
@pytest.mark.timeout(1500)
async def test_joins_at_its_first_boot_and_serves_a_session_and_commands(
    tmp_path: Path, fetching: str
) -> None:
    certificate, key = make_certificate(tmp_path, "hub", HOST)
    port = free_port()
    door = {"host": "127.0.0.1", "port": port, "certificate": str(certificate), "key": str(key)}
    entry: dict[str, Any] = {
        "driver": "qemu",
        "images": {"lab": image_entry(prepare_image())},
        "directory": str(tmp_path / "host"),
        "outbound": True,
        "agent": agent_of(port, certificate),
        "boot_script": fetching,
    }
    request = Request(cpus=2, memory=1 << 30)
    async with (
        open_service(tmp_path, {"machines": entry}, service=door, limits={"start": 1200}) as service,
        home() as back,
    ):
        house = service.house
        session = await house.sessions.submit("ada", request, plan_back(back))
        async with asyncio.timeout(1300):
            session = await house.sessions.wait(session.id)
        assert await fetch(session) == b"here"
        assert await fetch(session, "/back") == b"from home"
        instance = await house.instances.records.get(session.instance_id)
        said = await run(service, tmp_path, "instance", "ssh", instance.id, "--", "hostname")
        assert said == f"{instance.id}\n"
        connection = await link(house, instance)
        assert await read_output(connection, "id", "-un") == "gridcloud\n"
        # Nothing of the host leads into it, and nothing is left of what let it in.
        assert "hostfwd" not in words_of_machines(tmp_path)
        assert isinstance(house.providers.get("machines"), QEMUDriver)
        left = await read_output(connection, "sudo", "ls", "/var/lib/gridcloud-agent")
        assert set(left.split()) == {"ca.pem", "state", "state.lock"}
        kept = next((tmp_path / "data" / "providers").glob("*/invited/*")).read_text()
        finding = ["sudo", "grep", "-rlF", kept, "/var/lib/cloud", "/run", "/etc"]
        places = (await read_output(connection, "sh", "-c", f"{' '.join(finding)} || :")).split()
        for place in places:  # root's alone, and used
            assert await read_output(connection, "sh", "-c", f"cat {place} 2>/dev/null || echo no") == "no\n"
        again = await run(
            service, tmp_path, "agent", "bootstrap", f"https://localhost:{port}", code=6, input=kept
        )
        assert not again
        await house.sessions.stop(session.id)
        await over(house, session)
        await ended(house, instance.id)
        await until(lambda: not words_of_machines(tmp_path))
        assert await house.reconciliation.examine() == []
        assert not list((tmp_path / "data" / "providers").glob("*/invited/*"))


async def run(service: Service, folder: Path, *words: str, code: int = 0, input: str = "") -> str:
    """Run a command of gridcloud; return what it printed."""
    if input:
        words = (*words, "--token-file", "-", "--as-root", "--state", f"{folder}/again", "--ca")
        words = (*words, str(folder / "hub.crt"))
    environment = {
        **os.environ,
        "GRIDCLOUD_DATA": str(folder / "data"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gridcloud", *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    out, complaint = await process.communicate(input.encode())
    assert process.returncode == code, complaint.decode()
    return out.decode()


def words_of_machines(folder: Path) -> str:
    """Return the command lines of QEMU in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            if words.startswith(b"qemu-") and (entry / "cwd").readlink().is_relative_to(folder):
                found.append(words.replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it ended meanwhile
    return "\n".join(found)
