"""What a new machine is told: golden, the same each time it is asked for, and secret."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
import pytest
import yaml

from gridcloud.instances import first_boot
from gridcloud.instances.first_boot import FirstBoot, HostKey, HostKeys, render_user_data

GOLDEN = Path(__file__).parent / "golden" / "user-data.yaml"
AUTHORITY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPqzwTQqkJ6TMoEoDRvSJ1JKqfSTxqJzQ3JVwQ8tqKqk authority"


def test_user_data_is_as_it_was() -> None:
    boot = FirstBoot(
        instance_id="i-abc123",
        host_key=HostKey(private="PRIVATE\nKEY\n", public="ssh-ed25519 AAAA"),
        user_authority=AUTHORITY,
        seconds=7200,
        run=("echo 'hello' >/etc/motd",),
    )
    text = render_user_data(boot)
    if not GOLDEN.exists():
        GOLDEN.write_text(text)
        pytest.fail(f"{GOLDEN} was written; look at it")
    assert text == GOLDEN.read_text()


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
    at = datetime.fromtimestamp(int(ends.read_text()), UTC)
    assert abs(at - datetime.now(UTC) - timedelta(seconds=60)) < timedelta(seconds=5)
    assert subprocess.run(["sh", arm, "0"], check=False).returncode == 0
    assert not ends.exists()
    for wrong in ("", "-1", "1; touch x", "1e3"):
        assert subprocess.run(["sh", arm, wrong], check=False, capture_output=True).returncode == 2
    for path in (first_boot.ARM, first_boot.END):
        script = tmp_path / "script"
        script.write_text(files[path]["content"])
        assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
