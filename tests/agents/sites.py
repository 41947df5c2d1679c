"""Real processes in networks of their own: a service at a public address, and machines behind a router with NAT."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.services import make_certificate
from tests.unit.distributions import write_distribution

__all__ = [
    "ELSEWHERE",
    "HUB",
    "NAT",
    "PORT",
    "Program",
    "Site",
    "launch",
    "make_network",
    "processes_in",
    "processes_of",
    "run_within",
    "sites",
    "wait",
    "wire",
]

HUB, PORT = "192.0.2.1", 8443
NAT = "192.0.2.2"
"""What the service sees of the machines behind the router."""
ELSEWHERE = "198.51.100.2"
"""The address of a machine that has nothing to do with them."""
INSIDE = "10.99.0.2"
ROOT = Path(__file__).parents[2]


@dataclass
class Program:
    """A process of ours, with what it said."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self, number: int = signal.SIGKILL) -> int:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        return self.process.wait(30)


@dataclass
class Site:
    """A folder with a service's files, and the networks."""

    folder: Path
    hub: int = 0
    """Process whose network is the service's."""
    machine: int = 0
    """Process whose network is the machine's."""
    router: int = 0
    """Process whose network lies between."""
    elsewhere: int = 0
    """Process whose network is that of a machine which is not behind the router."""
    programs: list[Program] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://{HUB}:{PORT}"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
        paths = (ROOT / "src", self.folder / "agent-driver")
        return kept | {
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "GRIDCLOUD_DATA": str(self.folder / "data"),
            "GRIDCLOUD_CONFIG": str(self.folder / "config.yaml"),
        }

    def run(self, *words: str, input: str = "", code: int = 0, timeout: float = 90) -> str:
        """Run gridcloud at the service's private socket; return what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "gridcloud", *words],
            input=input.encode(),
            capture_output=True,
            env=self.environment,
            timeout=timeout,
        )
        assert done.returncode == code, f"{words}: {done.returncode} {done.stdout!r} {done.stderr.decode()}"
        return done.stdout.decode()

    def machines(self) -> dict[str, dict[str, Any]]:
        """Return what the service says of its machines."""
        # Asked of its socket itself: a program for each look would take longer than some of what is looked for.
        link = http.client.HTTPConnection("localhost", timeout=60)
        link.sock = socket.socket(socket.AF_UNIX)
        try:
            link.sock.connect(str(self._socket))
            link.request("GET", "/v1/agents")
            return {one["name"]: one for one in json.load(link.getresponse())["machines"]}
        finally:
            link.close()

    @property
    def _socket(self) -> Path:
        return self.folder / "data" / "run" / "service.sock"

    def serve(self) -> Program:
        """Start the service; return once it answers."""
        program = self.start("serve", self.hub, ["serve"], self.environment)
        wait(lambda: program.process.poll() is not None or self._answers(self._socket), program.said)
        assert program.process.poll() is None, program.said()
        return program

    def join(
        self, name: str, token: str = "", *more: str, network: int = 0, before: Sequence[str] = ()
    ) -> Program:
        """Start a machine of that name: behind the router where no other network is named."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        environment = {key: value for key, value in self.environment.items() if key != "GRIDCLOUD_CONFIG"} | {
            "HOME": str(home),
            "GRIDCLOUD_DATA": str(home / "data"),
        }
        words = ["agent", "join", self.url, "--ca", str(self.folder / "hub.crt"), "--as-root", *more]
        if token:
            words += ["--token-file", "-"]
        return self.start(name, network or self.machine, words, environment, f"{token}\n", before)

    def start(
        self,
        name: str,
        network: int,
        words: Sequence[str],
        environment: Mapping[str, str],
        input: str = "",
        before: Sequence[str] = (),
    ) -> Program:
        program = launch(self.folder / f"{name}.log", network, words, environment, input, before)
        self.programs.append(program)
        return program

    def cut(self) -> None:
        """Let every packet between the machine and the service vanish, both ways, without a word."""
        run_within(self.router, "iptables", "-w", "-I", "FORWARD", "-j", "DROP")

    def heal(self) -> None:
        """Undo `cut`."""
        run_within(self.router, "iptables", "-w", "-D", "FORWARD", "-j", "DROP")

    @staticmethod
    def _answers(path: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return path.exists() and probe.connect_ex(str(path)) == 0


def wait(true: Any, told: Any = str, seconds: float = 60) -> float:
    """Return the seconds until something was true."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, told()
        time.sleep(0.05)
    return time.monotonic() - begun


def launch(
    log: Path,
    network: int,
    words: Sequence[str],
    environment: Mapping[str, str],
    input: str = "",
    before: Sequence[str] = (),
) -> Program:
    """Start gridcloud in a network. ``before``: words of a program that starts it."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [
                *("nsenter", "--net", "--target", str(network)),
                *before,
                *(sys.executable, "-m", "gridcloud"),
                *words,
            ],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            env=dict(environment),
            start_new_session=True,
        )
    assert process.stdin is not None
    process.stdin.write(input.encode())
    process.stdin.close()
    return Program(process, log)


