"""A folder of a file server in a program: real sshd, real FUSE. VOL-03, VOL-06, VOL-07, VOL-09, VOL-10, VOL-12."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gridcloud.errors import InvalidSettings
from gridcloud.hooks.model import Mount
from gridcloud.identity.credentials import Secret
from gridcloud.spawner.mounts import mounted, mounting_keys
from gridcloud.testing.sshd import SSHServer

if not (shutil.which("sshfs") and os.access("/dev/fuse", os.R_OK | os.W_OK)):
    pytest.skip("no sshfs, or no /dev/fuse: apt-get install sshfs", allow_module_level=True)

KEY_LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH3x1vhVjvqFB2vKBv5oTeT2ykQZlV7H1S2iDxJjK9Qm"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path, and nothing of ours mounted below it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="gcm"))
    yield folder
    subprocess.run(["fusermount3", "-uzq", str(folder / "home" / "remote")], check=False)
    shutil.rmtree(folder)


@pytest.fixture
def server(place: Path) -> Iterator[SSHServer]:
    (place / "sshd").mkdir()
    (place / "theirs").mkdir()
    (place / "home").mkdir()
    with SSHServer(place / "sshd") as server:
        yield server


@pytest.fixture
def mount_of(server: SSHServer, place: Path) -> Callable[..., Mount]:
    def make(**changes: Any) -> Mount:
        known: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": server.port,
            "account": server.user,
            "key": Secret((server.folder / "user_key").read_bytes()),
            "host_keys": (" ".join(server.host_key.split()[:2]),),
            "folder": str(place / "theirs"),
        }
        return Mount(**(known | changes))

    return make


def start(place: Path, mount: Mount, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        mounted(words, [mount]),
        env={**os.environ, **mounting_keys([mount])},
        cwd=place / "home",
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(true: Callable[[], object], seconds: float = 20) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if true():
            return True
        time.sleep(0.02)
    return False


def is_mounted(place: Path) -> bool:
    return f" {place}/home/remote fuse.sshfs " in Path("/proc/self/mounts").read_text()


def of_ours(place: Path) -> list[psutil.Process]:
    """Return what runs for a mount: sshfs, its ssh, the agent, what watches."""
    found = []
    port = (place / "sshd" / "sshd_config").read_text().split()[1]
    for one in psutil.process_iter(["cmdline", "name"]):
        words = " ".join(one.info["cmdline"] or ())
        if (str(place) in words or f"-oPort={port}" in words) and one.info["name"] in (
            "sshfs",
            "ssh",
            "ssh-agent",
            "sh",
        ):
            found.append(one)
    return found


def test_a_program_finds_the_folder_and_the_key_is_gone_afterwards(
    place: Path, mount_of: Callable[..., Mount]
) -> None:
    mount = mount_of()
    look = "echo hello >remote/v1; env; ls -la /proc/$$/fd >/dev/null; cat remote/v1; exit 7"
    process = start(place, mount, "/bin/sh", "-c", look)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 7, said
    assert said.splitlines()[-1] == "hello"
    assert (place / "theirs" / "v1").read_text() == "hello\n"
    assert "PRIVATE KEY" not in said
    assert "SSH_AUTH_SOCK" not in said
    assert "GRIDCLOUD_MOUNT" not in said
    assert not is_mounted(place)
    assert list((place / "home" / "remote").iterdir()) == []
    assert until(lambda: not of_ours(place)), of_ours(place)
    secret = mount.key.reveal().split("\n")[2]
    assert subprocess.run(
        ["grep", "-rqs", secret, "/tmp/", "--include=gridcloud-mount*"], check=False
    ).returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_is_unmounted_however_the_program_ends(
    place: Path, mount_of: Callable[..., Mount], number: signal.Signals
) -> None:
    process = start(place, mount_of(), "/bin/sh", "-c", "touch ../runs; sleep 100")
    assert until((place / "runs").exists)
    assert is_mounted(place)
    os.killpg(process.pid, number)
    process.communicate(timeout=30)
    assert until(lambda: not is_mounted(place))
    assert until(lambda: not of_ours(place)), of_ours(place)


def test_it_comes_back_after_a_cut_and_over_what_was_left(
    place: Path, server: SSHServer, mount_of: Callable[..., Mount]
) -> None:
    (place / "theirs" / "here").touch()
    process = start(place, mount_of(), "/bin/sh", "-c", "touch ../runs; sleep 100")
    assert until((place / "runs").exists)
    assert is_mounted(place)
    server.__exit__()
    for one in of_ours(place):
        if one.name() == "ssh":
            one.kill()
    server.__enter__()
    assert until(lambda: _lists(place) == ["here"]), _lists(place)
    for one in of_ours(place):  # with what watches, so that the mount is left dead
        if one.name() in ("sh", "sshfs", "ssh-agent"):
            one.kill()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    again = start(place, mount_of(), "ls", "remote")
    said, _ = again.communicate(timeout=60)
    assert said == "here\n"


def _lists(place: Path) -> list[str]:
    try:
        return os.listdir(place / "home" / "remote")
    except OSError as error:
        return [str(error)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"host_keys": (KEY_LINE,)},
            "Host key verification failed|HOST IDENTIFICATION HAS CHANGED|reset by peer",
        ),
        ({"port": 1}, "refused|reset by peer"),
        ({"key": Secret("no key")}, "its key is not taken"),
        ({"folder": "/no/such/folder"}, "No such file"),
    ],
)
def test_what_cannot_be_mounted_runs_nothing(
    place: Path, mount_of: Callable[..., Mount], changes: dict[str, Any], words: str
) -> None:
    process = start(place, mount_of(**changes), "touch", str(place / "ran"))
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 69
    assert "The remote folder is not mounted" in said
    assert not (place / "ran").exists()
    assert until(lambda: not of_ours(place))


def test_read_only_is_kept(place: Path, mount_of: Callable[..., Mount]) -> None:
    process = start(place, mount_of(read_only=True), "touch", "remote/v1")
    said, _ = process.communicate(timeout=60)
    assert "Read-only file system" in said
    assert process.returncode == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"at": "../../evil"},
        {"at": "/etc"},
        {"at": ""},
        {"at": "a\nb"},
        {"account": "-oProxyCommand=id"},
        {"account": "a b"},
        {"host": "-oProxyCommand=id"},
        {"host": "a,b"},
        {"folder": "../x"},
        {"folder": "a\nb"},
        {"host_keys": ()},
        {"host_keys": ("* ssh-ed25519 AAAA\n* other",)},
        {"port": 0},
        {"life": 0},
    ],
)
def test_hostile_names_are_refused(changes: dict[str, Any]) -> None:
    good: dict[str, Any] = {"host": "files", "account": "ada", "key": Secret("k"), "host_keys": (KEY_LINE,)}
    Mount(**good)
    with pytest.raises(InvalidSettings, match=f"no proper {next(iter(changes))}"):
        Mount(**good | changes)
    with pytest.raises(InvalidSettings, match="Two folders"):
        mounted(["true"], [Mount(**good), Mount(**good)])
