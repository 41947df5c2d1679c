"""This computer keeps the promises of a connection, as ourselves and as another user."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import pytest

from gridcloud import connections
from gridcloud.connections.driver import Command
from gridcloud.connections.local import LocalConnection
from gridcloud.connections.model import LocalAddress, Port, Socket
from gridcloud.errors import Forbidden, NotFound
from gridcloud.testing.connections import Connect, ConnectionContract, talk

OTHER = "nobody"


class TestAsOurselves(ConnectionContract):
    @pytest.fixture
    async def connect(self, folder: Path) -> Connect:
        return lambda: LocalConnection.open(LocalAddress(directory=str(folder)))


@pytest.mark.needs_root
class TestAsAnotherUser(ConnectionContract):
    @pytest.fixture
    async def connect(self, folder: Path) -> Connect:
        shutil.chown(folder, OTHER)
        return lambda: LocalConnection.open(LocalAddress(directory=str(folder), user=OTHER))

    async def test_commands_and_files_are_theirs(self, connect: Connect, folder: Path, here: Path) -> None:
        connection = await connect()
        done = await connections.run(connection, Command(("sh", "-c", "id -un; id -G; echo $HOME $USER")))
        other = pwd.getpwnam(OTHER)
        groups = " ".join(str(group) for group in os.getgrouplist(OTHER, other.pw_gid))
        assert done.stdout.decode().splitlines() == [OTHER, groups, f"{other.pw_dir} {OTHER}"]
        (here / "file").write_text("x")
        await connection.put(here / "file", "a/b")
        exposed = await connection.expose(Port(port=1), Socket(path="s"))
        assert {(folder / name).stat().st_uid for name in ("a", "a/b", "s")} == {other.pw_uid}
        await exposed.close()
        await connection.close()

    async def test_links_of_theirs_lead_nowhere_they_could_not_go(
        self, connect: Connect, folder: Path, here: Path
    ) -> None:
        (here / "secret").write_text("x")
        here.chmod(0o700)
        (folder / "link").symlink_to(here)
        (folder / "file").symlink_to(here / "secret")
        connection = await connect()
        for source in ("link", "file", "link/secret"):
            with pytest.raises((Forbidden, NotFound)):
                await connection.get(source, here / "stolen")
        with pytest.raises(Forbidden):
            await connection.put(here / "secret", "link/planted")
        forward = await connection.forward(Socket(path="link/s"), Socket(path=str(here / "l")))
        assert await talk(forward.endpoint, b"x") == b""
        await connection.close()
        assert sorted(path.name for path in here.iterdir()) == ["secret"]


async def test_secrets_of_the_service_are_not_inherited(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("LC_TIME", "C")
    connection = await LocalConnection.open(LocalAddress(directory=str(folder)))
    done = await connections.run(connection, Command(("env",)))
    await connection.close()
    assert b"secret" not in done.stdout
    assert b"LC_TIME=C" in done.stdout


async def test_an_instance_that_was_removed_is_not_found(folder: Path) -> None:
    with pytest.raises(NotFound):
        await LocalConnection.open(LocalAddress(directory=str(folder / "gone")))
    with pytest.raises(NotFound, match="no user"):
        await LocalConnection.open(LocalAddress(directory=str(folder), user="nobody-of-this-name"))


async def test_every_command_is_put_behind_the_one_that_enters(folder: Path) -> None:
    address = LocalAddress(directory=str(folder), enter=("env", "ENTERED=yes"))
    connection = await LocalConnection.open(address)
    done = await connections.run(connection, Command(("sh", "-c", "echo $ENTERED")))
    await connection.close()
    assert done.stdout == b"yes\n"
