"""``gridcloud cluster``, as people and scripts call it."""

from __future__ import annotations

import json
import stat

import pytest

from tests.cli.conftest import PROVIDERS, Caller, Program

CLUSTERS = {"pretend": {"driver": "fake", "nodes": 8}}


@pytest.fixture(autouse=True)
def _configured(program: Program) -> None:
    program.configure(PROVIDERS, clusters=CLUSTERS)


def test_a_cluster_from_start_to_stop(call: Caller, program: Program) -> None:
    made = call.json("cluster", "start", "lab", "--nodes", "3", "--on", "pretend")
    assert (made["state"], made["nodes"], made["nodes_there"]) == ("ready", 3, 3)
    assert "lab" in call("cluster", "list")
    scaled = call.json("cluster", "scale", "lab", "--nodes", "5")
    assert (scaled["state"], scaled["nodes"]) == ("ready", 5)
    assert call.json("cluster", "scale", "lab", "--nodes", "5")["nodes"] == 5
    told = call("cluster", "events", "lab")
    assert "From 3 nodes to 5." in told
    assert "It has 5 nodes." in told
    shown = call("cluster", "show", "lab")
    assert "pretend" in shown
    assert "provider add NAME --driver kubernetes kubeconfig=/" in shown
    stopped = call.json("cluster", "stop", "lab")
    assert stopped["state"] == "stopped"
    assert call.json("cluster", "list")["clusters"] == []
    assert [one["id"] for one in call.json("cluster", "list", "--all")["clusters"]] == [made["id"]]
    assert not list((program.folder / "data" / "clusters").glob("*/*.kubeconfig"))
    call("doctor")


def test_access_is_written_for_oneself_alone(call: Caller, program: Program) -> None:
    call("cluster", "start", "lab")
    file = program.folder / "access.yaml"
    call("cluster", "access", "lab", "--output", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["kind"] == "Config"
    call("cluster", "access", "lab", "--output", str(file), code=2)
    assert "is there already" in call.err
    call("cluster", "stop", "lab")


def test_what_is_refused_is_said(call: Caller) -> None:
    call("cluster", "start", "lab", "--nodes", "9", code=4)
    assert "allows 8 nodes" in call.err
    assert call.json("cluster", "list")["clusters"] == []
    call("cluster", "start", "lab", "--nodes", "4")
    call("cluster", "start", "lab", code=2)
    assert "There is a cluster lab already" in call.err
    call("cluster", "scale", "lab", "--nodes", "9", code=4)
    assert "It keeps 4 nodes" in call.err
    assert call.json("cluster", "show", "lab")["state"] == "ready"
    call("cluster", "start", "other", "--on", "nowhere", code=3)
    call("cluster", "start", "o th er", code=2)
    call("cluster", "start", "other", "--memory", "much", code=2)
    call("cluster", "show", "other", code=3)
    call("cluster", "stop", "lab")


def test_check(call: Caller, program: Program) -> None:
    assert call("cluster", "check") == "ok     pretend: fake: its clusters are lines in a file\n"
    call("cluster", "check", "nowhere", code=3)
    program.configure(PROVIDERS)
    call("cluster", "start", "lab", code=3)
    assert "No provider of clusters is configured" in call.err


def test_a_provider_that_is_gone_is_forgotten(call: Caller, program: Program) -> None:
    call("cluster", "start", "lab")
    call("cluster", "forget", "pretend", code=2)
    assert "Take pretend out of 'clusters:'" in call.err
    program.configure(PROVIDERS)
    call("cluster", "forget", "pretend", code=2)
    stop = call.err.split("Stop them first: gridcloud ")[1].split()
    call(*stop)
    call("cluster", "forget", "pretend")
    assert "Forgot pretend." in call.err
    call("cluster", "forget", "pretend", code=3)
    assert "remembered" in call.err


def test_what_it_costs_is_shown_and_counted(call: Caller, program: Program) -> None:
    priced = {"pretend": {"driver": "fake", "nodes": 8, "price": 0.5, "prices": {"*": 2}}}
    program.configure(PROVIDERS, clusters=priced, budgets=[{"name": "all", "money": 100, "period": "year"}])
    shown = call("cluster", "start", "lab", "--nodes", "3", "--time", "2h")
    assert "6.5 EUR per hour" in shown
    assert "standard" in shown
    call("cluster", "scale", "lab", "--nodes", "4")
    assert "8.5 EUR per hour" in call("cluster", "show", "lab")
    assert "at 6.5 EUR per hour." in call("cluster", "events", "lab")
    assert "4 × standard" in call("budget", "ledger")
    call("cluster", "start", "other", "--nodes", "2", "--time", "200h", code=4)
    assert "The budget all is 100.00 EUR" in call.err
    call("cluster", "stop", "lab")
    call("cluster", "start", "other", "--project", "wind", "--time", "1h")
    call("cluster", "stop", "other")
