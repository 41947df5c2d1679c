"""What the ssh provider reads: its settings, host keys, known_hosts files, and the answers of its hosts."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from pydantic import ValidationError

from gridcloud.drivers.instances.ssh_host import SCRIPT, parse_facts, parse_reservation, parse_survey
from gridcloud.drivers.instances.ssh_notes import Notes
from gridcloud.drivers.instances.ssh_settings import SSHHost, SSHReserve, SSHSettings
from gridcloud.errors import InvalidSettings, Transient
from gridcloud.instances.known_hosts import fingerprint, is_public_key, read_known_hosts
from gridcloud.instances.ssh_machine import SSHMachine

KEYS = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(3)]
LINES = [" ".join(key.export_public_key().decode().split()[:2]) for key in KEYS]

PROBE = """\
uid 1000
user ada
kernel Linux 6.1.0 x86_64
cpus 16
memory 67108864000
sudo yes
program useradd
program userdel
program su
memory_limit max
memory_limit 33554432000
memory_limit 9223372036854771712
cpu_limit max 100000
cpu_limit 800000 100000
cpu_limit -1 100000
gpu GPU-12ab, 81559, NVIDIA H100 80GB HBM3
gpu GPU-34cd, [N/A], NVIDIA GH200, 480GB
gpu No devices were found
"""


def test_facts_take_the_smallest_limit() -> None:
    facts = parse_facts("h", PROBE)
    assert (facts.cpus, facts.memory) == (8.0, 33554432000)
    assert (facts.root, facts.sudo, facts.may_make_accounts) == (False, True, True)
    assert [(gpu.id, gpu.memory) for gpu in facts.gpus] == [("GPU-12ab", 81559 * 1024**2), ("GPU-34cd", 0)]
    assert facts.gpus[1].model == "NVIDIA GH200, 480GB"


@pytest.mark.parametrize(
    "answer", ["", "Welcome to this machine!\n", "uid 0\nuser root\ncpus many\nmemory 1\nkernel x\n"]
)
def test_other_answers_are_refused(answer: str) -> None:
    with pytest.raises(Transient, match="something else"):
        parse_facts("h", answer)
    with pytest.raises(Transient, match="something else"):
        parse_survey("h", answer)


def test_survey_tells_reservations_of_this_start() -> None:
    survey = parse_survey(
        "h",
        "directory /srv/grid cloud\nboot b-2\ndisk 1000 2000\n"
        "reservation one i-aaa ready 1 gc-1 account 1500 1024 GPU-1,GPU-2 b-2 1700000000\n"
        "reservation two i-bbb half 1 gc-2 login 500 1024 - b-1 1700000000\n"
        "reservation two i-ccc half \n",
    )
    assert survey.directory == "/srv/grid cloud"
    assert (survey.disk_free, survey.disk) == (1000, 2000)
    (live,) = survey.live()
    assert (live.instance_id, live.cpus, live.gpus, live.ready) == ("i-aaa", 1.5, ("GPU-1", "GPU-2"), True)
    assert survey.reservations[2].owner == ""


def test_reservation_of_a_newer_version_is_known_by_its_id_only() -> None:
    assert parse_reservation("one i-aaa ready 2 whatever").instance_id == "i-aaa"


def test_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(LINES[0] + "\n")
    shown = subprocess.run(
        ["ssh-keygen", "-lf", tmp_path / "key.pub"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split()[1] == fingerprint(LINES[0])


def test_public_keys() -> None:
    assert is_public_key(LINES[0] + " a comment")
    for text in (
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-rsa " + LINES[0].split()[1],
        "ssh-ed25519 not!base64",
    ):
        assert not is_public_key(text)


def test_known_hosts(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(
        f"# ours\n\nalpha,10.0.0.1 {LINES[0]} comment\n[alpha]:2222 {LINES[1]}\n"
        f"@cert-authority *.example.org,!bad.example.org {LINES[2]}\n@revoked beta {LINES[1]}\nbeta {LINES[1]}\n"
    )
    assert read_known_hosts(file, "alpha", 22) == ((LINES[0],), ())
    assert read_known_hosts(file, "10.0.0.1", 22) == ((LINES[0],), ())
    assert read_known_hosts(file, "alpha", 2222) == ((LINES[1],), ())
    assert read_known_hosts(file, "beta", 22) == ((), ())
    assert read_known_hosts(file, "good.example.org", 22) == ((), (LINES[2],))
    assert read_known_hosts(file, "bad.example.org", 22) == ((), ())
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    assert read_known_hosts(file, "alpha", 22) == ((LINES[0],), ())


@pytest.mark.parametrize(
    "line",
    ["alpha", "alpha ssh-ed25519", "alpha ssh-ed25519 zzzz", "@unknown alpha {key}", "|1|x|y {key}", "\xff"],
)
def test_known_hosts_is_read_strictly(tmp_path: Path, line: str) -> None:
    file = tmp_path / "known_hosts"
    file.write_bytes(f"alpha {LINES[0]}\n{line.replace('{key}', LINES[1])}\n".encode("latin-1"))
    with pytest.raises(InvalidSettings, match="known_hosts"):
        read_known_hosts(file, "alpha", 22)


def test_missing_known_hosts_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        read_known_hosts(tmp_path / "none", "alpha", 22)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hosts": []},
        {"hosts": [{"host": "a", "user": "root"}, {"host": "a", "user": "ada"}]},
        {"hosts": [{"host": "-oProxyCommand=x", "user": "root"}]},
        {"hosts": [{"host": "a", "user": "a b"}]},
        {"hosts": [{"host": "a", "user": "root", "host_keys": "AAAA"}]},
        {"hosts": [{"host": "a", "user": "root", "hostkey": "AAAA"}]},
        {"hosts": [{"host": "a", "user": "root"}], "directory": "relative"},
        {"hosts": [{"host": "a", "user": "root"}], "directory": "/srv/../etc"},
        {"hosts": [{"host": "a", "user": "root"}], "accounts": "everybody"},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SSHSettings.model_validate({"driver": "ssh", **wrong})


def test_every_setting_has_help() -> None:
    for model in (SSHSettings, SSHHost, SSHMachine, SSHReserve):
        assert all(field.description for field in model.model_fields.values())


def test_address_carries_keys_of_the_jump_host_too(tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text(f"jump {LINES[1]}\n")
    settings = SSHSettings.model_validate(
        {
            "driver": "ssh",
            "hosts": [
                {
                    "host": "a",
                    "user": "root",
                    "host_keys": LINES[0] + " note\n",
                    "jump": {"host": "jump", "user": "ada"},
                }
            ],
            "key": "file:~/.ssh/id",
        }
    )
    address = settings.hosts[0].address(settings.key, tmp_path / "known_hosts")
    assert address.host_keys == (LINES[0],)
    assert address.jump is not None
    assert address.jump.host_keys == (LINES[1],)
    assert address.jump.key == "file:~/.ssh/id"


def test_notes_are_added_to_and_forgotten(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "asked")
    assert notes.get("i-aaa") is None
    notes.add("i-aaa", {})
    assert notes.get("i-aaa") == {}
    notes.add("i-aaa", {"alpha": {"via": "ssh"}})
    assert Notes(tmp_path / "asked").get("i-aaa") == {"alpha": {"via": "ssh"}}
    notes.drop("i-aaa")
    notes.drop("i-aaa")
    assert notes.get("i-aaa") is None


def test_script_is_posix_and_knows_its_verbs() -> None:
    subprocess.run(["sh", "-n", "-c", SCRIPT], check=True)
    run = subprocess.run(
        ["sh", "-c", SCRIPT, "gridcloud", "shout", "/x"], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (64, "shout is no verb\n")
