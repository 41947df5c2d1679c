"""What a new machine is told: golden, the same each time it is asked for, and secret."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
import pytest
import yaml

from gridcloud.identity.credentials import Secret
from gridcloud.instances import first_boot
from gridcloud.instances.bootstraps import AgentBoot, AgentDoor
from gridcloud.instances.first_boot import FirstBoot, HostKey, HostKeys, render_user_data

GOLDEN = Path(__file__).parent / "golden" / "user-data.yaml"
AUTHORITY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPqzwTQqkJ6TMoEoDRvSJ1JKqfSTxqJzQ3JVwQ8tqKqk authority"


def test_user_data_is_as_it_was() -> None:
    boot = FirstBoot(
        instance_id="i-abc123",
        host_key=HostKey(private="PRIVATE\nKEY\n", public="ssh-ed25519 AAAA"),
        user_authority=AUTHORITY,
        seconds=7200,
        idle=1800,
        run=("echo 'hello' >/etc/motd",),
    )
    text = render_user_data(boot)
    if not GOLDEN.exists():
        GOLDEN.write_text(text)
        pytest.fail(f"{GOLDEN} was written; look at it")
    assert text == GOLDEN.read_text()


def test_a_machine_that_nobody_reaches_is_told_whom_to_dial() -> None:
    door = AgentDoor(url="https://hub.example:8443", proxy="http://proxy:3128", command=("/opt/grid cloud",))
    boot = FirstBoot(
        instance_id="i-abc123",
        host_key=HostKey(private="PRIVATE\nKEY\n", public="ssh-ed25519 AAAA"),
        user_authority=AUTHORITY,
        user="ada",
        run=("echo first",),
        agent=AgentBoot(door, Secret("gct-secret"), b"AUTHORITIES\n"),
    )
    assert "gct-secret" not in repr(boot)
    document = yaml.safe_load(render_user_data(boot))
    files = {one["path"]: one for one in document["write_files"]}
    token = files["/var/lib/gridcloud-agent/token"]
    assert (token["content"], token["permissions"], token["owner"]) == ("gct-secret\n", "0600", "root:root")
    words = (
        "exec '/opt/grid cloud' agent bootstrap https://hub.example:8443 --token-file "
        '/var/lib/gridcloud-agent/token --state /var/lib/gridcloud-agent/state --home "$HOME" --stay '
        "--ca /var/lib/gridcloud-agent/ca.pem --proxy http://proxy:3128\n"
    )
    assert files["/usr/local/sbin/gridcloud-agent"]["content"].endswith(words)
    assert "User=ada\n" in files["/etc/systemd/system/gridcloud-agent.service"]["content"]
    assert document["runcmd"][-2] == "echo first", "what brings gridcloud comes before it is begun"
    assert "gct-secret" not in str(document["runcmd"])


def test_host_keys_are_the_same_for_an_id_and_differ_between_ids(tmp_path: Path) -> None:
    one, again, other = (HostKeys(tmp_path).key(one) for one in ("i-1", "i-1", "i-2"))
    assert one == again != other
    assert HostKeys(tmp_path / "elsewhere").key("i-1") != one
    private = asyncssh.import_private_key(one.private)
    assert private.export_public_key().decode().split()[:2] == one.public.split()[:2]
    assert (tmp_path / "host-key-seed").stat().st_mode & 0o777 == 0o600
    assert one.private not in repr(one)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["host-key-seed"]


def test_scripts_are_sound(tmp_path: Path) -> None:
    """The machine's scripts do what they say, in a folder instead of /var/lib."""
    boot = FirstBoot("i-1", HostKey("", ""), AUTHORITY)
    files = {one["path"]: one for one in yaml.safe_load(render_user_data(boot))["write_files"]}
    ends = tmp_path / "state" / "ends"
    arm = tmp_path / "arm"
    arm.write_text(files[first_boot.ARM]["content"].replace("/var/lib/gridcloud-machine", str(ends.parent)))
    assert subprocess.run(["sh", arm, "60"], check=False).returncode == 0
    at = datetime.fromtimestamp(int(ends.read_text().split()[0]), UTC)
    assert abs(at - datetime.now(UTC) - timedelta(seconds=60)) < timedelta(seconds=5)
    assert subprocess.run(["sh", arm, "0"], check=False).returncode == 0
    assert not ends.exists()
    for wrong in ("", "-1", "1; touch x", "1e3"):
        assert subprocess.run(["sh", arm, wrong], check=False, capture_output=True).returncode == 2
    assert subprocess.run(["sh", arm, "0", "600"], check=False).returncode == 0
    assert (ends.parent / "idle").read_text() == "600\n"
    assert subprocess.run(["sh", arm, "60"], check=False).returncode == 0
    assert (ends.parent / "idle").exists(), "an expiry that moves says nothing of idleness"
    assert subprocess.run(["sh", arm, "60", "0"], check=False).returncode == 0
    assert not (ends.parent / "idle").exists()
    for path in (first_boot.ARM, first_boot.END):
        script = tmp_path / "script"
        script.write_text(files[path]["content"])
        assert subprocess.run(["sh", "-n", script], check=False).returncode == 0


