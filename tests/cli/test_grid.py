"""``gridcloud grid …`` as administrators of two institutions type it, each with a service of its own."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridcloud.cli import completion, main
from tests.cli.conftest import Caller, Program

GRID = {"listen": "127.0.0.1:0", "addresses": ["https://127.0.0.1:0"], "location": "the basement"}


class Institution:
    """A service with its door for others, and its command line, which is run within this process."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self.program = Program(folder)
        self.program.configure({"cloud": {"driver": "fake"}}, grid=GRID)
        self.name = name
        self.fingerprint = ""
        self.told = ""
        """What the last verb wrote to standard error."""

    def say(self, *words: str, code: int = 0) -> str:
        """Run a verb and return what it wrote to standard output."""
        folder = self.program.folder
        out, err = io.StringIO(), io.StringIO()
        common = ["--config", str(self.program.config), "--data", str(folder / "data")]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = main([*common, "grid", *words])
        self.told = err.getvalue()
        assert ended == code, f"exit {ended}\n{out.getvalue()}\n{self.told}"
        return out.getvalue()

    def json(self, *words: str) -> Any:
        """Run a verb with --json."""
        return json.loads(self.say(*words, "--json"))

    @property
    def groups(self) -> list[str]:
        """Its fingerprint, as it is typed."""
        return self.fingerprint.split()

    def until(self, community: str, holds: Any, seconds: float = 60) -> Any:
        """Return what is known of a community once it holds."""
        end = time.monotonic() + seconds
        while not holds(found := self.json("members", community)["communities"][0]):
            assert time.monotonic() < end, found
            time.sleep(0.2)
        return found


@contextlib.contextmanager
def running(program: Program) -> Iterator[subprocess.Popen[bytes]]:
    process = program.begin("serve")
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if b"serving" in line:
                break
        else:
            pytest.fail("the service did not start")
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are looked at in full, however narrow the terminal of who runs the tests."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Institution, Institution]]:
    """Two institutions that made their keys; each test has a community of its own."""
    folder = tmp_path_factory.mktemp("grid")
    ours, theirs = Institution(folder / "a", "Uni A"), Institution(folder / "b", "=Uni B")
    with running(ours.program), running(theirs.program):
        for one in (ours, theirs):
            said = one.say("init", one.name)
            one.fingerprint = one.json("init", one.name)["fingerprint"]
            assert [len(group) for group in one.groups] == [5] * 10
            assert said.startswith(f"{one.name}: ")
            assert " ".join(one.groups[:5]) in said
        yield ours, theirs


def acquaint(host: Institution, guest: Institution, community: str, folder: Path) -> None:
    """Have a guest join a new community of a host."""
    host.say("found", community)
    host.say("invite", community, *guest.groups, "--output", str(folder / "invitation"))
    guest.say("join", str(folder / "invitation"), *host.groups)
    for one in (host, guest):
        one.until(community, lambda found: len(found["members"]) == 2)


def test_two_institutions_come_together_and_part(
    pair: tuple[Institution, Institution], tmp_path: Path
) -> None:
    ours, theirs = pair
    assert "already" in (ours.say("init", "Uni X", code=7) or ours.told)
    assert ours.say("found", "physics", "--ends", "90d").startswith("c-")
    wrong = [*ours.groups[:9], str((int(ours.groups[9]) + 1) % 100000).zfill(5)]
    ours.say("invite", "physics", *wrong, code=2)
    assert "digit" in ours.told
    invitation = ours.say("invite", "physics", *theirs.groups, "--time", "1h")
    assert f"gridcloud grid join FILE {ours.fingerprint}" in ours.told
    assert [one["spent"] for one in ours.json("status")["invitations"]] == [""]

    file = tmp_path / "invitation"
    file.write_text(invitation)
    theirs.say("join", str(file), *wrong, code=2)
    theirs.say("join", str(file), *ours.groups)
    assert "physics" in theirs.told
    for one in pair:
        found = one.until("physics", lambda found: len(found["members"]) == 2)
        assert {member["name"] for member in found["members"]} == {"Uni A", "=Uni B"}
    table = ours.say("members", "physics").splitlines()
    assert table[0].split()[:3] == ["COMMUNITY", "MEMBER", "ID"]
    assert len(table) == 3
    assert ours.json("status")["links"][0]["name"] == "=Uni B"
    assert "REFUSED AT" in ours.say("status", "--refused")

    theirs.say("leave", "physics", code=2)
    assert "--yes" in theirs.told, "nobody is at the keyboard to be asked"
    theirs.say("leave", "physics", "--yes")
    assert "There is no community" in (theirs.say("members", "physics", code=3) or theirs.told)
    ours.until(
        "physics", lambda found: len(found["members"]) == 1 or any(one["left"] for one in found["members"])
    )


