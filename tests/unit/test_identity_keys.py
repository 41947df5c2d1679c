"""SSH keys in their folder, and lines of authorized_keys."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import asyncssh
import pytest

from gridcloud.errors import Conflict, InvalidRequest, NotFound
from gridcloud.identity.keys import KeyFolder, add_authorized_key, remove_authorized_key


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "not" / "there" / "yet")


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_key_comes_is_there_and_goes(keys: KeyFolder, tmp_path: Path) -> None:
    """Identity, promise E; CORC-25: there no, yes, no; the key 0600; only that line removed from authorized_keys."""
    assert not keys.exists("lab")
    line = keys.generate("lab", "ann at the lab")
    assert keys.exists("lab")
    assert _mode(keys.path) == 0o700
    assert _mode(keys.path / "lab") == 0o600
    told = subprocess.run(
        ["ssh-keygen", "-y", "-f", keys.path / "lab"], check=True, capture_output=True, text=True
    )
    assert told.stdout.strip() == line == keys.public("lab")

    authorized = tmp_path / "ssh" / "authorized_keys"
    others = [
        "# who may come in",
        f'from="10.0.0.0/8" {line}',
        asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip(),
    ]
    authorized.parent.mkdir()
    authorized.write_text("\n".join(others))  # the last line has no end
    authorized.chmod(0o640)
    add_authorized_key(authorized, line)
    add_authorized_key(authorized, line + "\n")
    assert authorized.read_text().splitlines() == [*others, line]
    remove_authorized_key(authorized, line)
    remove_authorized_key(authorized, line)
    assert authorized.read_text().splitlines() == others
    assert _mode(authorized) == 0o640

    keys.remove("lab")
    keys.remove("lab")
    assert not keys.exists("lab")
    assert not (keys.path / "lab.pub").exists()
    with pytest.raises(NotFound, match="no key 'lab'"):
        keys.private("lab")


def test_a_key_is_not_overwritten_unless_asked(keys: KeyFolder) -> None:
    first = keys.generate("lab")
    with pytest.raises(Conflict):
        keys.generate("lab")
    assert keys.public("lab") == first
    assert keys.store("lab", asyncssh.generate_private_key("ssh-ed25519"), replace=True) != first
    assert keys.ensure("lab").export_public_key() == keys.private("lab").export_public_key()


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "a.pub", "x" * 65, "a\n"])
def test_a_name_that_leads_elsewhere_is_refused(keys: KeyFolder, name: str) -> None:
    for use in (keys.generate, keys.exists, keys.private, keys.remove):
        with pytest.raises(InvalidRequest):
            use(name)


def test_the_first_line_makes_the_file_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / ".ssh" / "authorized_keys"
    remove_authorized_key(path, "whatever")
    assert not path.parent.exists()
    add_authorized_key(path, asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode())
    assert (_mode(path.parent), _mode(path)) == (0o700, 0o600)


def test_a_line_that_would_smuggle_in_another_is_refused(tmp_path: Path, keys: KeyFolder) -> None:
    line = keys.generate("lab")
    path = tmp_path / "authorized_keys"
    for wrong in (
        f"{line}\n{line}",
        f"{line}\r{line}",
        f"{line}\0",
        "",
        "# a comment",
        "ssh-ed25519 AAAA",
        "hello",
    ):
        with pytest.raises(InvalidRequest):
            add_authorized_key(path, wrong)
    assert not path.exists()


def test_many_at_once_lose_no_line(tmp_path: Path, keys: KeyFolder) -> None:
    path = tmp_path / "authorized_keys"
    lines = [keys.generate(f"k{number}") for number in range(16)]
    for change, left in ((add_authorized_key, set(lines)), (remove_authorized_key, set())):
        threads = [threading.Thread(target=change, args=(path, line)) for line in lines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(path.read_text().splitlines()) == left
