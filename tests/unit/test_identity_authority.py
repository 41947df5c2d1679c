"""The certificate authority, held against OpenSSH's own tools and server."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gridcloud.clock import ManualClock
from gridcloud.connections.driver import Credentials
from gridcloud.errors import Forbidden, GridcloudError, InvalidRequest, InvalidSettings, NotFound, Unavailable
from gridcloud.identity.authority import Authority
from gridcloud.identity.ssh import SSHCredentials

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime.now(UTC).replace(microsecond=0))


@pytest.fixture
def authority(tmp_path: Path, clock: ManualClock) -> Authority:
    return Authority(tmp_path / "authority", clock)


@pytest.fixture
def key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


def _line(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode()


def _shown(certificate: asyncssh.SSHCertificate, folder: Path) -> str:
    path = folder / "shown-cert.pub"
    certificate.write_certificate(path)
    return subprocess.run(["ssh-keygen", "-L", "-f", path], check=True, capture_output=True, text=True).stdout


def test_keys_are_private_and_stay(authority: Authority, tmp_path: Path, clock: ManualClock) -> None:
    folder = tmp_path / "authority"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {one.stat().st_mode & 0o777 for one in folder.iterdir() if one.suffix != ".pub"} == {0o600}
    again = Authority(folder, clock)
    assert again.user_authority == authority.user_authority != authority.host_authority
    assert _line(again.service_key) == _line(authority.service_key)


def test_a_user_certificate_says_what_it_should(
    authority: Authority, key: asyncssh.SSHKey, tmp_path: Path
) -> None:
    certificate = authority.user_certificate(_line(key), "ann\nroot; x", ["ann", "lab"], seconds=600)
    shown = _shown(certificate, tmp_path)
    assert "user certificate" in shown
    assert "gridcloud:ann%0Aroot%3B%20x:" in shown
    assert shown.split("Principals:")[1].split("Critical")[0].split() == ["ann", "lab"]
    assert "permit-port-forwarding" in shown
    assert "permit-agent-forwarding" not in shown
    valid = [datetime.fromisoformat(word) for word in shown.split("Valid: from ")[1].split()[:3:2]]
    assert (valid[1] - valid[0]).total_seconds() == 600 + 120


def test_a_host_certificate_is_for_its_names(
    authority: Authority, key: asyncssh.SSHKey, tmp_path: Path
) -> None:
    shown = _shown(authority.host_certificate(_line(key), ["node1.example", "10.0.0.7"]), tmp_path)
    assert "host certificate" in shown
    assert shown.split("Principals:")[1].split("Critical")[0].split() == ["node1.example", "10.0.0.7"]
    assert authority.host_authority.split()[1] != authority.user_authority.split()[1]


@pytest.mark.parametrize("principals", [[], ["a,b"], ["a b"], [""], ["a\nb"], ["ü"], "root"])
def test_a_certificate_for_everybody_or_for_trick_names_is_refused(
    authority: Authority, key: asyncssh.SSHKey, principals: list[str]
) -> None:
    with pytest.raises(InvalidRequest):
        authority.user_certificate(_line(key), "ann", principals)
    with pytest.raises(InvalidRequest):
        authority.host_certificate(_line(key), principals)


@pytest.mark.parametrize("seconds", [0, -5, 10**9])
def test_a_certificate_without_end_is_refused(
    authority: Authority, key: asyncssh.SSHKey, seconds: int
) -> None:
    with pytest.raises(InvalidRequest, match="lasts"):
        authority.user_certificate(_line(key), "ann", ["ann"], seconds)


def test_what_is_no_key_is_refused(authority: Authority) -> None:
    with pytest.raises(InvalidRequest, match="no public SSH key"):
        authority.user_certificate("hello", "ann", ["ann"])


def _revoked(authority: Authority, certificate: asyncssh.SSHCertificate, folder: Path) -> bool:
    (folder / "krl").write_bytes(authority.revocations())
    certificate.write_certificate(folder / "asked-cert.pub")
    asked = subprocess.run(
        ["ssh-keygen", "-Q", "-f", folder / "krl", folder / "asked-cert.pub"], capture_output=True, text=True
    )
    assert "ok" in asked.stdout or "REVOKED" in asked.stdout, asked
    return asked.returncode != 0


def test_the_revocation_list_is_one_that_openssh_reads(
    authority: Authority, key: asyncssh.SSHKey, tmp_path: Path
) -> None:
    bad, good = (authority.user_certificate(_line(key), "ann", ["ann"]) for _ in range(2))
    assert not _revoked(authority, bad, tmp_path)
    authority.revoke([serial_of(bad), 7])
    authority.revoke([serial_of(bad)])
    assert _revoked(authority, bad, tmp_path)
    assert not _revoked(authority, good, tmp_path)
    authority.rotate("user")
    assert _revoked(authority, bad, tmp_path)


def serial_of(certificate: asyncssh.SSHCertificate) -> int:
    key_id = certificate._key_id  # type: ignore[attr-defined]  # asyncssh keeps it to itself
    return int(str(key_id).rpartition(":")[2])


def test_rotation_trusts_the_old_one_until_it_is_forgotten(authority: Authority) -> None:
    old = authority.user_authority
    new = authority.rotate("user")
    assert authority.user_authority == new != old
    assert authority.authorities("user") == [new, old]
    assert authority.authorities("host") == [authority.host_authority]
    authority.forget("user")
    assert authority.authorities("user") == [new]


class Server:
    """A real sshd on loopback that trusts an authority, and nothing else."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.folder = folder
        self.authority = authority
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        host = asyncssh.generate_private_key("ssh-ed25519")
        host.write_private_key(folder / "host")
        (folder / "host").chmod(0o600)
        authority.host_certificate(_line(host), ["127.0.0.1"]).write_certificate(folder / "host-cert.pub")
        self.publish()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (folder / "config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host\nHostCertificate {folder}/host-cert.pub\n"
            f"TrustedUserCAKeys {folder}/trusted\nRevokedKeys {folder}/revoked\nAuthorizedKeysFile none\n"
            "AuthorizedPrincipalsFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
            "PidFile none\nStrictModes no\nPermitRootLogin prohibit-password\nLogLevel ERROR\n"
        )

    def publish(self) -> None:
        (self.folder / "trusted").write_text("\n".join(self.authority.authorities("user")) + "\n")
        (self.folder / "revoked").write_bytes(self.authority.revocations())

    async def log_in(self, *keys: object) -> str:
        trusted = [asyncssh.import_public_key(line) for line in self.authority.authorities("host")]
        hosts: tuple[list[Any], ...] = ([], trusted, [])
        async with asyncssh.connect(
            "127.0.0.1",
            self.port,
            username=self.user,
            client_keys=list(keys),
            known_hosts=hosts,
            agent_path=None,
            config=None,
        ) as connection:
            return str((await connection.run("echo hello", check=True)).stdout)


