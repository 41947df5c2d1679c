"""The wire of the `qemu` provider: the host of its machines, the fixed script that acts there, and what that answers.

The script is `qemu_host.sh`. It is the only shell text that runs on a host; every value reaches it as a word, and the
seed, which is secret, on its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.model import LocalAddress, SSHAddress
from gridcloud.errors import (
    ConnectionLost,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NoCapacity,
    NotFound,
    TimedOut,
    Transient,
    Unreachable,
)
from gridcloud.instances.driver import Context

__all__ = ["SCRIPT", "Facts", "Look", "QEMUHost", "Reservation", "Survey", "parse_facts", "parse_survey"]

SCRIPT = Path(__file__).with_name("qemu_host.sh").read_text(encoding="utf-8")
ANSWER_SECONDS = 9.0
FACTS_SECONDS = 300.0

REFUSALS: dict[int, type[GridcloudError]] = {
    70: NoCapacity,
    71: NoCapacity,
    73: Transient,
    75: Transient,
    76: InvalidRequest,
    77: NotFound,
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a host has and is, as far as it does not change from minute to minute. Sizes in bytes."""

    user: str
    kernel: str
    cpus: int
    memory: int
    root: bool
    programs: frozenset[str]
    version: str
    kvm: str
    """``yes``, or why it cannot be used."""
    gpus: Mapping[str, str]
    """The kernel driver that has each GPU."""
    files: Mapping[str, str]
    """Whether each file of the images can be read."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one machine takes of a host, of whichever installation."""

    installation: str
    instance_id: str
    live: bool
    cpus: int = 0
    memory: int = 0
    gpus: tuple[str, ...] = ()
    boot: str = ""
    created: int = 0


@dataclass(slots=True)
class Look:
    """What is seen of one machine of ours."""

    supervised: bool = False
    running: bool = False
    """Whether QEMU runs."""
    port: int = 0
    """The host's port that leads to its SSH server; 0: there is none."""
    ran: bool = False
    """Whether QEMU did run, and does no longer."""
    panicked: bool = False
    ended: str = ""
    """The exit code, and how it came to its end."""
    progress: str = ""
    console: str = ""
    half: bool = False
    """Whether it has no reservation: a folder that somebody began to make, or to remove."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is on a host now."""

    directory: str
    boot: str
    disk_free: int
    disk: int
    reservations: tuple[Reservation, ...]
    looks: Mapping[str, Look]

    def live(self) -> list[Reservation]:
        """Return the reservations whose machines may still run."""
        return [one for one in self.reservations if one.live and one.boot == self.boot]


@dataclass(slots=True)
class QEMUHost:
    """The computer that machines run on, and the cached connection to it."""

    name: str
    address: LocalAddress | SSHAddress
    directory: str
    context: Context
    _connection: Connection | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _facts: Facts | None = None
    _facts_until: float = 0.0

    async def facts(
        self, program: str, gpus: Sequence[str], files: Sequence[str], trial: Sequence[str]
    ) -> Facts:
        """Return what the host has, from the cache where it is young. Raises as `run` does."""
        if self._facts is None or time.monotonic() > self._facts_until:
            values = {"program": program, "gpus": ",".join(gpus), "count": len(files)}
            answer = await self.run("probe", values, [*files, *trial])
            self._facts = parse_facts(self.name, answer)
            self._facts_until = time.monotonic() + FACTS_SECONDS
        return self._facts

    async def survey(self, tag: str) -> Survey:
        """Return what is on the host now. Raises as `run` does."""
        return parse_survey(self.name, await self.run("survey", {"tag": tag}))

    async def run(
        self,
        verb: str,
        values: Mapping[str, object],
        words: Sequence[str] = (),
        input: bytes = b"",
        seconds: float = ANSWER_SECONDS,
    ) -> str:
        """Run a verb of the script and return its answer.

        Raises what its refusal means (see REFUSALS), Unreachable, TimedOut, Untrusted, Forbidden.
        """
        given = [f"{name}={value}" for name, value in values.items()]
        command = Command(
            ("sh", "-c", SCRIPT, "gridcloud", verb, self.directory, *given, "--", *words), directory="/"
        )
        for attempt in (1, 2):
            fresh = self._connection is None
            try:
                async with asyncio.timeout(seconds):
                    code, answer, complaint = await _capture(await self._connect(), command, input)
                break
            except TimeoutError:
                await self.close()
                raise TimedOut(f"{self.name} did not answer within {seconds:g} s.") from None
            except ConnectionLost:
                # A kept connection may have died unnoticed. Every verb may be repeated.
                await self.close()
                if fresh or attempt == 2:
                    raise
        if code:
            kind = REFUSALS.get(code, Transient)
            raise kind(f"{self.name}: {complaint.strip()[-500:] or f'the command ended with {code}'}.")
        return answer

    def forget(self) -> None:
        """Ask the host itself next time, whatever is cached."""
        self._facts = None

    async def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(GridcloudError):
                await connection.close()

    async def _connect(self) -> Connection:
        async with self._lock:
            if self._connection is None:
                address = self.address
                if isinstance(address, SSHAddress) and not (address.host_keys or address.host_authorities):
                    raise InvalidSettings(
                        f"No host key is pinned for {self.name}.",
                        remedy="Compare the key it shows with the one on its console, and add it as host_keys.",
                    )
                try:
                    self._connection = await self.context.connect(address)
                except TimeoutError as error:
                    raise Unreachable(f"{self.name} did not answer.") from error
            return self._connection


