"""Files that a shell serves are those of its instance: nothing is ever done to those of the machine that serves it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from gridcloud import connections
from gridcloud.agents import file_shell
from gridcloud.agents.file_shell import _Files
from gridcloud.connections.model import LocalAddress
from gridcloud.connections.ssh import SSHConnection
from tests.agents.test_serving import Door

HARMLESS = {"channel", "connection", "env", "logger", "convert_attrs", "format_longname", "exit"}
"""What asyncssh's own server does with no file."""
THERE = ("sh", "env", "stat", "ls", "rm", "mkdir", "readlink", "cat", "head", "dd", "base64", "chmod", "mv")


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[asyncssh.SFTPClient]:
    """Files of an instance whose programs are few: no python3, no ln."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in THERE:
        (programs / name).symlink_to(shutil.which(name) or name)
    (tmp_path / "instance").mkdir()
    door = Door(
        tmp_path, LocalAddress(directory=str(tmp_path / "instance"), enter=("env", f"PATH={programs}"))
    )
    await door.open()
    connection = await connections.open(door.address(), door.credentials)
    assert isinstance(connection, SSHConnection)
    client = await connection._main.start_sftp_client()
    yield client
    client.exit()
    await connection.close()
    await door.close()


async def test_what_only_who_serves_could_do_is_not_done(tmp_path: Path, files: asyncssh.SFTPClient) -> None:
    keys = tmp_path / "keys of the service"
    keys.write_text("secret")
    os.utime(keys, (1_000_000_000, 1_000_000_000))
    with pytest.raises(asyncssh.SFTPError):
        await files.link(str(keys), "stolen")
    with pytest.raises(asyncssh.SFTPError):
        await files.link(str(keys), str(tmp_path / "instance" / "stolen"))
    assert not (tmp_path / "stolen").exists()
    assert list((tmp_path / "instance").iterdir()) == []
    with pytest.raises(asyncssh.SFTPError):
        await files.setstat(str(keys), asyncssh.SFTPAttrs(atime=1, mtime=1), follow_symlinks=False)
    assert keys.stat().st_mtime == 1_000_000_000
    async with files.open("notes", "wb") as file:
        await file.write(b"ours")
        with pytest.raises(asyncssh.SFTPError):
            await file.fsync()
    assert (tmp_path / "instance" / "notes").read_bytes() == b"ours"
    async for entry in files.scandir("."):
        assert f" {os.getuid()} " in str(entry.longname), (
            "who has accounts where it is served is told to nobody"
        )


async def test_a_shell_that_lists_without_end_is_ended(
    tmp_path: Path, files: asyncssh.SFTPClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_shell, "LISTED", 5000)  # nobody waits for 64 MiB of names
    for number in range(30):
        (tmp_path / "instance" / f"{number:0100}").touch()
    with pytest.raises(asyncssh.SFTPError):
        await files.listdir(".")
    assert await files.exists(f"{7:0100}")


def test_nothing_of_the_library_s_own_server_is_left() -> None:
    """It would act on the files of this machine, with the rights of the service."""
    theirs = {name for name in vars(asyncssh.SFTPServer) if not name.startswith("_") and name not in HARMLESS}
    assert theirs - set(vars(_Files)) == set()
