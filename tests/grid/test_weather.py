"""Institutions a hundred milliseconds apart, where two packets of a hundred are lost, and one has a proxy alone."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.agents.sites import wait
from tests.grid.countries import Country, Institution, countries
from tests.weather import Weather

pytestmark = [pytest.mark.lab, pytest.mark.needs_root, pytest.mark.timeout(500)]

FAR = Weather(delay=0.05, loss=0.01)
"""On each of two cables between any two of them."""
SMALL = "--cpus 0.25 --memory 64MiB"
PATIENCE = 180
TERMS = {"trust_partners": True, "ttl": "60s", "grace": "10s", "tolerance": "1s"}
BOTH: dict[str, Any] = {
    "providers": {
        "cloud": {"driver": "local", "allow_root": True, "cpus": 1, "memory": "512MiB"},
        "partners": {"driver": "peer"},
    },
    "lending": {"providers": ["cloud"], **TERMS},
    "limits": {"offers": 30},
}


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Country]:
    """The three, joined; Bergen's service reaches a proxy and nothing else. Aarhus and Bergen lend to each other."""
    sections = {"aarhus": BOTH, "bergen": BOTH}
    folder = tmp_path_factory.mktemp("far")
    with countries(folder, sections, weather=FAR, proxied=["bergen"]) as made:
        made.join()
        yield made


@pytest.mark.parametrize(("borrower", "lender"), [("aarhus", "bergen"), ("bergen", "aarhus")])
def test_lent_through_delay_loss_and_a_proxy(country: Country, borrower: str, lender: str) -> None:
    at, of = getattr(country, borrower), getattr(country, lender)
    instance = at.run(f"instance start {SMALL} --on partners").split()[0]
    try:
        # One command after another: each is a connection of its own through relay and proxy.
        for number in range(3):
            wait(
                lambda number=number: _said(at, instance, f"echo {number}") == f"{number}\n", seconds=PATIENCE
            )
        assert [one["lease"] for one in of.ask("grid/leases")["leases"]] == [f"{instance}-0"]
        assert f"10.{1 + (lender == 'bergen')}.0.2" in _said(at, instance, "ip -br -4 addr")
        # What is large arrives whole.
        assert _said(at, instance, "head -c 300000 /dev/zero | sha256sum | cut -c1-12") == "886715e4051e\n"
        assert len(_said(at, instance, "head -c 300000 /dev/zero | tr '\\0' x")) == 300000
    finally:
        at.run(f"instance stop {instance}")
    wait(lambda: not of.ask("grid/leases")["leases"], seconds=PATIENCE)
    wait(lambda: not of.ask("instances")["instances"], seconds=PATIENCE)
    wait(lambda: _books(at) == _books(of), lambda: f"{_books(at)}\n{_books(of)}", PATIENCE)
    assert {standing for *_, standing in _books(of)} == {"agreed"}


def _said(one: Institution, instance: str, command: str) -> str:
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        return one.run(f"instance ssh {instance} -- sh -c", command, timeout=60)
    return ""


def _books(one: Institution) -> list[tuple[str, str, str]]:
    records = one.ask("grid/ledger")["records"]
    return sorted((entry["lease"], str(entry["amount"]), entry["standing"]) for entry in records)
