"""What a provider has to choose from, how it was chosen, what it costs; and a machine lost under a run."""

from __future__ import annotations

import json

from tests.cli.conftest import Caller, Program
from tests.cli.test_run import await_output


def test_what_a_provider_has_to_choose_from(call: Caller) -> None:
    told = call("provider", "discover", "cloud")
    assert "small" in told
    assert "2 CPUs, 4GiB" in told
    assert "0.5 EUR" in told
    assert "orbit" in told
    found = call.json("provider", "discover", "cloud")
    assert [one["id"] for one in found["shapes"]] == ["small", "gpu"]
    call("provider", "discover", "here", code=2)
    assert "nothing to choose from" in call.err


def test_a_cloud_whose_shapes_have_prices_is_not_shown_as_free(call: Caller) -> None:
    entry = {"driver": "ec2", "region": "eu-north-1", "image": "a", "allow_from": "192.0.2.0/24"}
    call.program.configure({"here": {"driver": "local"}, "amazon": entry})
    listed = {one["name"]: one["price"] for one in call.json("provider", "list")["providers"]}
    assert listed == {"here": "0", "amazon": ""}


def test_costs_are_shown(call: Caller, service: object) -> None:
    first = call("instance", "start", "--on", "cloud").strip()
    free = call("instance", "start", "--on", "here").strip()
    listed = call("instance", "list").splitlines()
    assert listed[0].rstrip().endswith("COST EUR")
    assert next(line for line in listed if first in line).rstrip().endswith("under 0.01")
    assert next(line for line in listed if free in line).rstrip().endswith("0")
    shown = call("instance", "show", first)
    assert "price     0.5 EUR per hour" in shown
    assert "cost      under 0.01 EUR" in shown
    call("instance", "stop", first, free)


def test_a_machine_lost_under_a_run_is_replaced_elsewhere(program: Program) -> None:
    near = {"driver": "fake", "price": 1}
    program.configure({"near": near, "far": near | {"price": 2}})
    script = "echo here; case $PWD in */near/*) sleep 60;; esac; pwd"
    process = program.begin("run", "--retry", "2", "--", "sh", "-c", script)
    await_output(process, b"here")
    state = program.folder / "data" / "providers" / "near" / "state.json"
    held = json.loads(state.read_text())
    (lost,) = held["instances"]
    # As the machine of a provider goes: all at once, with what runs on it.
    state.write_text(json.dumps(held | {"instances": {}}))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    assert b"/far/" in out
    assert b"Beginning again" in err
    first, second = program.instances()
    assert (first["id"], first["reason"]) == (lost, "lost")
    assert second["offer"]["provider"] == "far"


def test_a_command_is_run_before_the_end(program: Program) -> None:
    kept = program.folder / "kept"
    done = program.run(
        "run", "--on", "here", "--before-end", f"cp result '{kept}'", "--", "sh", "-c", "echo 42 >result"
    )
    assert kept.read_text() == "42\n"
    assert b"ended with exit code 0" not in done.stdout
