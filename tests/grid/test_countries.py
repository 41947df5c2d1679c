"""Institutions in networks of their own: the scene that is shown, and its bad days. Real processes, NAT, no UDP."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.agents.sites import ROOT, wait
from tests.grid.countries import Country, Institution, countries

pytestmark = [pytest.mark.lab, pytest.mark.needs_root, pytest.mark.timeout(700)]

SMALL = "--cpus 0.25 --memory 64MiB"
PATIENCE = 180
"""Seconds for what takes a few on an idle computer."""
TTL = "180s"
"""More than a service takes to start again, on a computer that does other work besides."""


@pytest.mark.parametrize("how", ["", "--delay 100 --loss 2"])
def test_the_scene_that_is_shown(how: str) -> None:
    """A session moves from under a running cell, warned and saved, and the books agree: the script ends with 1 where
    they do not, or something is left."""
    # Asked to end where it takes too long: killed, it could clean nothing up.
    shown = subprocess.Popen(
        [sys.executable, "-m", "scripts.institutions", *how.split()],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = shown.communicate(timeout=520)
    except subprocess.TimeoutExpired:
        shown.terminate()
        said, _ = shown.communicate(timeout=70)
    assert shown.returncode == 0, said
    assert "left: no instance, no process, no network" in said


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Country]:
    """The three, joined; Aarhus has no machine of its own, and Bergen lends."""
    sections: dict[str, dict[str, Any]] = {
        "aarhus": {"providers": {"partners": {"driver": "peer"}}, "limits": {"offers": 30}},
        "bergen": _lends(TTL),
    }
    with countries(tmp_path_factory.mktemp("countries"), sections) as made:
        made.join()
        yield made
        for one in made.all:  # by those that borrowed first: what is lent is stopped by its lender
            _stop_all(one)


def _lends(ttl: str) -> dict[str, Any]:
    return {
        "providers": {"cloud": {"driver": "local", "allow_root": True, "cpus": 2, "memory": "1GiB"}},
        "lending": {
            "providers": ["cloud"],
            "trust_partners": True,
            "ttl": ttl,
            "grace": "10s",
            "tolerance": "1s",
        },
    }


@pytest.fixture(autouse=True)
def _nothing_is_borrowed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give back what a test borrowed, however it went."""
    yield
    if "country" in request.fixturenames:
        country: Country = request.getfixturevalue("country")
        _stop_all(country.aarhus)
        wait(lambda: not _held(country.bergen), lambda: str(_held(country.bergen)), PATIENCE)
        _agree(country, but=frozenset(country.lost))


@pytest.fixture
def instance(country: Country) -> str:
    """An instance of Aarhus's on a machine of Bergen's."""
    return _start(country.aarhus)


def _start(one: Institution) -> str:
    return one.run(f"instance start {SMALL}").split()[0]


def _stop_all(one: Institution) -> None:
    for instance in one.ask("instances")["instances"]:
        with contextlib.suppress(AssertionError):  # it ended meanwhile
            one.run("instance stop", instance["id"])


def _state(one: Institution, instance: str) -> str:
    return str(one.ask(f"instances/{instance}")["state"])


def _held(one: Institution) -> list[dict[str, Any]]:
    return list(one.ask("grid/leases")["leases"])


def _works(country: Country, instance: str, seconds: float = 45) -> bool:
    """Whether a command runs on the machine, in Bergen's network."""
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        return "10.2.0.2" in country.aarhus.run(f"instance ssh {instance} -- ip -br -4 addr", timeout=seconds)
    return False


def _agree(country: Country, *, but: frozenset[str] = frozenset()) -> None:
    """Wait until both books say the same, and all is agreed but what is named."""

    def books(one: Institution) -> list[tuple[str, str, str]]:
        records = one.ask("grid/ledger")["records"]
        return sorted((entry["lease"], str(entry["amount"]), entry["standing"]) for entry in records)

    def agree() -> bool:
        bought, sold = books(country.aarhus), books(country.bergen)
        return bought == sold and all(standing == "agreed" or lease in but for lease, _, standing in sold)

    wait(agree, lambda: f"{books(country.aarhus)}\n{books(country.bergen)}", PATIENCE)


def test_a_partition_healed_within_the_ttl_is_not_felt(country: Country, instance: str) -> None:
    assert _works(country, instance)
    country.cut(country.bergen)
    time.sleep(12)
    country.heal(country.bergen)
    wait(lambda: _works(country, instance), seconds=PATIENCE)
    assert _state(country.aarhus, instance) == "ready"
    assert [one["lease"] for one in _held(country.bergen)] == [f"{instance}-0"]


def test_a_partition_beyond_the_ttl_ends_the_lease_at_both(country: Country) -> None:
    bergen = country.bergen
    bergen.configure(bergen.sections | _lends("15s"))
    try:
        instance = _start(country.aarhus)
        assert _works(country, instance)
        country.cut(bergen)
        try:
            begun = time.monotonic()
            # Bergen's books first: once it is free there, nobody may use it at Aarhus.
            while _held(bergen):
                assert time.monotonic() - begun < PATIENCE
                time.sleep(0.1)
            assert not any(one["state"] in ("held", "warned") for one in _held(country.aarhus))
            wait(lambda: _state(country.aarhus, instance) in ("stopped", "failed"), seconds=PATIENCE)
        finally:
            country.heal(bergen)
        wait(lambda: not _live(bergen), lambda: str(_live(bergen)), PATIENCE)
        wait(lambda: not _held(country.aarhus), lambda: str(_held(country.aarhus)), PATIENCE)
    finally:
        bergen.configure(bergen.sections | _lends(TTL))


