"""A real OpenSSH server on loopback, with its own keys and configuration; needs ``sshd`` and ``ssh-keygen``.

with SSHServer(folder) as server:
    connection = await SSHConnection.open(server.address(directory="/tmp/x"), server.credentials())
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import asyncssh

from gridcloud.connections.model import SSHAddress
from gridcloud.testing.connections import FileCredentials

__all__ = ["SSHServer"]

# With SHLVL bash does not take a command from sshd for a login, and leaves the developer's own .bashrc alone.
_SETTINGS = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
TrustedUserCAKeys {folder}/user_authority.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
SetEnv SHLVL=2
Subsystem sftp internal-sftp
"""


class SSHServer:
    """The server, its host key, a key that may log in as the user we run as, and two authorities: one whose user
    certificates it accepts, and one that signed its host certificate (presented when ``certified``)."""

    def __init__(self, folder: Path, *, settings: str = "", certified: bool = False) -> None:
        self.folder = folder
        self.user = getpass.getuser()
        self.port = _free_port()
        self._settings = settings
        self._certified = certified
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("host_key", "user_key", "user_authority", "host_authority"):
            _make_key(folder / name)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")

    @property
    def host_key(self) -> str:
        """The server's public key line."""
        return (self.folder / "host_key.pub").read_text().strip()

    @property
    def host_authority(self) -> str:
        """The public key line of the authority that signs its host certificate."""
        return (self.folder / "host_authority.pub").read_text().strip()

    def address(self, **changes: Any) -> SSHAddress:
        """Return how to reach it, its host key pinned unless said otherwise."""
        known = {"host": "127.0.0.1", "port": self.port, "user": self.user, "host_keys": (self.host_key,)}
        return SSHAddress(**(known | changes))

    def credentials(self) -> FileCredentials:
        """Return credentials that it accepts."""
        return FileCredentials(self.folder / "user_key", self.folder / "user_authority")

    def __enter__(self) -> Self:
        """Start it and return when it listens."""
        settings = self._settings + _SETTINGS.format(port=self.port, folder=self.folder)
        if self._certified:
            self._certify()
            settings += f"HostCertificate {self.folder}/host_key-cert.pub\n"
        (self.folder / "sshd_config").write_text(settings)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it locks itself away before a login
        program = (
            shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "/usr/sbin/sshd"
        )
        log = self.folder / "log"
        self._process = subprocess.Popen(
            [program, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(log)], stdin=subprocess.DEVNULL
        )
        for _ in range(500):
            if self._process.poll() is not None:
                raise RuntimeError(f"sshd did not start: {log.read_text()}")
            if log.exists() and "Server listening" in log.read_text():
                return self
            time.sleep(0.01)
        raise RuntimeError(f"sshd does not listen: {log.read_text()}")

    def __exit__(self, *_: object) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def _certify(self) -> None:
        authority = asyncssh.read_private_key(self.folder / "host_authority")
        key = asyncssh.read_public_key(self.folder / "host_key.pub")
        certificate = authority.generate_host_certificate(key, "host", principals=["127.0.0.1"])
        certificate.write_certificate(self.folder / "host_key-cert.pub")


def _make_key(path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    path.touch(mode=0o600)
    key.write_private_key(path)
    key.write_public_key(path.with_name(path.name + ".pub"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
