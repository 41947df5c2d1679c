"""A machine with an SSH server keeps the promises of a connection, and trusts nobody who was not named."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from gridcloud import connections
from gridcloud.connections import shell
from gridcloud.connections.driver import Command
from gridcloud.connections.model import Port, SSHAddress
from gridcloud.connections.ssh import SSHConnection, Timing
from gridcloud.errors import (
    ConnectionLost,
    Forbidden,
    InvalidSettings,
    NotFound,
    StorageFull,
    Unreachable,
    Untrusted,
)
from gridcloud.testing.connections import Connect, ConnectionContract, FileCredentials
from gridcloud.testing.sshd import SSHServer

TRUE = Command(("true",))


class TestSSH(ConnectionContract):
    @pytest.fixture
    async def connect(self, ssh_server: SSHServer, folder: Path) -> Connect:
        address = ssh_server.address(directory=str(folder))
        return lambda: connections.open(address, ssh_server.credentials())


@pytest.mark.skipif(not os.access("/bin/bash", os.X_OK), reason="there is no bash")
@pytest.mark.parametrize("interpreter", ["/bin/bash --posix", "/bin/bash"])
async def test_other_shells_read_our_programs_alike(
    ssh_server: SSHServer, folder: Path, monkeypatch: pytest.MonkeyPatch, interpreter: str
) -> None:
    plain = shell.command_line
    # On this machine /bin/sh is one shell; the other is put into the command that the login shell gets.
    monkeypatch.setattr(shell, "command_line", lambda text: plain(text).replace("/bin/sh", interpreter, 1))
    address = ssh_server.address(directory=str(folder))
    suite = ConnectionContract()
    connection = await connections.open(address, ssh_server.credentials())
    await suite.test_words_arrive_as_they_are(connection)
    await suite.test_values_of_variables_arrive_as_they_are(connection)
    await suite.test_a_long_value_arrives(connection)
    await suite.test_a_working_directory_that_does_not_exist_is_not_found(connection)
    await suite.test_a_signal_reaches_children(connection)
    await suite.test_a_terminal_has_its_size_and_takes_another(connection)
    await suite.test_what_was_started_ends_with_it(
        lambda: connections.open(address, ssh_server.credentials()), connection
    )
    await connection.close()


async def test_through_another_host_all_goes_the_same_way(
    ssh_server: SSHServer, folder: Path, tmp_path: Path
) -> None:
    address = ssh_server.address(directory=str(folder), jump=ssh_server.address())
    suite = ConnectionContract()
    connection = await connections.open(address, ssh_server.credentials())
    await suite.test_streams_come_apart_and_the_exit_code_is_told(connection)
    await suite.test_folders_travel_both_ways(connection, tmp_path)
    await suite.test_a_port_that_is_taken_is_refused(connection, tmp_path)
    await connection.close()


# Trust


async def refused(address: SSHAddress, server: SSHServer, timing: Timing | None = None) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (the callers look at its class)
        await SSHConnection.open(address, server.credentials(), timing)
    return caught.value


def another_key() -> str:
    return asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()


async def test_a_host_nobody_vouched_for_is_not_trusted(ssh_server: SSHServer) -> None:
    error = await refused(ssh_server.address(host_keys=()), ssh_server)
    assert isinstance(error, Untrusted)
    assert f"ssh-keyscan -p {ssh_server.port} 127.0.0.1" in str(error)


async def test_a_host_with_another_key_is_refused_loudly(ssh_server: SSHServer) -> None:
    wrong = another_key()
    error = await refused(ssh_server.address(host_keys=(wrong,)), ssh_server)
    assert isinstance(error, Untrusted)
    for part in (
        "HOST KEY MISMATCH",
        "127.0.0.1",
        asyncssh.import_public_key(wrong).get_fingerprint(),
        asyncssh.import_public_key(ssh_server.host_key).get_fingerprint(),
    ):
        assert part in str(error)


async def test_a_host_with_a_key_of_another_kind_is_refused(ssh_server: SSHServer) -> None:
    key = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode()
    assert isinstance(await refused(ssh_server.address(host_keys=(key,)), ssh_server), Untrusted)


async def test_a_jump_host_with_another_key_is_refused(ssh_server: SSHServer) -> None:
    jump = ssh_server.address(host_keys=(another_key(),))
    assert isinstance(await refused(ssh_server.address(jump=jump), ssh_server), Untrusted)


async def test_a_host_behind_a_jump_host_is_verified_too(ssh_server: SSHServer) -> None:
    address = ssh_server.address(host_keys=(another_key(),), jump=ssh_server.address())
    assert isinstance(await refused(address, ssh_server), Untrusted)


async def test_what_is_no_key_is_a_mistake_of_the_settings(ssh_server: SSHServer) -> None:
    error = await refused(ssh_server.address(host_keys=("ssh-ed25519 nonsense",)), ssh_server)
    assert isinstance(error, InvalidSettings)


async def test_a_host_certificate_is_trusted_by_its_authority(tmp_path: Path) -> None:
    with SSHServer(tmp_path, certified=True) as server:
        trusted = server.address(host_keys=(), host_authorities=(server.host_authority,))
        connection = await SSHConnection.open(trusted, server.credentials())
        await connection.check()
        await connection.close()
        stranger = server.address(host_keys=(), host_authorities=(another_key(),))
        assert isinstance(await refused(stranger, server), Untrusted)


async def test_a_user_certificate_lets_in(ssh_server: SSHServer) -> None:
    connection = await SSHConnection.open(
        ssh_server.address(principal=ssh_server.user), ssh_server.credentials()
    )
    await connection.check()
    await connection.close()
    error = await refused(ssh_server.address(principal="somebody-else"), ssh_server)
    assert isinstance(error, Forbidden)
    assert "somebody-else" in str(error)


async def test_a_wrong_user_key_is_forbidden(ssh_server: SSHServer, tmp_path: Path) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "key")
    address = ssh_server.address(key=f"file:{tmp_path / 'key'}")
    error = await refused(address, ssh_server)
    assert isinstance(error, Forbidden)
    assert ssh_server.user in str(error)
    assert isinstance(await refused(ssh_server.address(key="file:/nowhere"), ssh_server), NotFound)


async def test_keys_and_settings_of_the_user_are_not_looked_at(
    ssh_server: SSHServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key in ~/.ssh that would be let in, a known_hosts and a config that would say yes: none of them counts."""
    home = Path(os.environ["HOME"]) / ".ssh"
    home.mkdir(mode=0o700)
    try:
        (home / "id_ed25519").write_bytes((ssh_server.folder / "user_key").read_bytes())
        (home / "known_hosts").write_text(f"[127.0.0.1]:{ssh_server.port} {ssh_server.host_key}\n")
        (home / "config").write_text("Host *\n  User nobody\n  Port 1\n")
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "key")
        wrong = FileCredentials(tmp_path / "key")
        with pytest.raises(Forbidden):
            await SSHConnection.open(ssh_server.address(), wrong)
        assert isinstance(
            await refused(ssh_server.address(host_keys=(another_key(),)), ssh_server), Untrusted
        )
    finally:
        for path in home.iterdir():
            path.unlink()
        home.rmdir()


