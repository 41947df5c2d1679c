"""What the verbs say: to people in tables and lines, to scripts in JSON and exit codes."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gridcloud.cli import app, completion, main
from gridcloud.cli.mishaps import exit_code_of
from tests.cli.conftest import PROVIDERS, Caller, Program

QUICK = """
import sys
from gridcloud.cli import main
code = main(["version"])
heavy = {"asyncio", "pydantic", "rich", "sqlalchemy", "aiohttp", "yaml", "asyncssh"} & set(sys.modules)
sys.exit(f"version imports {heavy}" if heavy else code)
"""


def test_version_starts_quickly() -> None:
    done = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gridcloud ")


def test_offers_for_people(call: Caller) -> None:
    out = call("offers", "--cpus", "2", "--memory", "2GiB")
    assert [line.split()[0] for line in out.splitlines()] == ["PROVIDER", "here", "cloud", "cloud"]
    assert "0.5 EUR" in out
    assert "H100" in out
    assert out.splitlines()[1].split()[-1] == "free"


def test_offers_for_scripts(call: Caller) -> None:
    document = call.json("offers", "--gpus", "1", "--gpu-model", "h100", "--max-price", "4")
    best = document["offers"][0]
    assert (best["provider"], best["price"], best["available"]) == ("cloud", "3", True)
    assert document["currency"] == "EUR"
    document = call.json("offers", "--gpus", "9000", code=5)
    assert "The largest available is" in document["problem"]
    assert json.loads(call.err)["type"] == "urn:gridcloud:error:NoOffer"


def test_provider_that_is_not_there(call: Caller) -> None:
    for words in (["offers"], ["run"], ["instance", "start"]):
        assert call(*words, "--on", "hare", *(["--", "true"] if words == ["run"] else []), code=3) == ""
        assert "here" in call.err
        assert "requested" not in call.err


def test_what_providers_say_cannot_steer_the_terminal(call: Caller) -> None:
    hostile = "[red]a\x1b]0;title\x07\u202eb[/red]"
    call.program.configure({"odd": {"driver": "fake", "location": hostile}})
    out = call("offers")
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
    assert "[red]a" in out
    assert call.json("offers")["offers"][0]["location"] == hostile


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["offers", "--memory", "lots"], 2, "--memory: 'lots' is not a size"),
        (["offers", "--cpus", "-1"], 2, "--cpus: "),
        (["offers", "--kind", "balloon"], 2, "--kind: "),
        (["offers", "--tiem", "2h"], 2, "No such option: --tiem"),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["--nonsense"], 2, "No such option: --nonsense"),
        (["instance", "show", "i-none"], 3, "There is no instance 'i-none'"),
        (["instance", "stop"], 2, "--all"),
        (["instance", "extend", "i-none", "soon"], 2, "'soon' is not a time"),
        (["session", "extend", "s-none", "soon"], 2, "'soon' is not a time"),
        (["session", "extend", "s-none"], 3, "There is no session"),
        (["provider", "check", "none"], 3, "none"),
        (["provider", "add", "x"], 2, "--driver"),
        (["provider", "add", "x", "--driver", "fake", "word"], 2, "'word' is no KEY=VALUE"),
        (["provider", "add", "x", "--driver", "fake", "location=1"], 2, "write it between quotes"),
        (["offers", "--url", "http://example.org"], 2, "no https:// URL"),
        (["offers", "--config", "absent.yaml"], 2, "absent.yaml"),
    ],
)
def test_mistakes(call: Caller, words: list[str], code: int, said: str) -> None:
    assert call(*words, code=code) == ""
    assert call.err.startswith("error: ")
    assert said in call.err
    assert "Traceback" not in call.err
    assert call(*words, "--json", code=code) == ""
    assert said in json.loads(call.err)["detail"] + json.loads(call.err)["remedy"]


def test_a_fault_is_one_line_and_its_origin_is_shown_when_asked(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(ValueError("odd"), ["offers"]) == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "ValueError: odd" in said
    assert "report" in said
    assert exit_code_of(ValueError("odd"), ["offers", "--verbose"]) == 1
    assert exit_code_of(ValueError("odd"), ["run", "--", "cmd", "--json"]) == 1
    assert capfd.readouterr().err.rstrip().splitlines()[-1].startswith("error: ")


def test_shared_options_may_stand_before_the_verb(call: Caller, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("providers:\n  else: {driver: fake}\n")
    document = json.loads(call("--json", f"--config={other}", "--data", str(tmp_path / "d"), "offers"))
    assert [offer["provider"] for offer in document["offers"]] == ["else"]


def test_every_verb_has_help_and_json() -> None:
    import typer.main

    def visit(command: object, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        names = command.list_commands(None) if hasattr(command, "list_commands") else []
        if not names:
            options = {option for parameter in command.params for option in parameter.opts}  # type: ignore[attr-defined]
            assert "--json" in options, path
            assert command.help, path  # type: ignore[attr-defined]
            assert all(one.help for one in command.params if hasattr(one, "help")), path  # type: ignore[attr-defined]
            return [path]
        return [
            verb
            for name in names
            for verb in visit(command.get_command(None, name), (*path, name))  # type: ignore[attr-defined]
        ]

    root = typer.main.get_command(app)
    verbs = [
        verb
        for name in root.list_commands(None)  # type: ignore[attr-defined]
        for verb in visit(root.get_command(None, name), (name,))  # type: ignore[attr-defined]
    ]
    assert {
        ("up",),
        ("demo",),
        ("run",),
        ("instance", "ssh"),
        ("config", "check"),
        ("token", "revoke"),
    } <= set(verbs)


def test_life_of_an_instance(call: Caller, service: object) -> None:
    made = call("instance", "start", "--on", "cloud", "--name", "a b", "--time", "1h").strip()
    assert "ready:" in call.err
    assert made in call("instance", "list")
    shown = call("instance", "show", made)
    assert "a b" in shown
    assert "cloud" in shown
    assert call("instance", "ssh", made, "--", "sh", "-c", "printf here; exit 4", code=4) == "here"
    before = call.json("instance", "show", made)["expires"]
    assert call.json("instance", "extend", made, "3h")["expires"] > before
    assert call.json("instance", "start", "--no-wait", "--on", "cloud")["state"] == "requested"
    assert len(call.json("instance", "stop", "--all")["instances"]) == 2
    assert call.json("instance", "list")["instances"] == []
    assert len(call.json("instance", "list", "--all")["instances"]) == 2
    events = [
        json.loads(line) for line in call("instance", "events", made, "--follow", "--json").splitlines()
    ]
    assert [event["type"] for event in events][-1] == "stopped"
    assert call.json("session", "list")["sessions"] == []


def test_names_stand_for_ids(call: Caller, service: object) -> None:
    first = call("instance", "start", "--on", "cloud", "--name", "calc").strip()
    assert call.json("instance", "show", "calc")["id"] == first
    assert call("instance", "ssh", "calc", "--", "printf", "here") == "here"
    assert call("instance", "extend", "calc", "3h").startswith(first)
    assert "ready:" in call("instance", "events", "calc")
    assert completion.instances() == [first, "calc"]
    second = call("instance", "start", "--on", "cloud", "--name", "calc").strip()
    call("instance", "stop", first, "calc", code=2)
    assert f"2 instances have the name 'calc': {first}, {second}." in call.err
    assert len(call.json("instance", "list")["instances"]) == 2
    call("instance", "stop", second)
    assert len(call.json("instance", "stop", first, "calc")["instances"]) == 1
    call("instance", "show", "calc", code=3)
    assert "There is no instance 'calc'" in call.err
    assert call.json("instance", "show", first)["name"] == "calc"
    # An id comes first: nobody takes another's place by a name.
    other = call("instance", "start", "--on", "cloud", "--name", first).strip()
    assert call.json("instance", "show", first)["id"] == first
    call("instance", "stop", other)


def test_tokens(call: Caller) -> None:
    secret = call("token", "create", "--note", "for a script", "--time", "1d").strip()
    assert secret.startswith("gc_")
    (token,) = call.json("token", "list")["tokens"]
    assert token["note"] == "for a script"
    assert secret not in json.dumps(token)
    call("token", "revoke", token["id"])
    assert call.json("token", "list")["tokens"] == []
    call("token", "revoke", token["id"], code=3)


@pytest.mark.parametrize("running", [False, True], ids=["alone", "with a service"])
def test_providers(call: Caller, running: bool, request: pytest.FixtureRequest) -> None:
    if running:
        request.getfixturevalue("service")
    words = ["shapes=[{name: tiny, cpus: 1}]", "location=far away", "images=a", "images=b", "latency=1"]
    call("provider", "add", "more", "--driver", "fake", *words)
    assert "gridcloud provider check more" in call.err
    written = yaml.safe_load(call.program.config.read_text())["providers"]
    assert written["more"]["images"] == ["a", "b"]
    assert {**PROVIDERS, "more": written["more"]} == written
    assert [one["name"] for one in call.json("provider", "list")["providers"]] == ["here", "cloud", "more"]
    assert "a b" in call("provider", "list", "--images")
    assert call.json("provider", "check", "more")["findings"][0]["ok"] is True
    call("provider", "add", "more", "--driver", "fake", code=7)
    call("provider", "add", "wrong", "--driver", "fake", "latncy=1", code=2)
    assert "latency" in call.err
    call("provider", "remove", "more")
    assert yaml.safe_load(call.program.config.read_text())["providers"] == PROVIDERS


def test_check_tells_what_is_wrong_with_a_provider(call: Caller) -> None:
    call.program.configure(
        {"gone": {"driver": "container", "engine": "unix:///nowhere/engine.sock", "image": "none"}}
    )
    out = call("provider", "check", "gone", code=1)
    assert out.startswith("wrong")


def test_all_providers_are_checked_at_once(call: Caller) -> None:
    out = call("provider", "check")
    assert "wrong" not in out
    found = call.json("provider", "check")["findings"]
    assert {one["provider"] for one in found} == {"here", "cloud"}
    assert len(out.splitlines()) == len(found)
    gone = {"driver": "container", "engine": "unix:///nowhere/engine.sock", "image": "none"}
    call.program.configure({"gone": gone, "unknown": {"driver": "balloon"}, **PROVIDERS})
    lines = call("provider", "check", code=1).splitlines()
    wrong = [line for line in lines if line.startswith("wrong")]
    assert [line.split()[1].rstrip(":,") for line in wrong] == ["gone", "unknown"]
    assert any(line.startswith("ok") and "cloud" in line for line in lines)
    found = call.json("provider", "check", code=1)["findings"]
    assert {one["provider"] for one in found if not one["ok"]} == {"gone", "unknown"}


def test_configuration_that_is_not_valid(call: Caller) -> None:
    call.program.config.write_text("providers:\n  a: {driver: fake, latncy: 1}\nlimts: {}\n")
    call("config", "check", code=2)
    assert "latency" in call.err
    assert "limits" in call.err
    assert all(line.startswith("error: ") for line in call.err.splitlines())
    assert len(_faults(call)) == 2
    call("offers", code=2)
    assert call("config", "path").strip() == str(call.program.config)
    call("doctor", code=1)
    other = call.program.folder / "good.yaml"
    other.write_text("providers: {}\n")
    assert "is valid" in call("config", "check", str(other))


def test_a_login_that_would_fail_is_told(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRONT", raising=False)
    file = call.program.folder / "front.yaml"
    file.write_text("providers: {}\nhub: {authenticator: header, header: {secret: 'env:FRONT'}}\n")
    out = call("config", "check", str(file))
    assert "would refuse to: " in out
    assert "FRONT is not set" in out
    assert "FRONT is not set" in call.json("config", "check", str(file))["login"]["detail"]
    monkeypatch.setenv("FRONT", "a secret of more than 16 letters")
    assert "refuse" not in call("config", "check", str(file))


def test_a_folder_of_a_course_that_is_missing_is_told(call: Caller, program: Program) -> None:
    courses = program.folder / "courses"
    (courses / "handout").mkdir(parents=True)
    whole = yaml.safe_load(program.config.read_text())
    whole |= {"hub": {"course_folders": str(courses)}, "courses": {"physics": {"handout": "handout"}}}
    program.config.write_text(yaml.safe_dump(whole))
    assert call.json("config", "check")["folders"] == []
    assert call.json("doctor")["well"] is True
    (courses / "handout").rmdir()
    missing = f"The course physics has no folder {courses}/handout"
    assert f"would go without a folder of it: {missing}" in call("config", "check")
    assert missing in call.json("config", "check")["folders"][0]
    assert missing in call("doctor", code=1)


def test_configuration_is_shown_without_secrets(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDCLOUD_STORE__URL", "postgresql+psycopg://amy:hunter2@db/grid")
    out = call("config", "show")
    assert yaml.safe_load(out)["store"]["url"] == "postgresql+psycopg://amy:(not shown)@db/grid"
    assert call.json("config", "show")["providers"]["here"]["driver"] == "local"


def test_doctor_mends(program: Program, call: Caller) -> None:
    assert call.json("doctor")["well"] is True
    made = call("instance", "start", "--on", "cloud").strip()
    with sqlite3.connect(program.folder / "data" / "store.sqlite") as store:
        store.execute("DELETE FROM records WHERE id = ?", (made,))
    store.close()
    found = call.json("doctor", code=1)
    assert [one["provider"] for one in found["troubles"]] == ["cloud"]
    assert "gridcloud doctor --mend" in _said(call, "doctor", code=1)
    assert "mended" in call("doctor", "--mend")
    assert call("doctor").startswith("Everything is well")


def test_a_provider_that_is_removed_and_away_is_forgotten_when_told(call: Caller) -> None:
    away = [{"call": "holdings", "error": "unreachable", "times": 99}]
    call.program.configure({**PROVIDERS, "gone": {"driver": "fake", "faults": away}})
    call("run", "--on", "gone", "--", "true")
    call("provider", "forget", "gone", code=2)
    assert "gridcloud provider remove gone" in call.err
    call("provider", "remove", "gone")
    out = call("doctor", code=1)
    assert "gone: It was removed from the configuration, and cannot be asked what it still holds" in out
    assert "gridcloud provider forget gone" in out
    call("provider", "forget", "gone", code=2)
    assert "whatever else carries our tag there" in call.err
    assert "gridcloud provider forget gone --yes" in call.err
    call("provider", "forget", "gone", "--yes")
    assert "Given up: whatever else carries our tag there." in call.err
    assert call("doctor").startswith("Everything is well")
    call("provider", "forget", "gone", code=3)


def test_help_without_a_verb(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "offers" in capfd.readouterr().out
    assert main([]) in (0, 2)
    assert "offers" in "".join(capfd.readouterr())


def _faults(call: Caller) -> list[object]:
    call("config", "check", "--json", code=2)
    faults: list[object] = json.loads(call.err)["details"]["faults"]
    return faults


def _said(call: Caller, *words: str, code: int) -> str:
    call(*words, code=code)
    return call.err
