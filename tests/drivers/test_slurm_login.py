"""What the `slurm` provider does on a login node, without a Slurm: folders and secrets are the account's alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

from gridcloud.drivers.instances.slurm import FOLDERS


def prepare(folder: Path, *home: Path) -> int:
    words: list[str | Path] = ["sh", "-c", f"umask 000\n{FOLDERS}", "gridcloud", "prepare", folder, *home]
    return subprocess.run(
        words, input=b"a token\nan authority\n", check=False, stderr=subprocess.DEVNULL
    ).returncode


def test_what_is_made_for_a_job_is_closed_to_other_accounts(tmp_path: Path) -> None:
    folder, home = tmp_path / "jobs" / "i-1", tmp_path / "homes" / "ann"
    assert prepare(folder, home) == 0
    made = [tmp_path / "jobs", folder, tmp_path / "homes", home, folder / "token", folder / "ca.pem"]
    assert [one for one in made if one.stat().st_mode & 0o077] == []
    assert (folder / "token").read_text() == "a token\n"
    assert (folder / "ca.pem").read_text() == "an authority\n"


def test_no_secret_goes_where_a_link_leads(tmp_path: Path) -> None:
    """Another job of the account may have put it there before."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "i-1").symlink_to(elsewhere)
    assert prepare(tmp_path / "i-1") != 0
    folder = tmp_path / "i-2"
    folder.mkdir()
    for name in ("token", "ca.pem"):
        (elsewhere / name).write_text("as it was")
        (folder / name).symlink_to(elsewhere / name)
    assert prepare(folder) == 0
    assert {one.read_text() for one in elsewhere.iterdir()} == {"as it was"}
