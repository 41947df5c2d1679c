"""The wire of the `ssh` provider: one host, the fixed script that acts on it, and what the script answers.

The script is `ssh_host.sh`. It is the only shell text that runs on a host; every value reaches it as a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import asyncssh

from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.model import Endpoint, Port, SSHAddress
from gridcloud.errors import (
    ConnectionLost,
    GridcloudError,
    InvalidSettings,
    NoCapacity,
    Rejected,
    TimedOut,
    Transient,
    Unreachable,
)
from gridcloud.instances.driver import Context

__all__ = [
    "GPU",
    "SCRIPT",
    "Facts",
    "Host",
    "Reservation",
    "Survey",
    "ask_all",
    "parse_facts",
    "parse_reservation",
    "parse_survey",
]

Answer = TypeVar("Answer")

SCRIPT = Path(__file__).with_name("ssh_host.sh").read_text(encoding="utf-8")
ANSWER_SECONDS = 8.0
FACTS_SECONDS = 300.0
SILENCE_SECONDS = 10.0
"""For so long a host that did not answer is not asked again, so that it holds nobody up twice."""

REFUSALS: dict[int, type[GridcloudError]] = {
    70: NoCapacity,
    71: NoCapacity,
    72: NoCapacity,
    73: NoCapacity,
    74: Transient,
    75: Transient,
    76: Rejected,
    77: Transient,
}


@dataclass(frozen=True, slots=True)
class GPU:
    """One graphics processor of a host."""

    id: str
    memory: int
    model: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a host has and is, as far as it does not change from minute to minute. Sizes in bytes."""

    user: str
    kernel: str
    cpus: float
    memory: int
    root: bool
    sudo: bool
    programs: frozenset[str]
    gpus: tuple[GPU, ...]

    @property
    def may_make_accounts(self) -> bool:
        """Whether we are root there and the programs for accounts exist."""
        return (self.root or self.sudo) and {"useradd", "userdel", "su"} <= self.programs


@dataclass(frozen=True, slots=True)
class Reservation:
    """One instance's share of a host, of whichever installation."""

    installation: str
    instance_id: str
    ready: bool
    owner: str = ""
    """The account's name, made of a digest of the owner's; empty for a reservation that was never finished."""
    mode: str = ""
    cpus: float = 0
    memory: int = 0
    gpus: tuple[str, ...] = ()
    boot: str = ""
    created: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """What is reserved on a host now."""

    directory: str
    boot: str
    disk_free: int
    disk: int
    reservations: tuple[Reservation, ...]

    def live(self) -> list[Reservation]:
        """Return the reservations made since the machine last started."""
        return [one for one in self.reservations if one.boot == self.boot]