def test_enough_members_sign(pair: tuple[Institution, Institution], tmp_path: Path) -> None:
    ours, theirs = pair
    acquaint(ours, theirs, "chemistry", tmp_path)
    changed = ours.json("change", "chemistry", "--threshold", "2")
    assert changed["in_force"] is True, "one signature was enough until now"
    theirs.until("chemistry", lambda found: found["threshold"] == 2)

    theirs.say("branch", "chemistry", "--output", str(tmp_path / "branch"))
    assert len(json.loads((tmp_path / "branch").read_text())["lists"]) == 3
    ours.say("adopt", "chemistry", str(tmp_path / "invitation"), "--yes", code=2)
    ours.say("adopt", "chemistry", str(tmp_path / "branch"), "--yes")
    assert "List 3 of chemistry holds: 2 members." in ours.told

    waits = theirs.json("change", "chemistry", "--ends", "2030-01-01")
    assert waits["in_force"] is False
    assert waits["proposal"]["ends"].startswith("2030-01-01T00:00:00")
    ours.until("chemistry", lambda found: found["proposals"])
    assert "1 to sign" in ours.say("status")
    ours.say("sign", "chemistry", code=2)
    assert "ends on 2030-01-01 00:00 UTC" in ours.told
    assert "--yes" in ours.told
    ours.say("sign", "chemistry", "--yes")
    assert "in force" in ours.told
    assert "Nothing waits" in (ours.say("sign", "chemistry", "--yes", code=3) or ours.told)
    theirs.until("chemistry", lambda found: found["ends"])


def test_who_is_put_out(pair: tuple[Institution, Institution], tmp_path: Path) -> None:
    ours, theirs = pair
    acquaint(ours, theirs, "biology", tmp_path)
    assert "called 'C'" in (ours.say("revoke", "biology", "C", "--why", "x", "--yes", code=3) or ours.told)
    ours.say("revoke", "biology", "=Uni B", "--why", "it shares \x1b[2J keys", "--yes", code=2)
    ours.say("revoke", "biology", theirs.fingerprint, "--why", "its keys were stolen", "--yes")
    assert [one["name"] for one in ours.json("members", "biology")["communities"][0]["members"]] == ["Uni A"]
    theirs.say("forget", "biology", "--yes")
    assert "biology" not in theirs.say("members")


