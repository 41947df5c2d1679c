"""The machines behind clouds that boot none: a real sshd for each, as its user data says.

moto, nova's fake hypervisor and our Oracle server keep the books of a cloud and start nothing. A `Ground` stands under
them: for each machine that the cloud says is running it starts, at the first connection, an OpenSSH server on loopback
with the host key, the authority and the principals of that machine's own user data, in a process namespace of its own,
and ends all that runs there when the cloud no longer has the machine. Only host and port of an address are changed on
the way: host keys and certificates are compared as everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from gridcloud import connections
from gridcloud.clock import SystemClock
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address, SSHAddress
from gridcloud.errors import Unreachable
from gridcloud.identity.authority import Authority
from gridcloud.identity.ssh import SSHCredentials
from gridcloud.instances.driver import Context
from gridcloud.instances.first_boot import ARM, AUTHORITY, PRINCIPALS
from gridcloud.service.house import House
from gridcloud.testing.instances import driver_context

__all__ = ["Ground", "grounded", "missing_for_ground", "through"]

POLL = 0.1
"""Seconds between looks whether a machine is still there."""

# A machine's own /usr/local/sbin and /var/lib, so that what its user data writes there does not reach this computer.
START = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /usr/local/sbin
mount -t tmpfs -o mode=755 tmpfs /var/lib
cp "$1/gridcloud-arm" /usr/local/sbin/ && chmod 755 /usr/local/sbin/gridcloud-arm
mkdir -p /run/sshd
exec "$2" -D -e -f "$1/sshd_config"
"""

# With SHLVL bash does not take a command from sshd for a login, and leaves the developer's own .bashrc alone.
SETTINGS = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile none
TrustedUserCAKeys {folder}/authority.pub
AuthorizedPrincipalsFile {folder}/principals
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
SetEnv SHLVL=2
Subsystem sftp internal-sftp
"""

Look = Callable[[], Mapping[str, str]]
"""Returns the user data (text) of each running machine by its address; may block."""


def missing_for_ground() -> str | None:
    """Return why no ground can be laid here, with the command that mends it."""
    if os.geteuid() != 0:
        return "machines behind clouds need root: sudo make test"
    for program in ("sshd", "unshare", "setpriv", "sudo"):
        if not _find(program):
            return f"machines behind clouds need {program}: apt-get install openssh-server util-linux sudo"
    return None


class Ground:
    """Machines of one cloud; an asynchronous context. It has an authority and credentials as a house has.

    The account of the machines is root, so drivers are told ``user: root``.
    """

    def __init__(self, look: Look, authority: Authority | None = None) -> None:
        self._look = look
        self._folder = Path(tempfile.mkdtemp(prefix="gc-ground-"))
        self.authority = authority or Authority(self._folder / "authority", SystemClock())
        self.credentials = SSHCredentials(self.authority)
        self._machines: dict[str, _Machine] = {}
        self._lock = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        for machine in self._machines.values():
            await asyncio.to_thread(machine.end)
        await self.credentials.close()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def connect(self, address: Address) -> Connection:
        """Open a connection to the machine behind an address, as the house would. Raises Unreachable when the cloud
        has no such machine running, and what opening a connection raises."""
        if not isinstance(address, SSHAddress):
            return await connections.open(address, self.credentials)
        port = await self._port(address.host)
        here = address.model_copy(update={"host": "127.0.0.1", "port": port, "jump": None})
        return await connections.open(here, self.credentials)

    def context(self, folder: Path, **more: Any) -> Context:
        """Return what a driver is given, with connections that end on this ground."""
        return driver_context(
            folder, connect=self.connect, user_authority=self.authority.user_authority, **more
        )

    @contextlib.asynccontextmanager
    async def door(self, path: Path) -> AsyncIterator[None]:
        """Tell other processes, at a Unix socket, which port here is the machine of an address: see `through`."""

        async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            host = (await reader.readline()).decode().strip()
            try:
                writer.write(f"{await self._port(host)}\n".encode())
            except Unreachable:
                writer.write(b"0\n")
            writer.close()

        server = await asyncio.start_unix_server(tell, path)
        try:
            yield
        finally:
            server.close()

    def armed(self, host: str) -> Path:
        """Return where the machine of an address notes when it ends itself."""
        return Path(f"/proc/{self._machines[host].inner_pid()}/root/var/lib/gridcloud-machine/ends")

    async def _port(self, host: str) -> int:
        async with self._lock:
            machine = self._machines.get(host)
            if machine is None or not machine.lives:
                running = await asyncio.to_thread(self._look)
                if host not in running:
                    raise Unreachable(f"Nothing answers at {host}.")
                machine = _Machine(
                    self._folder / f"machine-{len(self._machines)}-{_free_port()}", running[host]
                )
                await asyncio.to_thread(machine.start)
                self._machines[host] = machine
            if self._watch is None:
                self._watch = asyncio.create_task(self._end_with_the_cloud(), name="ground")
            return machine.port

    async def _end_with_the_cloud(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            if not self._machines:
                continue
            try:
                running = await asyncio.to_thread(self._look)
            except Exception as error:  # a cloud that does not answer has not lost its machines
                print(f"the ground's cloud does not answer: {error}", file=sys.stderr)
                continue
            for host in [host for host in self._machines if host not in running]:
                await asyncio.to_thread(self._machines.pop(host).end)


async def through(door: Path, address: Address) -> Address:
    """Return where the machine of an address is, as the ground behind a door knows it. Raises Unreachable."""
    if not isinstance(address, SSHAddress):
        return address
    reader, writer = await asyncio.open_unix_connection(door)
    try:
        writer.write(f"{address.host}\n".encode())
        port = int(await reader.readline() or b"0")
    finally:
        writer.close()
        await writer.wait_closed()
    if not port:
        raise Unreachable(f"Nothing answers at {address.host}.")
    return address.model_copy(update={"host": "127.0.0.1", "port": port, "jump": None})


def grounded(door: Path) -> type[House]:
    """Return a kind of house whose connections end on the ground behind a door."""

    class GroundedHouse(House):
        async def _connect(self, address: Address) -> Connection:
            return await super()._connect(await through(door, address))

    return GroundedHouse


class _Machine:
    """One sshd with what runs below it."""

    def __init__(self, folder: Path, user_data: str) -> None:
        self._folder = folder
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(mode=0o700)
        document = yaml.safe_load(user_data)
        files = {one["path"]: one["content"] for one in document["write_files"]}
        principals = next(text for path, text in files.items() if path.startswith(PRINCIPALS))
        for name, text in (
            ("host_key", document["ssh_keys"]["ed25519_private"]),
            ("authority.pub", files[AUTHORITY]),
            ("principals", principals),
            ("gridcloud-arm", files[ARM]),
            ("sshd_config", SETTINGS.format(port=self.port, folder=folder)),
        ):
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(text)

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        words = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
        words = [_find("setpriv"), "--pdeathsig", "KILL", "--", *words]
        log = self._folder / "log"
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*words, "sh", "-c", START, "sh", str(self._folder), _find("sshd")],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        for _ in range(1000):
            if self._process.poll() is not None:
                break
            if b"Server listening" in log.read_bytes():
                return
            self._process_wait()
        raise RuntimeError(f"the machine's sshd does not listen: {log.read_text()}")

    def inner_pid(self) -> int:
        """Return the machine's first process, as this computer numbers it."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    def end(self) -> None:
        """Kill it: its first process dies with the one that we started, and with that all the others."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def _process_wait(self) -> None:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.01)


def _find(program: str) -> str:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