# Reaching it


async def test_nothing_listening_is_unreachable(ssh_server: SSHServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening
        address = ssh_server.address(port=taken.getsockname()[1])
        assert isinstance(await refused(address, ssh_server), Unreachable)
    assert isinstance(await refused(ssh_server.address(host="no-such-host.invalid"), ssh_server), Unreachable)


async def test_silence_is_unreachable_in_bounded_time(ssh_server: SSHServer) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)  # takes the connection and never says a word
        address = ssh_server.address(port=silent.getsockname()[1])
        error = await refused(address, ssh_server, Timing(connect=0.3))
        assert isinstance(error, Unreachable)


async def test_a_server_that_dies_ends_everything_with_a_reason(tmp_path: Path, folder: Path) -> None:
    with SSHServer(tmp_path) as server:
        connection = await SSHConnection.open(server.address(directory=str(folder)), server.credentials())
        process = await connection.start(Command(("sh", "-c", "echo $PPID; sleep 60")))
        parent = int(await anext(process.stdout()))
        os.kill(parent, 9)  # the server's process for this connection
        with pytest.raises(ConnectionLost):
            await process.wait()
        await asyncio.wait_for(connection.wait_closed(), 30)
        with pytest.raises(ConnectionLost):
            await connection.start(TRUE)
        with pytest.raises(ConnectionLost):
            await connection.put(Path(__file__), "x")
        with pytest.raises(ConnectionLost):
            await connection.forward(Port(port=1), Port())
        await connection.close()