@pytest.fixture
def server(tmp_path: Path, authority: Authority) -> Iterator[Server]:
    if SSHD is None:
        pytest.skip("no SSH server here: run `apt-get install openssh-server`")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = Server(tmp_path, authority)
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", tmp_path / "config"], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", server.port), 1).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield server
    finally:
        process.terminate()
        process.communicate()


async def test_a_real_server_lets_in_whom_the_certificate_names(
    server: Server, authority: Authority, clock: ManualClock, key: asyncssh.SSHKey
) -> None:
    """Identity, promise C."""
    credentials: Credentials = SSHCredentials(authority, "ann")
    pair = await credentials.user_certificate(server.user)
    assert await server.log_in(pair) == "hello\n"

    stranger = await credentials.user_certificate("somebody-else")
    past = Authority(server.folder / "authority", ManualClock(clock.now() - timedelta(days=1)))
    expired = key, past.user_certificate(_line(key), "ann", [server.user], 60)
    foreign = (
        key,
        Authority(server.folder / "foreign", clock).user_certificate(_line(key), "ann", [server.user]),
    )
    host = key, authority.host_certificate(_line(key), [server.user])
    for refused in (stranger, expired, foreign, host, key):
        with pytest.raises(asyncssh.PermissionDenied):
            await server.log_in(refused)

    authority.revoke([serial_of(pair[1])])
    server.publish()
    with pytest.raises(asyncssh.PermissionDenied):
        await server.log_in(pair)

    authority.rotate("user")
    server.publish()
    assert await server.log_in(await credentials.user_certificate(server.user)) == "hello\n"