@dataclass(slots=True)
class Host:
    """One host and the cached connection to it."""

    name: str
    address: SSHAddress
    directory: str
    context: Context
    accounts: bool = True
    """Whether owners are to have accounts, where that is possible: sudo serves for nothing else."""
    _connection: Connection | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _facts: Facts | None = None
    _facts_until: float = 0.0
    _silent_until: float = 0.0
    _silence: GridcloudError | None = None
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    async def facts(self) -> Facts:
        """Return what the host has, from the cache where it is young. Raises as `run` does."""
        if self._facts is None or time.monotonic() > self._facts_until:
            self._facts = parse_facts(self.name, await self.run("probe", privileged=False))
            self._facts_until = time.monotonic() + FACTS_SECONDS
        return self._facts

    async def survey(self) -> Survey:
        """Return what is reserved on the host now. Raises as `run` does."""
        return parse_survey(self.name, await self.run("survey"))

    async def run(
        self, verb: str, *words: str, seconds: float = ANSWER_SECONDS, privileged: bool = True
    ) -> str:
        """Run a verb of the script and return its answer.

        Raises what its refusal means (see REFUSALS), Unreachable, TimedOut, Untrusted, Forbidden.
        """
        sudo: tuple[str, ...] = ()
        if privileged and self.accounts:
            facts = await self.facts()
            sudo = ("sudo", "-n") if facts.may_make_accounts and not facts.root else ()
        command = Command(
            (*sudo, "sh", "-c", SCRIPT, "gridcloud", verb, self.directory, *words), directory="/"
        )
        for attempt in (1, 2):
            fresh = self._connection is None
            try:
                async with asyncio.timeout(seconds):
                    code, answer, complaint = await _capture(await self.connect(), command)
                break
            except TimeoutError:
                self._drop()
                error = TimedOut(f"{self.name} did not answer within {seconds:g} s.")
                self._fall_silent(error)
                raise error from None
            except ConnectionLost:
                # A kept connection may have died unnoticed. Every verb may be repeated.
                self._drop()
                if fresh or attempt == 2:
                    raise
        if code:
            kind = REFUSALS.get(code, Transient)
            raise kind(f"{self.name}: {complaint.strip()[-500:] or f'the command ended with {code}'}.")
        return answer

    async def connect(self) -> Connection:
        """Return the open connection, opening it if need be. Raises Unreachable, Untrusted, Forbidden."""
        async with self._lock:
            if self._connection is not None:
                return self._connection
            if self._silence is not None and time.monotonic() < self._silent_until:
                raise self._silence
            if not self.address.host_keys and not self.address.host_authorities:
                raise InvalidSettings(
                    f"No host key is pinned for {self.name}.",
                    remedy="'gridcloud provider check' shows the key it has; compare it and add it as host_keys.",
                )
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    self._connection = await self.context.connect(self.address)
            except TimeoutError:
                error: Transient = Unreachable(f"{self.name} did not answer within {ANSWER_SECONDS:g} s.")
                self._fall_silent(error)
                raise error from None
            except Transient as error:
                self._fall_silent(error)
                raise
            self._silence = None
            return self._connection

    async def close(self) -> None:
        """Close the connection, if there is one."""
        self._drop()
        await asyncio.gather(*self._closing)

    def _drop(self) -> None:
        """Let go of the connection; that it takes long to close, when nothing answers, holds nobody up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            task = asyncio.create_task(_close(connection))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def forget(self) -> None:
        """Ask the host itself next time, whatever is cached."""
        self._facts = self._silence = None

    async def seen_key(self) -> str:
        """Return the host key the host shows, unverified, as a public key line: to be compared by a person.

        Nothing but the key exchange is done. Raises Unreachable.
        """
        async with self._way() as end:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    key = await asyncssh.get_server_host_key(end.host, end.port, config=None)
            except (OSError, TimeoutError, asyncssh.Error) as error:
                raise Unreachable(f"{self.name} does not answer: {error}") from error
        if key is None:
            raise Unreachable(f"{self.name} shows no host key.")
        return " ".join(key.export_public_key("openssh").decode().split()[:2])

    @contextlib.asynccontextmanager
    async def _way(self) -> AsyncIterator[Port]:
        """Give the place at which the host's SSH server answers: its own, or a forward through its jump host."""
        if self.address.jump is None:
            yield Port(host=self.address.host, port=self.address.port)
            return
        connection = await self.context.connect(self.address.jump)
        try:
            there = Port(host=self.address.host, port=self.address.port)
            end: Endpoint = (await connection.forward(there, Port())).endpoint
            if not isinstance(end, Port):
                raise Unreachable(f"{self.name} cannot be reached through {self.address.jump.host}.")
            yield end
        finally:
            await connection.close()

    def _fall_silent(self, error: GridcloudError) -> None:
        self._silence = error
        self._silent_until = time.monotonic() + SILENCE_SECONDS


