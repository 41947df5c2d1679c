"""Bad days of machines that dial in, each with real processes in networks of their own: many, started anew, stolen."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridcloud.client import AsyncClient
from gridcloud.client.wire import Wire
from tests.agents.sites import ELSEWHERE, NAT, Site, processes_in, sites, wait
from tests.agents.test_sites import SMALL, connected

pytestmark = [pytest.mark.lab, pytest.mark.needs_root, pytest.mark.timeout(900)]

MANY = 50
PATIENCE = 400
"""Seconds for what takes a tenth of it on an idle computer."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with sites(tmp_path) as made:
        yield made


def test_a_service_is_killed_under_fifty_machines(site: Site) -> None:
    service = site.serve()
    tokens = asyncio.run(_invite(site, [f"m{number}" for number in range(MANY)]))
    machines = {name: site.join(name, token) for name, token in tokens.items()}
    wait(lambda: _connected(site) == MANY, lambda: f"{_connected(site)} are connected", PATIENCE)
    started = json.loads(site.run("instance", "start", "--on", "machines", *SMALL, "--json"))
    at = ("instance", "ssh", started["id"], "--")
    site.run(*at, "sh", "-c", "setsid sleep 800 >/dev/null 2>&1 & echo $! > pid")
    service.kill(signal.SIGKILL)
    site.serve()
    took = wait(lambda: _connected(site) == MANY, lambda: f"{_connected(site)} are connected", PATIENCE)
    print(f"{MANY} machines were connected again {took:.0f} s after their service answered")
    assert all(one.process.poll() is None for one in machines.values())
    pid = int(site.run(*at, "cat", "pid"))
    os.kill(pid, 0)
    site.run("instance", "stop", started["id"])


async def _invite(site: Site, names: list[str]) -> dict[str, str]:
    async with AsyncClient(Wire(socket=site.folder / "data" / "run" / "service.sock")) as client:
        return {name: (await client.agents.invite(name)).token for name in names}


def _connected(site: Site) -> int:
    return sum(bool(one["connected"]) for one in site.machines().values())


def test_a_machine_is_started_anew(site: Site) -> None:
    """What ran on it is gone and told so; it comes back by itself, and takes new work."""
    site.serve()
    machine = site.join("lab-pc", site.run("agent", "invite", "lab-pc").strip())
    wait(lambda: connected(site, "lab-pc"), machine.said, PATIENCE)
    started = json.loads(site.run("instance", "start", "--on", "machines", *SMALL, "--json"))
    site.run("instance", "ssh", started["id"], "--", "sh", "-c", "setsid sleep 800 >/dev/null 2>&1 & :")
    for pid in processes_in(site.machine):  # all at once, as when the power goes
        os.kill(pid, signal.SIGKILL)
    wait(lambda: not connected(site, "lab-pc"), seconds=60)
    assert _state(site, started["id"]) == "ready", "a machine that is away is waited for"
    again = site.join("lab-pc", before=_another_boot(site.folder))
    wait(lambda: connected(site, "lab-pc"), again.said, PATIENCE)
    wait(lambda: _state(site, started["id"]) in ("failed", "stopped"), seconds=PATIENCE)
    told = site.run("instance", "events", started["id"])
    assert "started" in told, told
    assert "10.99.0.2" in site.run("run", "--on", "machines", *SMALL, "--", "cat", "/proc/net/fib_trie")
    wait(lambda: not _running(site), lambda: f"{_running(site)} runs still", PATIENCE)


def _running(site: Site) -> list[str]:
    """Return what the machine said last of what runs on it: it does so every few seconds."""
    running: list[str] = site.machines()["lab-pc"]["report"]["running"]
    return running


def _another_boot(folder: Path) -> list[str]:
    """Return words that start a program which finds the computer to have started since."""
    boot = folder / "boot_id"
    boot.write_text(f"{uuid.uuid4()}\n")
    script = f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def _state(site: Site, instance: str) -> str:
    return str(json.loads(site.run("instance", "show", instance, "--json"))["state"])


def test_a_token_that_was_stolen_is_worth_nothing_on_another_machine(site: Site) -> None:
    site.serve()
    bound = site.run("agent", "invite", "lab-pc", "--from", f"{NAT}/32").strip()
    thief = site.join("thief", bound, network=site.elsewhere)
    assert thief.process.wait(60) == 6
    assert f"is not valid from {ELSEWHERE}" in thief.said()
    rightful = site.join("lab-pc", bound)  # which it did not use up
    wait(lambda: connected(site, "lab-pc"), rightful.said, PATIENCE)
    later = site.join("later", bound, network=site.elsewhere)
    assert later.process.wait(60) == 6
    begun = time.monotonic()
    free = site.run("agent", "invite", "other").strip()
    first = site.join("other", free, network=site.elsewhere)
    wait(lambda: connected(site, "other"), first.said, PATIENCE)
    robbed = site.join("robbed", free)
    assert robbed.process.wait(60) == 6
    assert "was used at" in robbed.said()
    assert ELSEWHERE in robbed.said(), "who has it is told, so that it can be removed"
    assert time.monotonic() - begun < PATIENCE
    assert {name for name, one in site.machines().items() if one["connected"]} == {"lab-pc", "other"}