def parse_facts(name: str, answer: str) -> Facts:
    """Return what a `probe` answered. Raises Transient when the answer is not one."""
    fields = _fields(answer)
    try:
        limits = [int(text) for text in fields.get("memory_limit", ()) if text.isdigit()]
        return Facts(
            user=fields["user"][0],
            kernel=fields["kernel"][0],
            cpus=int(fields["cpus"][0]),
            memory=min([int(fields["memory"][0]), *limits]),
            root=fields["uid"][0] == "0",
            programs=frozenset(fields.get("program", ())),
            version=fields.get("version", [""])[0],
            kvm=fields["kvm"][0],
            gpus=dict(_pair(line) for line in fields.get("gpu", ())),
            files={path: yes for yes, path in map(_pair, fields.get("file", ()))},
        )
    except (KeyError, ValueError) as error:
        raise Transient(f"{name} answered the probe with something else: {answer[:200]!r}") from error


def parse_survey(name: str, answer: str) -> Survey:
    """Return what a `survey` answered. Raises Transient when the answer is not one."""
    fields = _fields(answer)
    try:
        free, size = fields["disk"][0].split()
        reservations = tuple(_reservation(line) for line in fields.get("reservation", ()))
        looks: dict[str, Look] = {}
        for what in ("supervised", "running", "ran", "panic", "progress", "ended", "console", "half"):
            for line in fields.get(what, ()):
                instance_id, words = _pair(line)
                _note(looks.setdefault(instance_id, Look()), what, words)
        return Survey(fields["directory"][0], fields["boot"][0], int(free), int(size), reservations, looks)
    except (KeyError, ValueError) as error:
        raise Transient(f"{name} answered the survey with something else: {answer[:200]!r}") from error


def _note(look: Look, what: str, words: str) -> None:
    match what:
        case "supervised":
            look.supervised = True
        case "running":
            look.running, look.port = True, int(words)
        case "ran":
            look.ran = True
        case "panic":
            look.panicked = True
        case "progress":
            look.progress = words
        case "ended":
            look.ended = words
        case "console":
            look.console = words
        case _:
            look.half = True


def _reservation(line: str) -> Reservation:
    """Return one reservation; what its spec does not say (half written, or of a newer version) stays empty."""
    installation, instance_id, state, *words = line.split()
    if len(words) < 7 or words[0] != "1":
        return Reservation(installation, instance_id, state == "live")
    _, cpus, memory, gpus, boot, created, _ = words[:7]
    taken = () if gpus == "-" else tuple(gpus.split(","))
    return Reservation(
        installation, instance_id, state == "live", int(cpus), int(memory), taken, boot, int(created)
    )


def _fields(answer: str) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for line in answer.splitlines():
        name, rest = _pair(line)
        fields.setdefault(name, []).append(rest)
    return fields


def _pair(line: str) -> tuple[str, str]:
    name, _, rest = line.partition(" ")
    return name, rest.strip()


async def _capture(connection: Connection, command: Command, input: bytes) -> tuple[int, str, str]:
    """Run a command; return its exit code, standard output and standard error."""
    process = await connection.start(command)

    async def gather(stream: AsyncIterator[bytes]) -> str:
        return b"".join([chunk async for chunk in stream]).decode("utf-8", "replace")

    async def feed() -> None:
        if input:
            await process.write(input)
        await process.close_input()

    answer, complaint, _ = await asyncio.gather(gather(process.stdout()), gather(process.stderr()), feed())
    return await process.wait(), answer, complaint
