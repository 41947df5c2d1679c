"""Profiles, courses and any other setting, changed by commands: with a service and without one."""

from __future__ import annotations

import json
import stat
import subprocess

import pytest

from tests.cli.conftest import Caller, Program


def test_a_course_from_nothing_to_gone(call: Caller, program: Program) -> None:
    text = program.config.read_text() + "# ours\nhub:\n  port: 8001  # the firewall knows it\n"
    program.config.write_text(text)
    call("profile", "add", "small", "title=Small", "choose.cpus={least: 1, most: 2}", "limits.time=8h")
    (program.folder / "list.csv").write_text("username\nada\nBEN\n")
    call(
        "course",
        "add",
        "physics",
        "profiles=small",
        "roster.file=list.csv",
        "roster.users=cy",
        "teachers=ann",
    )
    assert "physics" in call("profile", "list")
    assert "1 min" not in call("course", "list")
    members = call("course", "members", "physics")
    assert [line.split() for line in members.splitlines()[1:]] == [
        ["teacher", "ann"],
        ["user", "cy"],
        ["file", "ada"],
        ["file", "ben"],
    ]
    call("profile", "change", "small", "limits.time=4h", "limits.sessions=1", "--unset", "title")
    assert call.json("profile", "show", "small")["small"] == {
        "choose": {"cpus": {"least": 1, "most": 2}},
        "limits": {"time": "4h", "sessions": 1},
    }
    assert "there is no profile 'small'" in (call("profile", "remove", "small", code=2) or call.err)
    call("config", "set", "limits.idle=1h", "hub.port=8002")
    assert "  port: 8002" in program.config.read_text()
    assert "# ours" in program.config.read_text()
    call("course", "remove", "physics")
    call("profile", "remove", "small")
    call("provider", "add", "more", "--driver", "fake")
    history = call.json("config", "history")["revisions"]
    assert [one["what"] for one in history][:3] == [
        "add providers.more",
        "remove profiles.small",
        "remove courses.physics",
    ]
    assert "+  more:" in call("config", "diff")
    assert "+  more:" in call("config", "diff", "1", "--now")
    call("config", "rollback", "1")
    assert program.config.read_text() == text
    assert stat.S_IMODE((program.folder / "data" / "configuration").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["profile", "show", "none"], 3, "no profile 'none'"),
        (["profile", "change", "none", "title=x"], 3, "no profiles.none"),
        (["profile", "add", "Up\x1b[31m", "title=x"], 2, "profiles"),
        (["profile", "add", "x", "titel=x"], 2, "did you mean 'title'"),
        (["profile", "change", "none"], 2, "KEY=VALUE"),
        (["course", "members", "none"], 3, "no course"),
        (["course", "add", "x", "profiles=none"], 2, "no profile"),
        (["config", "set", "limits.time=soon"], 2, "limits.time"),
        (["config", "rollback", "77"], 3, "77"),
        (["provider", "add", "", "--driver", "fake"], 2, ""),
        (["profile", "add", "../x", "--file", "/nowhere"], 3, "/nowhere"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(
    call: Caller, program: Program, words: list[str], code: int, said: str
) -> None:
    before = program.config.read_bytes()
    call(*words, code=code)
    assert said in call.err
    assert "\x1b[31m" not in call.err
    assert program.config.read_bytes() == before


def test_an_editor(call: Caller, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", "sh -c 'echo currency: NOK >> \"$0\"'")
    call("config", "edit", "-m", "crowns")
    assert program.config.read_text().endswith("currency: NOK\n")
    assert call.json("config", "history")["revisions"][0]["what"] == "crowns"
    call("config", "edit", code=2)  # the same key twice
    assert "given twice" in call.err
    kept = call.err.rpartition("Your text is in ")[2].split(".yaml")[0] + ".yaml"
    with open(kept) as file:
        assert file.read().count("currency: NOK") == 2
    meanwhile = f'sh -c \'echo currency: SEK > {program.config}; echo "# mine" >> "$0"\''
    monkeypatch.setenv("EDITOR", meanwhile)
    call("config", "edit", code=7)
    assert "+currency: SEK" in call.err
    assert program.config.read_text() == "currency: SEK\n"
    monkeypatch.setenv("EDITOR", "no-such-editor")
    call("config", "edit", code=2)
    text = program.folder / "new.yaml"
    text.write_text("currency: DKK\n")
    call("config", "edit", "--from", str(text))
    assert program.config.read_text() == "currency: DKK\n"


def test_the_service_does_it_where_one_runs(
    call: Caller, program: Program, service: subprocess.Popen[bytes]
) -> None:
    call("profile", "add", "small")
    call("profile", "add", "small", code=7)
    call("config", "set", "currency=NOK")
    assert [one["name"] for one in call.json("profile", "list")["profiles"]] == ["small"]
    document = json.loads(call("config", "history", "--json"))
    assert [one["what"] for one in document["revisions"]] == [
        "set currency",
        "add profiles.small",
        "as it was found",
    ]