@contextlib.contextmanager
def sites(folder: Path) -> Iterator[Site]:
    """Make the networks and the service's files; end all that was started. Needs root."""
    with contextlib.ExitStack() as stack:
        hub, router, machine, elsewhere = (make_network(stack) for _ in range(4))
        wire(hub, "gchub", router, "gcout")
        wire(machine, "gcpc", router, "gcin")
        wire(hub, "gcfar", elsewhere, "gcpc")
        for network, card, address in (
            (hub, "gchub", f"{HUB}/24"),
            (hub, "gcfar", "198.51.100.1/30"),
            (elsewhere, "gcpc", f"{ELSEWHERE}/30"),
            (router, "gcout", f"{NAT}/24"),
            (router, "gcin", "10.99.0.1/24"),
            (machine, "gcpc", f"{INSIDE}/24"),
        ):
            run_within(network, "ip", "addr", "add", address, "dev", card)
            run_within(network, "ip", "link", "set", card, "up")
        run_within(machine, "ip", "route", "add", "default", "via", "10.99.0.1")
        run_within(elsewhere, "ip", "route", "add", "default", "via", "198.51.100.1")
        run_within(router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for rule in (
            "-t nat -A POSTROUTING -o gcout -j MASQUERADE --random",
            "-P FORWARD DROP",
            "-A FORWARD -i gcin -j ACCEPT",
            "-A FORWARD -m state --state ESTABLISHED -j ACCEPT",
        ):
            run_within(router, "iptables", "-w", *rule.split())
        certificate, key = make_certificate(folder, "hub", HUB)
        point = {"agent": "gridcloud.drivers.instances.agent:AgentDriver"}
        write_distribution(folder, "agent-driver", "instances", point, {})
        door = {"host": HUB, "port": PORT, "certificate": str(certificate), "key": str(key)}
        entry = {"machines": {"driver": "agent"}}
        (folder / "config.yaml").write_text(yaml.safe_dump({"providers": entry, "service": door}))
        site = Site(folder, hub, machine, router, elsewhere)
        try:
            yield site
        finally:
            for program in reversed(site.programs):
                program.kill()


def make_network(stack: contextlib.ExitStack) -> int:
    """Make a network with nothing but its loopback; return the process that holds it."""
    holder = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
    stack.callback(holder.wait)
    stack.callback(holder.kill)
    ours = os.readlink("/proc/self/ns/net")
    wait(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != ours)
    run_within(holder.pid, "ip", "link", "set", "lo", "up")
    return holder.pid


def wire(one: int, card: str, other: int, far: str) -> None:
    """Lay a cable between two networks, with a card of each name."""
    run_within(one, "ip", "link", "add", card, "type", "veth", "peer", "name", far)
    run_within(one, "ip", "link", "set", far, "netns", str(other))


def run_within(network: int, *words: str) -> None:
    """Run a program in a network."""
    subprocess.run(["nsenter", "--net", "--target", str(network), *words], check=True, timeout=20)


def processes_in(network: int) -> Sequence[int]:
    """Return the processes in a network, its holder apart."""
    at = os.readlink(f"/proc/{network}/ns/net")
    return [pid for pid in _processes("ns/net", lambda found: found == at) if pid != network]


def processes_of(folder: Path) -> Sequence[int]:
    """Return the processes that work in a folder."""
    return _processes("cwd", lambda found: Path(found).is_relative_to(folder))


def _processes(what: str, fits: Callable[[str], bool]) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if fits(os.readlink(place / what)):
                found.append(int(place.name))
    return found
