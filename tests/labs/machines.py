"""Machines with their own address, root and sshd, for tests of everything that reaches a host by SSH.

Each machine is a set of Linux namespaces (network, mounts, processes, host name) on one kernel: about 0.3 s to start.
Its disk is a shared read-only root file system with a writable layer in memory; its network card hangs on a bridge in
the lab's own network namespace, which the test process reaches through one veth pair. Machines see each other.

    with Lab() as lab:
        machine = await lab.start("alpha", memory="512M")
        async with asyncssh.connect(
            machine.host, machine.port, username=machine.user,
            client_keys=[str(machine.private_key)], known_hosts=machine.known_hosts(),
        ) as connection: ...
        machine.cut()      # every packet vanishes, both ways, without a word
        machine.heal()
        machine.kill()     # power loss
        hidden = await lab.start("hidden", behind=machine)   # reached through `machine` only

Accounts: `root` and `user` (uid 1000, may use sudo without a password), both with the lab's key. A session environment
is in /opt/gridcloud-session, first on PATH. Needs root; nothing is left when the lab is closed or its process is
killed (see `ownership`). Start a lab from a thread that outlives it: machines die with the thread that started them.
"""

import asyncio
import io
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncssh

from tests.labs import ownership

__all__ = ["Lab", "Machine", "missing_for_machines"]

PROGRAMS = {
    "ip": "iproute2",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
SSHD_CONFIG = """\
Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin {root_login}
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
MaxStartups 100
MaxSessions 100
SetEnv PATH=/opt/gridcloud-session/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
AcceptEnv *
Subsystem sftp /usr/lib/openssh/sftp-server
"""


@dataclass
class Machine:
    """One running machine. `host_key` is the public key line that its sshd answers with."""

    name: str
    host: str
    user: str
    private_key: Path
    host_key: str
    log: Path
    port: int = 22
    behind: "Machine | None" = None
    process: "subprocess.Popen[bytes]" = field(kw_only=True, repr=False)

    def known_hosts(self) -> asyncssh.SSHKnownHosts:
        """What asyncssh takes as `known_hosts`."""
        return asyncssh.import_known_hosts(self.known_hosts_line())

    def known_hosts_line(self) -> str:
        """A line for a known_hosts file."""
        return f"{self.host} {self.host_key}\n"

    def cut(self) -> None:
        """Let every packet to and from the machine vanish silently; its own loopback goes on working."""
        if not self.is_cut():
            for chain, side in (("INPUT", "-i"), ("OUTPUT", "-o")):
                self._in_network("iptables", "-w", "-I", chain, side, "eth+", "-j", "DROP")

    def heal(self) -> None:
        """Undo `cut`."""
        if self.is_cut():
            for chain in ("INPUT", "OUTPUT"):
                self._in_network("iptables", "-w", "-F", chain)

    def is_cut(self) -> bool:
        return "DROP" in self._in_network("iptables", "-w", "-S", "INPUT")

    def kill(self) -> None:
        """End the machine as a power loss does: nothing is sent, no program may clean up."""
        if self.alive():
            self.cut()
        ownership.end_group(self.process)

    def alive(self) -> bool:
        return self.process.poll() is None

    def execute(self, *command: str, input: bytes | None = None) -> str:
        """Run a command on the machine as root, past SSH and past a cut; its standard output.

        Raises subprocess.CalledProcessError when it fails.
        """
        first = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0]
        into = [
            "nsenter",
            "--target",
            first,
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--root",
            "--wd=/",
        ]
        done = subprocess.run([*into, *command], input=input, stdout=subprocess.PIPE, check=True, timeout=60)
        return done.stdout.decode()

    def _in_network(self, *command: str) -> str:
        return _inside_network(self.process.pid, *command)


