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
    call("stack", "destroy", "lab")
    assert call.json("instance", "list")["instances"] == []
    call("stack", "show", "lab", code=3)
    assert call.json("stack", "list")["stacks"] == []
    assert [one["name"] for one in call.json("stack", "list", "--all")["stacks"]] == ["lab"]


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