async def ask_all(
    hosts: Mapping[str, Host], ask: Callable[[Host], Awaitable[Answer]], seconds: float
) -> dict[str, Answer | GridcloudError]:
    """Ask all hosts at once and return their answers by label; an answer may be an error."""

    async def one(host: Host) -> Answer | GridcloudError:
        try:
            async with asyncio.timeout(seconds):
                return await ask(host)
        except TimeoutError:
            return Unreachable(f"{host.name} did not answer within {seconds:g} s.")
        except GridcloudError as error:
            return error

    return dict(zip(hosts, await asyncio.gather(*(one(host) for host in hosts.values())), strict=True))


def parse_facts(name: str, answer: str) -> Facts:
    """Return what a `probe` answered. Raises Transient when the answer is not one."""
    fields = _fields(answer)
    try:
        cpus = min([float(fields["cpus"][0]), *(_cpu_limits(fields.get("cpu_limit", ())))])
        limits = [int(text) for text in fields.get("memory_limit", ()) if text.isdigit()]
        uid = fields["uid"][0]
        return Facts(
            user=fields["user"][0],
            kernel=fields["kernel"][0],
            cpus=cpus,
            memory=min([int(fields["memory"][0]), *limits]),
            root=uid == "0",
            sudo="sudo" in fields,
            programs=frozenset(fields.get("program", ())),
            gpus=tuple(_gpus(fields.get("gpu", ()))),
        )
    except (KeyError, ValueError) as error:
        raise Transient(f"{name} answered the probe with something else: {answer[:200]!r}") from error


def parse_survey(name: str, answer: str) -> Survey:
    """Return what a `survey` answered. Raises Transient when the answer is not one."""
    fields = _fields(answer)
    try:
        free, size = fields["disk"][0].split()
        return Survey(
            directory=fields["directory"][0],
            boot=fields["boot"][0],
            disk_free=int(free),
            disk=int(size),
            reservations=tuple(parse_reservation(line) for line in fields.get("reservation", ())),
        )
    except (KeyError, ValueError) as error:
        raise Transient(f"{name} answered the survey with something else: {answer[:200]!r}") from error


def parse_reservation(line: str) -> Reservation:
    """Return one reservation; what its spec does not say (half written, or of a newer version) stays empty."""
    installation, instance_id, state, *words = line.split()
    ready = state == "ready"
    if len(words) < 8 or words[0] != "1":
        return Reservation(installation, instance_id, ready)
    _, owner, mode, cpus, memory, gpus, boot, created = words[:8]
    return Reservation(
        installation,
        instance_id,
        ready,
        owner,
        mode,
        int(cpus) / 1000,
        int(memory),
        () if gpus == "-" else tuple(gpus.split(",")),
        boot,
        int(created),
    )


def _fields(answer: str) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for line in answer.splitlines():
        name, _, value = line.partition(" ")
        fields.setdefault(name, []).append(value.strip())
    return fields


def _cpu_limits(lines: Iterable[str]) -> list[float]:
    limits = []
    for line in lines:
        quota, _, period = line.partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            limits.append(int(quota) / int(period))
    return limits


def _gpus(lines: Iterable[str]) -> list[GPU]:
    found = []
    for line in lines:
        words = [word.strip() for word in line.split(",", 2)]
        if len(words) == 3 and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9/.-]{0,99}", words[0]):
            # A GPU that shares the machine's memory says [N/A].
            memory = int(words[1]) * 1024**2 if words[1].isdigit() else 0
            found.append(GPU(words[0], memory, words[2]))
    return found


async def _close(connection: Connection) -> None:
    with contextlib.suppress(GridcloudError):
        await connection.close()


async def _capture(connection: Connection, command: Command) -> tuple[int, str, str]:
    """Run a command; return its exit code, standard output and standard error."""
    process = await connection.start(command)

    async def gather(stream: AsyncIterator[bytes]) -> str:
        return b"".join([chunk async for chunk in stream]).decode("utf-8", "replace")

    await process.close_input()
    answer, complaint = await asyncio.gather(gather(process.stdout()), gather(process.stderr()))
    return await process.wait(), answer, complaint
