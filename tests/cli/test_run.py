"""`gridcloud run`: streams untouched, files there and back, exit codes, and nothing left whatever happens."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Program

READY = b"ready:"


def await_line(process: subprocess.Popen[bytes], words: bytes) -> None:
    """Return once a command has said this on standard error."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"it never said {words!r}")


def await_output(process: subprocess.Popen[bytes], words: bytes) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == words


def test_streams_files_and_exit_code(program: Program) -> None:
    data = bytes(range(256)) * 400
    (program.folder / "in put.bin").write_bytes(data)
    script = (
        "import pathlib,sys; d=pathlib.Path('in put.bin').read_bytes(); sys.stdout.buffer.write(d); "
        "print('word', file=sys.stderr); p=pathlib.Path('out'); p.mkdir(); (p/'copy').write_bytes(d); sys.exit(7)"
    )
    done = program.run(
        *(
            "run",
            "--on",
            "here",
            "--put",
            "in put.bin",
            "--get",
            "out:result",
            "--",
            sys.executable,
            "-c",
            script,
        ),
        code=7,
    )
    assert done.stdout == data
    assert b"\nword\n" in done.stderr
    assert b"Chose" in done.stderr
    assert (program.folder / "result" / "copy").read_bytes() == data
    (instance,) = program.instances()
    assert (instance["state"], instance["reason"]) == ("stopped", "asked")


def test_input_is_passed_on_and_environment_is_set(program: Program) -> None:
    program.environment["FROM_HERE"] = "a b; touch /tmp/x"
    done = program.run(
        *(
            "run",
            "--env",
            "FROM_HERE",
            "--env",
            "TWO=x=y",
            "--",
            "sh",
            "-c",
            'cat; printf "%s|%s" "$FROM_HERE" "$TWO"',
        ),
        input=b"said\n" * 50_000,
    )
    assert done.stdout == b"said\n" * 50_000 + b"a b; touch /tmp/x|x=y"


def test_json_speaks_on_standard_error_only(program: Program) -> None:
    done = program.run("run", "--json", "--get", "absent", "--", "echo", "hello", code=3)
    assert done.stdout == b"hello\n"
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [one["type"] for one in told if "seq" in one][:2] == ["requested", "creating"]
    assert any(one.get("title") == "NotFound" and "absent" in one["detail"] for one in told)
    assert program.instances()[0]["state"] == "stopped"


def test_no_offer(program: Program) -> None:
    done = program.run("run", "--gpus", "9000", "--", "true", code=5)
    assert done.stderr.count(b"The largest available is") == 1
    assert done.stderr.splitlines()[-1].startswith(b"error: ")
    assert b"Ask for less" in done.stderr
    done = program.run("run", "--gpus", "9000", "--json", "--", "true", code=5)
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [one["type"] for one in told] == ["requested", "failed", "urn:gridcloud:error:NoOffer"]


def test_a_refused_offer_is_told_and_the_next_taken(program: Program) -> None:
    fault = {"call": "create", "error": "no-capacity", "times": 1}
    program.configure(
        {"cheap": {"driver": "fake", "faults": [fault]}, "dear": {"driver": "fake", "price": 5}}
    )
    done = program.run("run", "--", "true")
    assert b"cheap" in done.stderr
    assert b"on dear" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_goes_to_the_command_and_all_is_cleaned_up(
    program: Program, number: signal.Signals, code: int
) -> None:
    script = "import signal as s; both = {s.SIGINT, s.SIGTERM}; s.pthread_sigmask(s.SIG_BLOCK, both); "
    script += "print('going', flush=True); print(int(s.sigwait(both)))"
    process = program.begin("run", "--on", "here", "--", sys.executable, "-c", script)
    await_output(process, b"going")
    process.send_signal(number)
    ended, out, _ = program.finish(process)
    assert (ended, out.strip()) == (code, str(int(number)))
    assert [one["state"] for one in program.instances()] == ["stopped"]


def test_interrupted_while_it_boots(program: Program) -> None:
    program.configure({"slow": {"driver": "fake", "boot_seconds": 600}})
    process = program.begin("run", "--", "true")
    await_line(process, b"starting:")
    process.send_signal(signal.SIGINT)
    code, _, _ = program.finish(process)
    assert code == 130
    assert [(one["state"], one["reason"]) for one in program.instances()] == [("stopped", "cancelled")]


def test_nobody_reads_the_output(program: Program) -> None:
    process = program.begin("run", "--on", "here", "--", "yes")
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert process.returncode == 141, err
    assert [one["state"] for one in program.instances()] == ["stopped"]


def test_kept(program: Program, service: object) -> None:
    done = program.run("run", "--keep", "--name", "mine", "--", "true")
    (instance,) = program.instances()
    assert (instance["state"], instance["name"]) == ("ready", "mine")
    assert f"gridcloud instance stop {instance['id']}".encode() in done.stderr
    program.run("instance", "stop", instance["id"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--put", "nowhere"], 3, "there is no 'nowhere'"),
        (["--get", "."], 2, "say where it goes"),
        (["--get", "a/x", "--get", "b/x"], 2, "same file"),
        (["--env", "NOT_SET_ANYWHERE"], 2, "no such variable"),
        (["--memory", "lots"], 2, "'lots' is not a size"),
        (["--cpu", "1"], 2, "--cpus"),
    ],
)
def test_mistakes_start_nothing(program: Program, words: list[str], code: int, said: str) -> None:
    done = program.run("run", *words, "--", "true", code=code)
    assert said in done.stderr.decode()
    assert b"requested:" not in done.stderr
    assert not (program.folder / "data" / "store.sqlite").exists()


def test_a_terminal_is_given_and_put_back(program: Program) -> None:
    import os
    import pty
    import termios

    control, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gridcloud",
            "run",
            "--on",
            "here",
            "-t",
            "--",
            "sh",
            "-c",
            "tty; stty size; read x",
        ],
        env=program.environment,
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        said = b""
        while said.count(b"\n") < 2:
            said += os.read(control, 1024)
        assert b"/dev/" in said
        assert termios.tcgetattr(terminal)[3] != before[3]
        os.write(
            control, b"\x03"
        )  # goes through as a key, and the other side's terminal makes a signal of it
        assert process.wait(timeout=60) == 130
        assert termios.tcgetattr(terminal)[3] == before[3]
    finally:
        os.close(control)
        os.close(terminal)
    assert [one["state"] for one in program.instances()] == ["stopped"]


def test_packages_file_that_is_none(program: Program, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("3")
    done = program.run("run", "--configure", "bad.yaml", "--", "true", code=2)
    assert b"holds no configurers" in done.stderr
