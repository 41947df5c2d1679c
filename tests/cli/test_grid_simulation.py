"""``gridcloud grid simulate``: figures for people and scripts, and what is wrong with a scenario."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from tests.cli.conftest import Caller, Program

SMALL = "{members: 5, signatures: counted, hours: 0.5, quiet: 30, rooms: [1, 3]}"


def test_a_simulation_for_people(call: Caller) -> None:
    _write(call, "small.yaml", SMALL)
    lines = call("grid", "simulate", "small.yaml").splitlines()
    assert lines[0].split() == ["PER", "MEMBER", "ON", "AVERAGE", "small"]
    figures = {" ".join(line.split("  ")[0].split()) for line in lines if not line.startswith(" ")}
    assert {"institutions", "all known after", "bytes an hour", "fairness (Jain's index)"} <= figures
    assert lines[-1].split() == ["leases", "in", "use", "by", "two", "0"]


def test_scenarios_stand_side_by_side(call: Caller) -> None:
    _write(call, "small.yaml", SMALL)
    _write(call, "alone.yaml", SMALL.replace("hours: 0.5", "hours: 0"))
    lines = call("grid", "simulate", "small.yaml", "alone.yaml").splitlines()
    assert lines[0].split()[-2:] == ["small", "alone"]
    assert lines[1].split() == ["institutions", "5", "5"]
    assert lines[-1].split()[-1] == "0", "nothing is said of lending where there was none"


def test_a_simulation_for_scripts(call: Caller, program: Program) -> None:
    _write(call, "small.yaml", SMALL)
    found = call.json("grid", "simulate", "small.yaml")["simulations"]
    assert [one["name"] for one in found] == ["small.yaml"]
    assert found[0]["scenario"]["members"] == 5
    assert found[0]["results"]["discovery"]["complete"] is True
    assert found[0]["results"]["lending"]["twice"] == 0
    again = program.run("grid", "simulate", "--json", "-", input=SMALL.encode())
    assert json.loads(again.stdout)["simulations"][0]["results"] == found[0]["results"]
    assert not (program.folder / "data").exists(), "it touches nothing of the one who asks"


def test_what_is_wrong_is_told_with_its_place(call: Caller) -> None:
    _write(call, "wrong.yaml", "members: 5\nlos: 0.1\nrooms: [5, 1]\n")
    assert call("grid", "simulate", "wrong.yaml", code=2) == ""
    assert call.err.splitlines() == [
        "error: wrong.yaml:2:1: los: unknown key; did you mean 'loss'?",
        "error: wrong.yaml:3:1: rooms: the least comes first, the most second",
    ]
    assert call("grid", "simulate", "wrong.yaml", "--json", code=2) == ""
    assert json.loads(call.err)["details"]["faults"][0]["place"] == "wrong.yaml:2:1"
    assert "There is no absent.yaml" in (call("grid", "simulate", "absent.yaml", code=3) or call.err)
    (call.program.folder / "binary").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in (call("grid", "simulate", "binary", code=2) or call.err)
    assert "cannot be read" in (call("grid", "simulate", ".", code=2) or call.err)
    assert "SCENARIO" in (call("grid", "simulate", code=2) or call.err)


def test_a_long_simulation_can_be_ended(call: Caller, program: Program) -> None:
    _write(call, "long.yaml", "{members: 200, hours: 100}")
    process = program.begin("grid", "simulate", "--verbose", "long.yaml")
    try:
        while b"libcrypto" not in Path(f"/proc/{process.pid}/maps").read_bytes():
            assert process.poll() is None
        time.sleep(1)  # Python's own ssl turns an interrupt at its import into another error
        process.send_signal(signal.SIGINT)
        code, out, err = program.finish(process)
    finally:
        process.kill()
    assert (code, out, err) == (130, "", "")


def _write(call: Caller, name: str, text: str) -> None:
    (call.program.folder / name).write_text(text)