class Lab:
    """A private network with machines in it. A context manager; `open` and `close` do the same by hand."""

    def __init__(self) -> None:
        self.folder = Path()
        self.machines: dict[str, Machine] = {}
        self._addresses = 0
        self._holder: subprocess.Popen[bytes] | None = None
        self._root_filesystem = Path()

    def open(self) -> Self:
        self._root_filesystem = ownership.root_filesystem()
        self.folder = ownership.claim("ssh")
        try:
            self._make_network()
            key = asyncssh.generate_private_key("ssh-ed25519", comment="lab")
            _write(self.private_key, key.export_private_key(), 0o600)
            _write(self.private_key.with_suffix(".pub"), key.export_public_key(), 0o644)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End every machine and remove all the lab made. May be called twice."""
        for machine in self.machines.values():
            ownership.end_group(machine.process)
        self.machines.clear()
        if self._holder:
            # With the last process in it the network goes too and takes its veth pair along, but a little later.
            subprocess.run(["ip", "link", "delete", f"gclab{self.number}"], stderr=subprocess.DEVNULL)
            ownership.end_group(self._holder)
            self._holder = None
        if self.folder.name:
            ownership.release(self.folder)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def private_key(self) -> Path:
        """The key that opens every machine of the lab; its public half lies beside it with the suffix .pub."""
        return self.folder / "id_ed25519"

    @property
    def number(self) -> int:
        return int(self.folder.name.removeprefix("ssh"))

    @property
    def gateway(self) -> str:
        """The address under which the machines reach the test process."""
        return f"10.213.{self.number}.1"

    async def start(
        self,
        name: str,
        *,
        root_login: bool = True,
        memory: str | None = None,
        cpus: float | None = None,
        disk: str = "2g",
        behind: Machine | None = None,
        host_key: asyncssh.SSHKey | None = None,
        sshd_config: str = "",
        files: Mapping[str, str | bytes] | None = None,
        address: str = "",
        timeout: float = 30,
    ) -> Machine:
        """Start a machine and wait for its sshd.

        `memory` ("512M") and `cpus` bound all of it; `disk` is the size of its writable layer, which is kept in memory
        and counts as such. Without `root_login` only `user` may log in. A machine `behind` another has no network but
        to that one. `sshd_config` is put before the usual lines, and so wins. `files` (mode 0644) are
        added to its disk; /etc/first-boot among them is a script that it runs before its sshd. `address` is one of
        the lab's that the caller has given to nobody else.
        Raises RuntimeError with the machine's log when it does not come up.
        """
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name) or name in self.machines:
            raise ValueError(
                f"a machine cannot be called {name!r}: lower-case letters and digits, once in a lab"
            )
        self._addresses += 1
        index = self._addresses
        host = address or self._free_address(behind)
        host_key = host_key or asyncssh.generate_private_key("ssh-ed25519", comment=name)
        folder = self.folder / f"m{index}"
        scratch = folder / "scratch"
        scratch.mkdir(parents=True)
        config = sshd_config + SSHD_CONFIG.format(root_login="prohibit-password" if root_login else "no")
        _write_seed(
            folder / "seed.tar", name, config, host_key, self.private_key.with_suffix(".pub"), files or {}
        )
        log = folder / "log"
        environment = {"NAME": name, "SCRATCH": str(scratch), "DISK": disk, "ADDRESS": f"{host}/25"}
        process = self._boot(folder, environment, memory=memory, cpus=cpus)
        user = "root" if root_login else "user"
        public = host_key.export_public_key().decode().strip()
        machine = Machine(name, host, user, self.private_key, public, log, behind=behind, process=process)
        self.machines[name] = machine
        try:
            await _until(lambda: _has_own_network(process.pid), machine, timeout)
            self._connect(index, machine)
            assert process.stdin
            process.stdin.write(b"\n")
            process.stdin.close()
            await _until(lambda: b"Server listening on" in log.read_bytes(), machine, timeout)
        except BaseException:
            self.stop(machine)
            raise
        return machine

    def _free_address(self, behind: Machine | None) -> str:
        """Return the address that has been free for longest; a lab has a hundred of each kind at once."""
        first, count = (130, 120) if behind else (10, 118)
        taken = {machine.host for machine in self.machines.values()}
        turns = (first + (self._addresses + turn) % count for turn in range(count))
        host = next(one for last in turns if (one := f"10.213.{self.number}.{last}") not in taken)
        # Whoever had it before must not be remembered as its neighbour.
        subprocess.run(["ip", "neigh", "flush", "to", host], stderr=subprocess.DEVNULL, check=False)
        return host

    def _boot(
        self, folder: Path, environment: dict[str, str], *, memory: str | None, cpus: float | None
    ) -> subprocess.Popen[bytes]:
        return ownership.start_owned(
            ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork", "--kill-child",
             "--propagation", "private", "sh", str(Path(__file__).with_name("machine.sh"))],
            cgroups=ownership.make_cgroups(self.folder.name, folder.name, memory=memory, cpus=cpus),
            environment={
                "PATH": os.environ["PATH"], "ROOT_FILESYSTEM": str(self._root_filesystem),
                "SEED": str(folder / "seed.tar"), **environment,
            },
            log=folder / "log",
            waits=True,
        )  # fmt: skip

    def unused_name(self) -> str:
        return f"m{self._addresses + 1}"

    def stop(self, machine: Machine) -> None:
        """End a machine and forget it. May be called twice."""
        ownership.end_group(machine.process)
        self.machines.pop(machine.name, None)
        shutil.rmtree(machine.log.parent, ignore_errors=True)

    def _make_network(self) -> None:
        self._holder = ownership.start_owned(["unshare", "--net", "sleep", "infinity"])
        while not _has_own_network(self._holder.pid):
            time.sleep(0.002)
        outside = f"gclab{self.number}"
        _run(
            "ip", "link", "add", outside, "type", "veth", "peer", "name", "up", "netns", str(self._holder.pid)
        )
        _run("ip", "address", "add", f"{self.gateway}/24", "dev", outside)
        _run("ip", "link", "set", outside, "up")
        self._in_network("ip", "link", "add", "name", "lab", "type", "bridge")
        self._in_network("ip", "link", "set", "dev", "lab", "up")
        self._in_network("ip", "link", "set", "dev", "up", "master", "lab", "up")

    def _connect(self, index: int, machine: Machine) -> None:
        """Put a network card into a machine: on the bridge, or straight into the machine it is behind."""
        pid = str(machine.process.pid)
        card = f"m{index}"
        self._in_network("ip", "link", "add", card, "type", "veth", "peer", "name", "eth0", "netns", pid)
        if machine.behind is None:
            self._in_network("ip", "link", "set", "dev", card, "master", "lab", "up")
            return
        jump = str(machine.behind.process.pid)
        self._in_network("ip", "link", "set", "dev", card, "netns", jump, "name", f"eth{index}")
        _inside_network(
            int(jump), "ip", "address", "add", f"10.213.{self.number}.129/32", "dev", f"eth{index}"
        )
        _inside_network(int(jump), "ip", "link", "set", "dev", f"eth{index}", "up")
        _inside_network(int(jump), "ip", "route", "add", f"{machine.host}/32", "dev", f"eth{index}")

    def _in_network(self, *command: str) -> str:
        assert self._holder, "the lab is not open"
        return _inside_network(self._holder.pid, *command)


def missing_for_machines() -> str | None:
    """Why no lab can be opened here, with the command that mends it; None when one can."""
    if os.geteuid():
        return "machines with their own network need root: sudo make test"
    lacking = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    return f"test machines need Debian packages: apt-get install {' '.join(lacking)}" if lacking else None


async def _until(condition: Callable[[], bool], machine: Machine, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if not machine.alive() or time.monotonic() > deadline:
            raise RuntimeError(f"machine {machine.name} did not come up:\n{machine.log.read_text()}")
        await asyncio.sleep(0.005)


def _has_own_network(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


def _inside_network(pid: int, *command: str) -> str:
    return _run("nsenter", "--target", str(pid), "--net", *command)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _write(path: Path, content: bytes, mode: int) -> None:
    path.touch(mode=mode)
    path.write_bytes(content)


def _write_seed(
    path: Path,
    name: str,
    config: str,
    host_key: asyncssh.SSHKey,
    public_key: Path,
    files: Mapping[str, str | bytes],
) -> None:
    """A tar archive of what makes one machine differ from another."""
    authorized = public_key.read_bytes()
    entries: list[tuple[str, str | bytes, int, int]] = [
        ("etc/hostname", f"{name}\n", 0o644, 0),
        ("etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {name}\n", 0o644, 0),
        ("etc/ssh/sshd_config", config, 0o644, 0),
        ("etc/ssh/ssh_host_ed25519_key", host_key.export_private_key(), 0o600, 0),
        ("etc/ssh/ssh_host_ed25519_key.pub", host_key.export_public_key(), 0o644, 0),
        ("root/.ssh/authorized_keys", authorized, 0o600, 0),
        ("home/user/.ssh/authorized_keys", authorized, 0o600, 1000),
        *((file.lstrip("/"), content, 0o644, 0) for file, content in files.items()),
    ]
    path.touch(mode=0o600)
    with tarfile.open(path, "w") as archive:
        for folder, owner in (("root/.ssh", 0), ("home/user/.ssh", 1000)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o700, owner, owner
            archive.addfile(entry)
        for file, content, mode, owner in entries:
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(file)
            entry.size, entry.mode, entry.uid, entry.gid = len(data), mode, owner, owner
            entry.mtime = int(time.time())
            archive.addfile(entry, io.BytesIO(data))