class Machine:
    """The machine's look at itself, with files of the test for its state, its CPU time and its terminals."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        self.terminals = folder / "pts"
        self.terminals.mkdir()
        self.off = folder / "off"
        self.stat = folder / "stat"
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir()
        for name in ("systemctl", "shutdown", "poweroff", "logger", "nvidia-smi"):
            does = f"echo {name} >>{self.off}" if name == "systemctl" else "true"
            (programs / name).write_text(f"#!/bin/sh\n{does}\n")
            (programs / name).chmod(0o755)
        boot = FirstBoot("i-1", HostKey("", ""), AUTHORITY)
        files = {one["path"]: one for one in yaml.safe_load(render_user_data(boot))["write_files"]}
        text = files[first_boot.END]["content"].replace(first_boot.STATE, str(self.state))
        self.script = text.replace("/proc/stat", str(self.stat)).replace("/dev/pts", str(self.terminals))

    def look(self, *, busy: int, ago: int, before: int) -> bool:
        """Look once: ``busy`` hundredths of a second of work by now, ``before`` by so many seconds ago. Return whether
        it is off then."""
        now = int(datetime.now(UTC).timestamp())
        self.stat.write_text(f"cpu  {busy} 0 0 99999 0 0 0 0 0 0\n")
        (self.state / "seen").write_text(f"{now - ago} {before}\n")
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        subprocess.run(["sh", "-c", self.script], check=True, env={"PATH": path})
        return self.off.exists()

    def last_used(self, seconds: int) -> None:
        """Say when it was used last, so many seconds ago."""
        at = datetime.now(UTC).timestamp() - seconds
        (self.state / "used").touch()
        os.utime(self.state / "used", (at, at))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    (machine.state / "idle").write_text("600\n")
    machine.last_used(600 + first_boot.IDLE_GRACE + 10)
    return machine


def test_a_machine_ends_itself_when_nobody_uses_it(machine: Machine) -> None:
    assert machine.look(busy=1010, ago=30, before=1000)


def test_a_machine_gives_us_time_to_end_it(machine: Machine) -> None:
    machine.last_used(610)
    assert not machine.look(busy=1010, ago=30, before=1000)


@pytest.mark.parametrize(
    ("busy", "ago", "before"),
    [(1200, 30, 1000), (5, 30, 1000), (1010, 4000, 1000), (1010, -30, 1000)],
    ids=["at work", "started again", "clock set forward", "clock set back"],
)
def test_a_machine_that_is_used_or_knows_no_better_goes_on(
    machine: Machine, busy: int, ago: int, before: int
) -> None:
    assert not machine.look(busy=busy, ago=ago, before=before)
    assert not machine.look(busy=1010, ago=30, before=1000), "its time begins anew"


def test_a_terminal_keeps_a_machine(machine: Machine) -> None:
    (machine.terminals / "0").touch()
    assert not machine.look(busy=1010, ago=30, before=1000)


def test_a_machine_that_may_be_idle_looks_at_its_time_only(machine: Machine) -> None:
    (machine.state / "idle").unlink()
    assert not machine.look(busy=1010, ago=30, before=1000)
    (machine.state / "ends").write_text("1\n")
    assert machine.look(busy=1010, ago=30, before=1000)


def ends_in(seconds: int, *, clock: int = 0, boot: str = "") -> str:
    """Return what `gridcloud-arm` notes for so many seconds from now, told by a clock that was wrong by ``clock``."""
    now, up = int(datetime.now(UTC).timestamp()), float(Path("/proc/uptime").read_text().split()[0])
    return (
        f"{now + clock + seconds} {int(up) + seconds} {boot or Path(first_boot.BOOT).read_text().strip()}\n"
    )


@pytest.mark.parametrize("clock", [-30 * 86400, -3600, 3600, 30 * 86400])
def test_a_clock_that_is_set_moves_no_end(machine: Machine, clock: int) -> None:
    """A machine that boots with a wrong clock is told its end, and only then told the time."""
    (machine.state / "idle").unlink()
    ends = machine.state / "ends"
    ends.write_text(ends_in(600, clock=clock))
    assert not machine.look(busy=1010, ago=30, before=1000)
    at = datetime.fromtimestamp(int(ends.read_text().split()[0]), UTC)
    assert abs(at - datetime.now(UTC) - timedelta(seconds=600)) < timedelta(seconds=10), "noted anew"
    ends.write_text(ends_in(-1, clock=clock))
    assert machine.look(busy=1010, ago=30, before=1000)


def test_after_another_start_the_clock_counts(machine: Machine) -> None:
    (machine.state / "idle").unlink()
    ends = machine.state / "ends"
    ends.write_text(ends_in(600, boot="another"))
    assert not machine.look(busy=1010, ago=30, before=1000)
    ends.write_text(ends_in(-1, boot="another"))
    assert machine.look(busy=1010, ago=30, before=1000)


def test_a_gpu_that_does_not_answer_holds_nothing_up() -> None:
    boot = FirstBoot("i-1", HostKey("", ""), AUTHORITY)
    files = {one["path"]: one for one in yaml.safe_load(render_user_data(boot))["write_files"]}
    assert "timeout 10 nvidia-smi --query" in files[first_boot.END]["content"]
    service = files["/etc/systemd/system/gridcloud-end.service"]["content"]
    assert "TimeoutStartSec=25" in service, "a look that hangs would be the last"


def test_an_owner_who_is_not_root_has_no_say_in_the_end() -> None:
    boot = FirstBoot("i-1", HostKey("", ""), AUTHORITY, user="ada", sudo=False)
    document = yaml.safe_load(render_user_data(boot))
    files = {one["path"]: one for one in document["write_files"]}
    assert files["/etc/sudoers.d/90-gridcloud-arm"]["content"] == (
        f"gridcloud-arm ALL=(root) NOPASSWD: {first_boot.ARM}\n"
    )
    assert [(one["name"], "sudo" in one) for one in document["users"]] == [
        ("ada", False),
        ("gridcloud-arm", False),
    ]
    principals = {path: files[path]["content"] for path in files if path.startswith(first_boot.PRINCIPALS)}
    assert principals == {
        f"{first_boot.PRINCIPALS}/ada": "gridcloud-i-1\n",
        f"{first_boot.PRINCIPALS}/gridcloud-arm": "gridcloud-arm-i-1\n",
    }