async def test_more_commands_than_a_connection_takes_go_through_further_ones(tmp_path: Path) -> None:
    with SSHServer(tmp_path, settings="MaxSessions 3\n") as server:
        connection = await SSHConnection.open(server.address(), server.credentials())
        processes = [await connection.start(Command(("cat",))) for _ in range(9)]
        for process in processes:
            await process.close_input()
        assert [await process.wait() for process in processes] == [0] * 9
        await connection.close()


async def test_a_login_that_chatters_does_not_disturb(tmp_path: Path) -> None:
    key = 'command="echo Welcome; echo to the machine >&2; eval \\"$SSH_ORIGINAL_COMMAND\\"" '
    with SSHServer(tmp_path) as server:
        keys = tmp_path / "authorized_keys"
        keys.write_text(key + keys.read_text())
        connection = await SSHConnection.open(server.address(), server.credentials())
        done = await connections.run(connection, Command(("echo", "hello")))
        assert done.stdout == b"hello\n"
        await connection.close()


async def test_an_account_without_a_shell_says_so(tmp_path: Path) -> None:
    with SSHServer(tmp_path, settings="ForceCommand echo This account is for files only; exit 1\n") as server:
        connection = await SSHConnection.open(server.address(), server.credentials())
        with pytest.raises(ConnectionLost, match="files only"):
            await connection.start(TRUE)
        await connection.close()


# Files


@pytest.fixture
def tiny_disk() -> Iterator[Path]:
    """A file system of one mebibyte."""
    path = Path(tempfile.mkdtemp(prefix="gct"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)
    path.rmdir()


@pytest.mark.needs_root
async def test_a_full_disk_is_told_and_nothing_is_left(
    ssh_server: SSHServer, tiny_disk: Path, folder: Path
) -> None:
    (folder / "tree").mkdir()
    (folder / "tree" / "big").write_bytes(os.urandom(3 << 20))
    connection = await SSHConnection.open(
        ssh_server.address(directory=str(tiny_disk)), ssh_server.credentials()
    )
    for source in (folder / "tree", folder / "tree" / "big"):
        with pytest.raises(StorageFull):
            await connection.put(source, "copy")
        assert list(tiny_disk.iterdir()) == []
    with pytest.raises(StorageFull):  # and here, when our own disk is the full one
        await connection.get(str(folder / "tree"), tiny_disk / "copy")
    assert list(tiny_disk.iterdir()) == []
    await connection.close()


async def test_names_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    """A server that lies: its listing names files outside the folder."""
    hostile = ["../planted", "/tmp/gridcloud-planted", "a/b", "..", ""]

    class Liar(asyncssh.SFTPServer):
        async def scandir(self, path: bytes):  # type: ignore[no-untyped-def]
            for name in (b".", b"..", *(item.encode() for item in hostile[self.turn : self.turn + 1])):
                yield asyncssh.SFTPName(name, attrs=asyncssh.SFTPAttrs(permissions=0o100644, size=1))

        turn = 0

    (tmp_path / "there").mkdir()
    key = asyncssh.generate_private_key("ssh-ed25519")
    user = asyncssh.generate_private_key("ssh-ed25519")
    user.write_private_key(tmp_path / "key")
    (tmp_path / "authorized").write_bytes(user.export_public_key())
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[key],
        sftp_factory=Liar,
        authorized_client_keys=str(tmp_path / "authorized"),
    )
    address = SSHAddress(
        host="127.0.0.1", port=server.get_port(), user="x", host_keys=(key.export_public_key().decode(),)
    )
    connection = await SSHConnection.open(address, FileCredentials(tmp_path / "key"))
    for turn, _ in enumerate(hostile):
        Liar.turn = turn
        if hostile[turn] == "..":
            continue  # as every listing has it
        with pytest.raises(Forbidden, match="could lead outside"):
            await connection.get(str(tmp_path / "there"), tmp_path / "target")
        assert not (tmp_path / "target").exists()
        assert not (tmp_path / "planted").exists()
    await connection.close()
    server.close()
    await server.wait_closed()
