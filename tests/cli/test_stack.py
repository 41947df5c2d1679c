"""``gridcloud stack``, as people and scripts call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Caller

FILE = """
plans:
  small: {request: {cpus: 1, memory: 1GiB, on: cloud}}
instances:
  node[01-02]: {plan: small}
pools:
  front: [node01]
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "stack.yaml"
    path.write_text(FILE)
    return str(path)


def test_a_stack_from_definition_to_nothing(call: Caller, file: str) -> None:
    stack_id = call("stack", "create", "lab", "--file", file).strip()
    assert "0 of 2" in call("stack", "list")
    call("stack", "deploy", "lab")
    shown = call.json("stack", "show", "lab")
    assert (shown["id"], shown["state"]) == (stack_id, "deployed")
    assert len(call.json("instance", "list")["instances"]) == 2
    assert "deployed: All instances are ready." in call("stack", "events", "lab")
    call("stack", "deploy", "lab")
    assert call.err == ""
    call("stack", "destroy", "lab")
    assert "gone: All its instances have ended." in call.err
    assert "deploying" not in call.err
    assert call.err.endswith("lab is gone, with its 2 instances.\n")
    assert call.json("instance", "list")["instances"] == []
    call("stack", "show", "lab", code=3)
    assert call.json("stack", "list")["stacks"] == []
    assert [one["name"] for one in call.json("stack", "list", "--all")["stacks"]] == ["lab"]


def test_one_that_was_never_deployed_goes(call: Caller, file: str) -> None:
    call("stack", "create", "lab", "--file", file)
    call("stack", "destroy", "lab")
    assert call.err.splitlines() == ["gone: It ends, as was asked.", "lab is gone, it had no instances."]


def test_a_stack_that_is_in_its_own_way_is_told_so(call: Caller, tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text("instances: {'n[1-4]': {request: {cpus: 2, memory: 1GiB, on: cloud}}}")
    shapes = [{"name": "small", "cpus": 2, "memory": "4GiB", "count": 2}]
    call.program.configure({"cloud": {"driver": "fake", "shapes": shapes}})
    call("stack", "create", "large", "--file", str(path))
    call("stack", "deploy", "large", code=4)
    told = call.err.splitlines()[-1]
    assert "2 of 4 instances could not be had: n" in told
    assert told.count("Nothing is free") == 1
    assert "Others of this stack took what was free: n" in told
    assert "(2 CPUs, 4GiB) on cloud. All 4 together ask for 8 CPUs and 4GiB of memory." in told


def test_found_by_name(call: Caller) -> None:
    call("stack", "create", "s1")
    call("stack", "create", "other")
    assert [one["name"] for one in call.json("stack", "list", "--regex", ".*s1.*")["stacks"]] == ["s1"]
    call("stack", "create", "s1", code=2)
    assert "There is a stack s1 already" in call.err
    call("stack", "update", "s1", "--name", "s2")
    call("stack", "show", "s1", code=3)
    call("stack", "list", "--regex", "(", code=2)


def test_what_does_not_fit_leaves_nothing(call: Caller, tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text("instances:\n  n[1-3]: {request: {cpus: 1, on: cloud}}\n  g: {request: {gpus: 9}}\n")
    call("stack", "create", "large", "-f", str(path))
    call("stack", "deploy", "large", code=4)
    assert "1 of 4 instances could not be had: g:" in call.err
    assert call.json("instance", "list")["instances"] == []
    assert call.json("stack", "show", "large")["state"] == "defined"


def test_a_provider_that_is_not_there_is_named_and_nothing_begun(call: Caller, tmp_path: Path) -> None:
    path = tmp_path / "stack.yaml"
    path.write_text(
        "instances: {a: {provider: {name: libvirt_provider}, settings: {kwargs: {num_vcpus: 1}}}, b: {}}"
    )
    call("stack", "create", "s", "-f", str(path))
    call("stack", "deploy", "s", code=3)
    assert "libvirt_provider" in call.err
    assert call.json("instance", "list", "--all")["instances"] == []


def test_pools(call: Caller, file: str) -> None:
    call("stack", "create", "lab", "-f", file)
    call("stack", "pool", "create", "lab", "p")
    call("stack", "pool", "create", "lab", "p", code=2)
    call("stack", "pool", "add", "lab", "p", "node02")
    call("stack", "pool", "add", "lab", "p", "node02", code=2)
    assert "already" in call.err
    call("stack", "pool", "add", "lab", "p", "node09", code=2)
    assert "there is no instance node09" in call.err
    call("stack", "pool", "remove", "lab", "p", "node02")
    shown = json.loads(call("--json", "stack", "pool", "remove", "lab", "front", "node01"))
    assert shown["pools"] == {"front": [], "p": []}
    call("stack", "pool", "delete", "lab", "p")
    call("stack", "pool", "delete", "lab", "p", code=2)