@pytest.mark.usefixtures("service")
def test_the_root_key_is_taken_out(call: Caller, tmp_path: Path) -> None:
    for words in (["report"], ["ledger"], ["found", "x"], ["key", "list"]):
        assert "gridcloud grid init" in (call("grid", *words, code=2) or call.err), words
    assert "does not take part" in call("grid", "status")
    call("grid", "init", "Uni")
    file = tmp_path / "root.pem"
    assert "--yes" in (call("grid", "key", "take-root-out", str(file), code=2) or call.err)
    call("grid", "key", "take-root-out", str(file), "--yes")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert not list((call.program.folder / "data").rglob("root.pem"))
    again = tmp_path / "again.pem"
    call("grid", "key", "take-root-out", str(again), "--yes", code=7)
    assert not again.exists()
    call("grid", "key", "take-root-out", str(file), "--yes", code=7)
    assert file.stat().st_size > 100, "what is there is not overwritten"

    call.program.configure({"cloud": {"driver": "fake"}}, grid={"listen": "127.0.0.1:0"})
    assert "set grid.addresses" in call("doctor", code=1)
    call.program.configure({"cloud": {"driver": "fake"}})
    assert "--root" in (call("grid", "found", "x", code=6) or call.err)
    assert call("grid", "found", "x", "--root", str(file)).startswith("c-")
    assert "kept elsewhere" in call("grid", "status")
    before = call.json("grid", "status")["standing"]["keys"]
    call("grid", "key", "rotate", "--root", str(file))
    after = call.json("grid", "key", "list")["keys"]
    assert len(after) == len(before) + 1
    part = before[0]["key"][5:20]  # which may begin with a hyphen
    call("grid", "key", "revoke", "--root", str(file), "--yes", "--", part)
    assert before[0]["key"] not in {one["key"] for one in call.json("grid", "key", "list")["keys"]}
    file.chmod(0o644)
    assert "chmod 600" in (call("grid", "key", "rotate", "--root", str(file), code=6) or call.err)


@pytest.mark.usefixtures("service")
def test_reports_of_nothing(call: Caller, tmp_path: Path) -> None:
    call("grid", "init", "Uni")
    assert completion.communities() == []
    call("grid", "found", "physics")
    assert completion.communities() == ["physics"]
    assert "Agreed in all: given nothing; taken nothing." in call("grid", "report")
    assert call("grid", "report", "--csv").startswith(
        "month,institution,name,standing,entries,given_cpu_hours"
    )
    assert call("grid", "ledger", "--csv").startswith("lease,part,lender,")
    assert call.json("grid", "ledger") == {"records": []}
    call("grid", "report", "--ods", str(tmp_path / "report.ods"), "--from", "2026-01")
    assert (tmp_path / "report.ods").read_bytes()[:2] == b"PK"
    assert "is no month" in (call("grid", "report", "--from", "1", code=2) or call.err)
    assert "no member" in (call("grid", "ledger", "--with", "nobody", code=3) or call.err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["join", "absent", "1"], "There is no absent"),
        (["join", "junk", "1"], "holds no invitation"),
        (["join", "deep", "1"], "holds no invitation"),
        (["found", "x", "--ends", "soon"], "is no date"),
        (["found", "x", "--ends", "9999999999d"], "is no date"),
        (["found", "", "--ends", "2027-01-01"], "name"),
        (["found", "x\x1b[2J"], "name"),
        (["invite", "x", "12345", "--time", "forever"], "--time"),
        (["invite", "x", "12345", "--time", "90d"], "time"),
        (["change", "x"], "Nothing is to be changed"),
        (["change", "x", "--threshold", "0"], "threshold"),
        (["revoke", "x", "y"], "--why"),
        (["key", "revoke", "x", "--yes"], "does not take part"),
    ],
)
def test_mistakes(call: Caller, words: list[str], said: str) -> None:
    (call.program.folder / "junk").write_text("[1]")
    (call.program.folder / "deep").write_text("[" * 60_000)
    call("grid", *words, code=3 if said.startswith("There is no") else 2)
    assert said in call.err
    assert "Traceback" not in call.err


def test_where_no_service_runs_the_verbs_say_that_nobody_can_come(tmp_path: Path) -> None:
    alone = Institution(tmp_path / "a", "Uni Alone")
    alone.say("members")
    assert "in no community" in alone.told
    alone.say("init", alone.name)
    assert "gridcloud up" in alone.told
    alone.say("status")
    assert "No service runs here" in alone.told
    assert "warnings" in alone.json("status")
    assert alone.told == ""