def _live(one: Institution) -> list[str]:
    return [instance["id"] for instance in one.ask("instances")["instances"]]


@pytest.mark.keeps("the services of all tests here, begun anew")
def test_a_relay_that_dies_and_returns_carries_the_lease_on(country: Country, instance: str) -> None:
    assert _works(country, instance)
    country.cork.kill()
    assert not _works(country, instance, 15)
    country.cork.start()
    country.cork.wait()
    wait(lambda: _works(country, instance), seconds=PATIENCE)
    assert _state(country.aarhus, instance) == "ready"
    assert [one["lease"] for one in _held(country.bergen)] == [f"{instance}-0"]


@pytest.mark.keeps("the services of all tests here, begun anew")
@pytest.mark.parametrize("whose", ["aarhus", "bergen"])
def test_a_broker_killed_while_it_is_used_takes_it_up_again(
    country: Country, instance: str, whose: str
) -> None:
    victim = getattr(country, whose)
    victim.kill()
    victim.start()
    victim.wait()
    wait(lambda: _works(country, instance), seconds=PATIENCE)
    assert _state(country.aarhus, instance) == "ready"
    assert [one["lease"] for one in _held(country.bergen)] == [f"{instance}-0"]


@pytest.mark.keeps("the services of all tests here, begun anew")
@pytest.mark.parametrize("whose", ["aarhus", "bergen"])
@pytest.mark.parametrize("state", ["requested", "starting"])
def test_a_broker_killed_while_it_begins_makes_no_second(country: Country, whose: str, state: str) -> None:
    """Whatever came of it, there is one machine at most, and it goes with its instance."""
    victim, aarhus, bergen = getattr(country, whose), country.aarhus, country.bergen
    known = {one["id"] for one in aarhus.ask("instances?all=true")["instances"]}
    starting = aarhus.begin(f"instance start {SMALL}")

    def reached() -> bool:
        made = [one for one in aarhus.ask("instances?all=true")["instances"] if one["id"] not in known]
        return any(state == "requested" or one["state"] not in ("requested", "creating") for one in made)

    wait(reached, seconds=PATIENCE)
    victim.kill()
    starting.kill()
    starting.communicate()
    victim.start()
    victim.wait()
    (instance,) = [
        one["id"] for one in aarhus.ask("instances?all=true")["instances"] if one["id"] not in known
    ]
    wait(lambda: _state(aarhus, instance) in ("ready", "failed"), lambda: _state(aarhus, instance), PATIENCE)
    assert len(_live(bergen)) <= 1
    _stop_all(aarhus)
    wait(lambda: not _held(bergen) and not _live(bergen), lambda: str(_held(bergen)), PATIENCE)


@pytest.mark.keeps("the services of all tests here, begun anew")
@pytest.mark.parametrize("whose", ["aarhus", "bergen"])
def test_a_broker_killed_while_it_ends_leaves_nothing(country: Country, instance: str, whose: str) -> None:
    victim = getattr(country, whose)
    ending = country.aarhus.begin(f"instance stop {instance}")
    wait(lambda: _state(country.aarhus, instance) != "ready", seconds=PATIENCE)
    victim.kill()
    ending.kill()
    ending.communicate()
    victim.start()
    victim.wait()
    wait(lambda: _state(country.aarhus, instance) == "stopped", seconds=PATIENCE)
    wait(lambda: not _live(country.bergen), lambda: str(_live(country.bergen)), PATIENCE)


@pytest.mark.keeps("the services of all tests here, begun anew")
def test_a_borrower_whose_disk_is_lost_holds_nothing(country: Country) -> None:
    """What it had before comes back from a copy; of the lease it knows nothing. Bergen is free again after the TTL, or
    as soon as it is told, and both books dispute the lease in the same words."""
    aarhus, bergen = country.aarhus, country.bergen
    aarhus.kill()
    copy = aarhus.folder / "copy"
    shutil.copytree(aarhus.data, copy, ignore=shutil.ignore_patterns("run"))
    aarhus.start()
    aarhus.wait()
    instance = _start(aarhus)
    assert _works(country, instance)
    country.lost.add(f"{instance}-0")
    aarhus.kill()
    shutil.rmtree(aarhus.data)
    copy.rename(aarhus.data)
    aarhus.start()
    aarhus.wait()
    wait(lambda: not _held(bergen) and not _live(bergen), lambda: str(_held(bergen)), PATIENCE + 180)
    assert not aarhus.ask("instances")["instances"]
    _agree(country, but=frozenset(country.lost))
    entries = {entry["lease"]: entry["standing"] for entry in aarhus.ask("grid/ledger")["records"]}
    assert entries[f"{instance}-0"] == "disputed"
