"""A login node of a cluster: Slurm's commands as vectors of words, and one fixed script for a few files."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.model import Address, LocalAddress
from gridcloud.drivers.instances.slurm_settings import SlurmSettings
from gridcloud.errors import ConnectionLost, GridcloudError, InvalidSettings, TimedOut, Transient
from gridcloud.instances.driver import Context

__all__ = ["SCRIPT", "Done", "Facts", "Login"]

SCRIPT = Path(__file__).with_name("slurm_login.sh").read_text(encoding="utf-8")
SECONDS = 9.0
"""Seconds for a command that asks; Slurm's own wait longer for a controller that is away."""
AT_ONCE = 6
"""Commands at the same time: SSH servers allow ten on one connection."""
ZONE = {"SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
"""Times are seconds since 1970, and words are English, wherever the cluster is."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a command said."""

    code: int
    said: str
    complaint: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change from minute to minute."""

    user: str
    root: bool
    home: str
    program: str
    """Path of gridcloud there; empty when it is not found."""
    slurm: str
    """What ``sbatch --version`` says; empty when it is not found, or does not work."""
    complaint: str = ""
    """Why it does not work, in its words; empty when it is not found."""

    @property
    def lacks(self) -> tuple[str, str]:
        """What is wrong with Slurm there and what to do, in words; empty when nothing is."""
        if self.slurm:
            return "", ""
        if self.complaint:
            return (
                f"sbatch does not work there: {self.complaint}",
                "Where it needs variables, such as SLURM_CONF, name them in 'environment' of the provider.",
            )
        return "sbatch is not found there.", "Set 'login' to a login node of the cluster, or its PATH."


class Login:
    """The cached connection to a login node."""

    def __init__(self, settings: SlurmSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._connection: Connection | None = None
        self._facts: Facts | None = None
        self._lock = asyncio.Lock()
        self._limit = asyncio.Semaphore(AT_ONCE)

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self._settings.login.label if self._settings.login else "this computer"

    async def run(
        self,
        *words: str,
        input: bytes = b"",
        environment: Mapping[str, str] | None = None,
        seconds: float = SECONDS,
    ) -> Done:
        """Run a command that may be repeated. Raises Unreachable, TimedOut, Untrusted, Forbidden."""
        command = Command(
            words, ZONE | dict(self._settings.environment) | dict(environment or {}), directory="/"
        )
        async with self._limit:
            for attempt in (1, 2):
                fresh = self._connection is None
                try:
                    async with asyncio.timeout(seconds):
                        return await _capture(await self._connect(), command, input)
                except TimeoutError:
                    raise TimedOut(
                        f"{words[0]} on {self.name} did not answer within {seconds:g} s."
                    ) from None
                except ConnectionLost:  # a kept connection may have died unnoticed
                    await self.close()
                    if fresh or attempt == 2:
                        raise
        raise AssertionError("two attempts end in an answer or an error")

    async def do(self, verb: str, *words: str, input: bytes = b"") -> str:
        """Run a verb of the script; return what it says. Raises Transient when it fails, and as `run` does."""
        done = await self.run("sh", "-c", SCRIPT, "gridcloud", verb, *words, input=input)
        if done.code:
            raise Transient(
                f"{self.name}: {done.complaint.strip()[-300:] or f'{verb} ended with {done.code}'}."
            )
        return done.said

    async def facts(self) -> Facts:
        """Return what is known of it, asked once. Raises as `do` does."""
        if self._facts is None:
            program = self._settings.command[0] if self._settings.command else "gridcloud"
            said = await self.do("facts", program)
            fields = dict(line.partition(" ")[::2] for line in said.splitlines())
            try:
                self._facts = Facts(
                    user=fields["user"],
                    root=fields["uid"] == "0",
                    home=fields["home"],
                    program=fields.get("program", ""),
                    slurm=fields.get("slurm", ""),
                    complaint=fields.get("complaint", "")[:300],
                )
            except KeyError as error:
                raise Transient(f"{self.name} answers with something else: {said[:200]!r}.") from error
        return self._facts

    def forget(self) -> None:
        """Ask for the facts anew next time."""
        self._facts = None

    async def close(self) -> None:
        """Close the connection. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(GridcloudError):
                await connection.close()

    async def _connect(self) -> Connection:
        async with self._lock:
            if self._connection is None:
                self._connection = await self._context.connect(self._address())
            return self._connection

    def _address(self) -> Address:
        login = self._settings.login
        if login is None:
            return LocalAddress(directory="/")
        address = login.address(self._settings.key, self._settings.known_hosts)
        if not address.host_keys and not address.host_authorities:
            raise InvalidSettings(
                f"No host key is pinned for {login.label}.",
                remedy="Compare the key of the login node (ssh-keyscan shows it) and add it as login.host_keys.",
            )
        return address


async def _capture(connection: Connection, command: Command, input: bytes) -> Done:
    """Run a command to its end; one that is given up is killed."""
    process = await connection.start(command)

    async def gather(stream: AsyncIterator[bytes]) -> str:
        return b"".join([chunk async for chunk in stream]).decode(errors="replace")

    async def feed() -> None:
        if input:
            await process.write(input)
        await process.close_input()

    try:
        said, complaint, _ = await asyncio.gather(gather(process.stdout()), gather(process.stderr()), feed())
        return Done(await process.wait(), said, complaint)
    except BaseException:
        with contextlib.suppress(GridcloudError):
            await process.signal("KILL")
        raise
