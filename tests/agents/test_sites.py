"""Machines behind NAT, as people start them: invited, joined, worked on, killed, and back with what ran on them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents.sites import HUB, PORT, Site, sites, wait

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(300)]

SMALL = ("--cpus", "0.25", "--memory", "64MiB")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with sites(tmp_path) as made:
        yield made


def connected(site: Site, name: str) -> bool:
    return bool(site.machines()[name]["connected"])


def reaches(network: int, host: str, port: int) -> bool:
    program = f"import socket; socket.create_connection(({host!r}, {port}), 2)"
    words = ["nsenter", "--net", "--target", str(network), "python3", "-c", program]
    return subprocess.run(words, capture_output=True, timeout=20).returncode == 0


def test_a_machine_behind_nat_works_and_comes_back(site: Site) -> None:
    service = site.serve()
    token = site.run("agent", "invite", "lab-pc", "--label", "room=4.1").strip()
    allowed = ("--cpus", "1", "--memory", "512MiB", "--users", "root", "--hours", "Mon-Sun", "--label", "a=b")
    machine = site.join("lab-pc", token, *allowed)
    wait(lambda: connected(site, "lab-pc"), machine.said)
    assert reaches(site.machine, HUB, PORT)
    assert not reaches(site.hub, "10.99.0.2", 22)
    assert token not in machine.said() + service.said()

    said = site.run("run", "--on", "machines", *SMALL, "--", "cat", "/proc/net/fib_trie")
    assert "10.99.0.2" in said, "it ran in the machine's own network"

    # A program that has left its session goes on while the agent is dead, and the instance with it.
    started = json.loads(site.run("instance", "start", "--on", "machines", *SMALL, "--json"))
    at = started["id"]
    site.run("instance", "ssh", at, "--", "sh", "-c", "setsid sleep 250 >/dev/null 2>&1 & echo $! > pid")
    machine.kill(signal.SIGKILL)
    died = time.monotonic()
    wait(lambda: not connected(site, "lab-pc"), seconds=20)
    assert time.monotonic() - died < 15
    again = site.join("lab-pc", "", "--hours", "Mon-Fri, Sat-Sun")
    wait(lambda: connected(site, "lab-pc"), again.said)
    now = site.machines()["lab-pc"]
    assert now["report"]["terms"] == "for root; Mon-Fri, Sat-Sun", "what was not said again holds"
    assert now["report"]["capacity"]["cpus"] == 1
    assert now["labels"] == {"room": "4.1", "owner.a": "b"}
    pid = int(site.run("instance", "ssh", at, "--", "cat", "pid"))
    os.kill(pid, 0)

    # The service is killed and returns: the machine dials again.
    service.kill(signal.SIGKILL)
    service = site.serve()
    wait(lambda: connected(site, "lab-pc"), again.said)
    assert int(site.run("instance", "ssh", at, "--", "cat", "pid")) == pid

    # Every packet vanishes: both sides know within 15 s, and find each other again.
    site.cut()
    cut = time.monotonic()
    wait(lambda: not connected(site, "lab-pc"), seconds=20)
    assert time.monotonic() - cut < 15
    assert "Nothing was heard for 12 s" in site.machines()["lab-pc"]["why_not"]
    shown = json.loads(site.run("instance", "show", at, "--json"))
    assert shown["state"] == "ready", shown
    site.heal()
    wait(lambda: connected(site, "lab-pc"), again.said)
    assert int(site.run("instance", "ssh", at, "--", "cat", "pid")) == pid

    # Removed, it ends what it has and leaves.
    site.run("agent", "remove", "lab-pc")
    assert again.process.wait(30) == 0, again.said()
    wait(lambda: not Path(f"/proc/{pid}").exists() or b"Z" in Path(f"/proc/{pid}/stat").read_bytes())
    assert not list((site.folder / "lab-pc" / "data" / "joined").glob("*/membership.json"))


def test_a_stolen_token_is_worth_nothing_elsewhere(site: Site) -> None:
    site.serve()
    token = site.run("agent", "invite", "lab-pc").strip()
    first = site.join("lab-pc", token)
    wait(lambda: connected(site, "lab-pc"), first.said)
    thief = site.join("thief", token)
    assert thief.process.wait(30) == 6
    assert "was used at" in thief.said()
    assert "somebody else has the token" in thief.said()
    assert connected(site, "lab-pc")
    bound = site.run("agent", "invite", "elsewhere", "--from", "198.51.100.0/24").strip()
    refused = site.join("elsewhere", bound)
    assert refused.process.wait(30) == 6
    assert "is not valid from 192.0.2.2" in refused.said()
    assert reaches(site.machine, HUB, PORT)