async def test_a_server_that_was_told_of_the_next_key_outlives_the_rotation(
    server: Server, authority: Authority
) -> None:
    credentials = SSHCredentials(authority)
    present, following = authority.user_authority, authority.prepare("user")
    assert authority.prepare("user") == following
    assert authority.published("user") == [present, following]
    (server.folder / "trusted").write_text("\n".join(authority.published("user")) + "\n")  # and never again
    assert await server.log_in(await credentials.user_certificate(server.user)) == "hello\n"
    assert authority.rotate("user") == following == authority.user_authority
    assert await server.log_in(await credentials.user_certificate(server.user)) == "hello\n"
    assert authority.published("user") == [following]
    assert authority.prepared("user") is None
    assert present in authority.authorities("user")
    assert authority.rotate("user") != following, "nothing was prepared"
    with pytest.raises(asyncssh.PermissionDenied):
        await server.log_in(await credentials.user_certificate(server.user))


async def test_a_server_without_our_host_certificate_is_not_believed(
    server: Server, authority: Authority
) -> None:
    """Identity, promise D."""
    pair = await SSHCredentials(authority).user_certificate(server.user)
    authority.rotate("host")
    authority.forget("host")
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await server.log_in(pair)


async def test_private_keys_by_reference(authority: Authority, key: asyncssh.SSHKey, tmp_path: Path) -> None:
    credentials = SSHCredentials(authority)
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key())
    found = await credentials.private_key(f"file:{path}")
    assert isinstance(found, asyncssh.SSHKey)
    assert _line(found) == _line(key)
    own = await credentials.private_key("")
    assert isinstance(own, asyncssh.SSHKey)
    assert _line(own) == _line(authority.service_key)


@pytest.mark.parametrize(
    ("prepare", "error", "said"),
    [
        (lambda path: path.unlink(), NotFound, "is not there"),
        (lambda path: path.chmod(0o644), Forbidden, "chmod 600"),
        (lambda path: path.write_text("hunter2"), InvalidSettings, "is no private SSH key"),
    ],
)
async def test_a_key_that_cannot_be_used_says_why(
    authority: Authority,
    tmp_path: Path,
    prepare: Callable[[Path], object],
    error: type[GridcloudError],
    said: str,
) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(authority.service_key.export_private_key())
    prepare(path)
    with pytest.raises(error, match=said) as failure:
        await SSHCredentials(authority).private_key(f"file:{path}")
    assert "hunter2" not in str(failure.value)


@pytest.fixture
def protected(tmp_path: Path) -> Path:
    path = tmp_path / "protected"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "hunter2", "-f", path], check=True)
    return path


async def test_a_key_with_a_passphrase_sends_to_the_agent(authority: Authority, protected: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"passphrase.*agent"):
        await SSHCredentials(authority).private_key(f"file:{protected}")


@pytest.fixture
def agent(tmp_path: Path, key: asyncssh.SSHKey, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = tmp_path / "agent.sock"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    (tmp_path / "id").touch(mode=0o600)
    key.set_comment("ann at the lab")
    (tmp_path / "id").write_bytes(key.export_private_key())
    try:
        while not path.exists():
            time.sleep(0.01)
        subprocess.run(["ssh-add", tmp_path / "id"], check=True, capture_output=True)
        yield
    finally:
        process.terminate()
        process.wait()


async def test_an_agent_signs(authority: Authority, agent: None, key: asyncssh.SSHKey) -> None:
    credentials = SSHCredentials(authority)
    for reference in ("agent:", "agent:ann at the lab"):
        found = await credentials.private_key(reference)
        assert found.public_data == key.public_data
    with pytest.raises(NotFound, match="it has: ann at the lab"):
        await credentials.private_key("agent:other")
    await credentials.close()
    await credentials.close()


async def test_an_agent_that_is_not_there_is_named(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/no/such/socket")
    with pytest.raises(Unavailable, match="SSH_AUTH_SOCK"):
        await SSHCredentials(authority).private_key("agent:")
