"""Three institutions as real processes, each in a network of its own, and an internet between them.

Nobody reaches Aarhus and Bergen from outside; Cork has an address of its own and relays for them: see `landscape`.
Needs root.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml
from platformdirs import user_cache_path

from gridcloud.spawner.proxy_program import install_proxy
from tests.agents.sites import ROOT, Program, launch, processes_in, wait
from tests.grid.landscape import ARCHIVE, CORK, Landscape, lay_networks
from tests.leftovers import MARK
from tests.unit.distributions import write_distribution
from tests.weather import CLEAR, Weather

__all__ = ["ARCHIVE", "Country", "Institution", "countries"]

GRID_PORT = 8444
TERMS = {"ttl": "20s", "grace": "20s", "tolerance": "1s"}


@dataclass
class Institution:
    """One gridcloud, in a network of its own."""

    name: str
    folder: Path
    network: int
    verb: str = "serve"
    tell: Callable[[str], None] = lambda _: None
    """Hears each command that a person there types, and what it answers."""
    extra: str = ""
    """A folder for its import path."""
    proxy: str = ""
    """The HTTP proxy that its service goes through."""
    running: Program | None = None
    sections: dict[str, Any] = field(default_factory=dict)
    _said: int = 0

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("LANG", MARK) if name in os.environ}
        programs = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
        paths = [str(ROOT / "src"), *filter(None, [self.extra])]
        if self.proxy:
            kept["HTTPS_PROXY"] = self.proxy
        return kept | {
            "PATH": os.pathsep.join(programs),
            "PYTHONPATH": os.pathsep.join(paths),
            "HOME": str(self.home),  # sessions write there
            "XDG_CACHE_HOME": str(user_cache_path()),
            "GRIDCLOUD_DATA": str(self.data),
            "GRIDCLOUD_CONFIG": str(self.folder / "config.yaml"),
        }

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def configure(self, sections: Mapping[str, Any]) -> None:
        """Write its configuration."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.sections = dict(sections)
        (self.folder / "config.yaml").write_text(yaml.safe_dump(dict(sections)))

    def start(self) -> None:
        """Start it; return at once."""
        words = [self.verb, *(["--port", "0"] if self.verb == "up" else [])]
        log = self.folder / f"{self.verb}.log"
        self._said = len(log.read_bytes()) if log.exists() else 0
        self.running = launch(log, self.network, words, self.environment)

    def wait(self) -> None:
        """Return once it answers."""
        program, sign = self.running, "gridcloud is up" if self.verb == "up" else "Serving"
        assert program is not None

        def told() -> str:
            return program.log.read_bytes()[self._said :].decode(errors="replace")

        wait(lambda: program.process.poll() is not None or (sign in told() and self._answers()), told, 180)
        assert program.process.poll() is None, told()

    def kill(self) -> None:
        """End the service at once, as a power cut does."""
        assert self.running is not None
        self.running.kill(signal.SIGKILL)

    def run(
        self, line: str, *more: str, code: int = 0, timeout: float = 120, quiet: bool = False, input: str = ""
    ) -> str:
        """Type a command of gridcloud there; return what it printed."""
        words = [*shlex.split(line), *more]
        if not quiet:
            self.tell(f"$ gridcloud {line}{''.join(f' {shlex.quote(one)}' for one in more)}")
        done = subprocess.run(
            [
                *("nsenter", "--net", "--target", str(self.network)),
                *(sys.executable, "-m", "gridcloud"),
                *words,
            ],
            input=input.encode(),
            capture_output=True,
            env=self.environment,
            timeout=timeout,
            cwd=self.folder,
        )
        said = done.stdout.decode()
        told = f"{self.name}: {line}: {done.returncode}\n{said}{done.stderr.decode()}"
        assert done.returncode == code, told
        if not quiet:
            for one in (said + done.stderr.decode()).splitlines():
                self.tell(f"  {one}")
        return said

    def begin(self, line: str) -> subprocess.Popen[bytes]:
        """Begin a command of gridcloud there, which the caller ends."""
        return subprocess.Popen(
            [sys.executable, "-m", "gridcloud", *shlex.split(line)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment,
            cwd=self.folder,
        )

    def ask(self, path: str) -> Any:
        """Return a document of the service, asked of its socket itself: a program for each look would be slow."""
        link = http.client.HTTPConnection("localhost", timeout=60)
        link.sock = socket.socket(socket.AF_UNIX)
        try:
            link.sock.connect(str(self.data / "run" / "service.sock"))
            link.request("GET", f"/v1/{path}")
            answer = link.getresponse()
            document = json.load(answer)
            assert answer.status == 200, document
            return document
        finally:
            link.close()

    def _answers(self) -> bool:
        path = self.data / "run" / "service.sock"
        with socket.socket(socket.AF_UNIX) as probe:
            return path.exists() and probe.connect_ex(str(path)) == 0


@dataclass
class Country:
    """The three, and the internet."""

    folder: Path
    land: Landscape
    aarhus: Institution
    bergen: Institution
    cork: Institution
    programs: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """What runs in the internet."""
    lost: set[str] = field(default_factory=set)
    """Leases that one side lost from its disk."""

    @property
    def all(self) -> tuple[Institution, ...]:
        return self.aarhus, self.bergen, self.cork

    def cut(self, one: Institution) -> None:
        """Let every packet between an institution and the internet vanish, both ways, without a word."""
        self.land.cut(one.name.lower())

    def heal(self, one: Institution) -> None:
        """Undo `cut`."""
        self.land.heal(one.name.lower())

    def serve_archive(self, port: int) -> None:
        """Have a place in the internet where sessions save their work."""
        place = self.folder / "archive"
        place.mkdir()
        words = [sys.executable, "-m", "tests.grid.archive", str(place), ARCHIVE, str(port)]
        archive = subprocess.Popen(
            ["nsenter", "--net", "--target", str(self.land.internet), *words],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        self.programs.append(archive)
        assert archive.stdout is not None
        assert archive.stdout.readline() == b"ready\n"

    def join(self, community: str = "north") -> None:
        """Have Cork found a community, and the two others invited and joined, as people do it."""
        prints = {}
        for one in self.all:
            one.run("grid init", one.name)
            prints[one.name] = one.ask("grid")["standing"]["fingerprint"].split()
        self.cork.run("grid found", community)
        for guest in (self.aarhus, self.bergen):
            invitation = self.folder / f"{guest.name}.invitation"
            self.cork.run(f"grid invite {community}", *prints[guest.name], "--output", str(invitation))
            guest.run("grid join", str(invitation), *prints[self.cork.name])
        wait(self.settled, lambda: f"not settled: {self.aarhus.ask('grid')}", 120)

    def settled(self) -> bool:
        """Whether each knows all others, and the two inside are reached through Cork."""
        for one in self.all:
            (community,) = one.ask("grid/communities")["communities"]
            profiles = [member["profile"] for member in community["members"] if not member["ourselves"]]
            if len(profiles) != len(self.all) - 1 or None in profiles:
                return False
            if any(not profile["addresses"] and not profile["relays"] for profile in profiles):
                return False
        return True


@contextlib.contextmanager
def countries(
    folder: Path,
    sections: Mapping[str, Mapping[str, Any]],
    *,
    hub: bool = False,
    tell: Callable[[str, str], None] = lambda _, __: None,
    weather: Weather = CLEAR,
    proxied: Collection[str] = (),
) -> Iterator[Country]:
    """Make the networks and start the three; end all that was started. Needs root.

    ``sections`` are their configurations by name, beside what the grid needs. ``hub``: Aarhus has one. ``tell`` hears
    who types what. ``weather`` and ``proxied``: see `lay_networks`.
    """
    if hub:  # it cannot be fetched from within the networks
        asyncio.run(install_proxy())
    with contextlib.ExitStack() as stack:
        land = lay_networks(stack, weather, proxied)
        extra = _peer_driver(folder)
        made = [
            Institution(
                name.capitalize(),
                folder / name,
                network,
                "up" if hub and name == "aarhus" else "serve",
                lambda line, name=name: tell(name.capitalize(), line),  # type: ignore[misc]
                extra,
                land.proxies.get(name, ""),
            )
            for name, network in land.inside.items()
        ]
        for one in made:
            grid = GRID if one.name == "Cork" else {"location": one.name}
            one.configure({"grid": grid, "lending": TERMS, **sections.get(one.name.lower(), {})})
        aarhus, bergen, cork = made
        country = Country(folder, land, aarhus, bergen, cork)
        try:
            for one in made:
                one.start()
            for one in made:
                one.wait()
            yield country
        finally:
            for one in made:
                if one.running is not None and one.running.process.poll() is None:
                    one.running.process.send_signal(signal.SIGTERM)
            for one in made:
                _end(one)
            for program in country.programs:
                program.kill()
                program.communicate()


GRID = {
    "listen": f"0.0.0.0:{GRID_PORT}",
    "addresses": [f"https://{CORK}:{GRID_PORT}"],
    "relays_others": True,
    "location": "Cork",
}


def _peer_driver(folder: Path) -> str:
    """Return a folder that brings the driver `peer`, where the installed gridcloud is older than it."""
    if "peer" in entry_points(group="gridcloud.instances").names:
        return ""
    point = {"peer": "gridcloud.drivers.instances.peer:PeerDriver"}
    return str(write_distribution(folder, "peer-driver", "instances", point, {}))


def _end(one: Institution) -> None:
    """Wait for a service that was asked to end, and end every process in its network, where nobody else's is."""
    if one.running is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.running.process.wait(60)
        one.running.kill(signal.SIGKILL)
    for pid in processes_in(one.network):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
