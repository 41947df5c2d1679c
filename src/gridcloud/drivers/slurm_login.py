"""A login node of a cluster under Slurm, or this computer as one: how it is reached, Slurm's commands, and who may.

Commands are vectors of words. What else has to be done there is a fixed text for ``sh``, whose verbs take words.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from gridcloud.connections.captures import Done, capture
from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.model import Address, LocalAddress
from gridcloud.drivers.slurm_words import build_error
from gridcloud.errors import (
    ConnectionLost,
    Forbidden,
    GridcloudError,
    InvalidSettings,
    TimedOut,
    Transient,
)
from gridcloud.instances.ssh_machine import SSHMachine, Word
from gridcloud.settings import Duration, ProviderSettings

__all__ = ["Directory", "Facts", "Login", "LoginSettings"]

AT_ONCE = 6
"""Commands at the same time: SSH servers allow ten on one connection."""
ZONE = {"SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
"""Times are seconds since 1970, and words are English, wherever the cluster is."""

FACTS = r"""
echo "user $(id -un)"
echo "uid $(id -u)"
echo "home $(cd -- "$HOME" && pwd)"
echo "program $(command -v -- "$1" 2>/dev/null)"
if command -v sbatch >/dev/null; then
    # It may fail for long: once is enough. What it warns of comes before the version.
    if said=$(sbatch --version 2>&1); then field=slurm; else field=complaint; fi
    echo "$field $(printf '%s\n' "$said" | tail -n 1)"
fi
"""


def _check_directory(path: str) -> str:
    if not path.startswith(("/", "~/")) or not path.isprintable() or ".." in path.split("/"):
        raise ValueError("must be absolute or start with ~/")
    return path.rstrip("/")


def _check_option(text: str) -> str:
    if text and (not text.isprintable() or len(text) > 300):
        raise ValueError("must be printable")
    return text


def _check_names(names: Mapping[str, str]) -> Mapping[str, str]:
    for name in names:
        if not name.isascii() or not name.isidentifier():
            raise ValueError(f"{name!r:.60} is no name of a variable")
    return names


Directory = Annotated[str, AfterValidator(_check_directory)]
Optional = Annotated[str, AfterValidator(_check_option)]


class LoginSettings(ProviderSettings):
    """What every entry of a cluster under Slurm has, whatever its jobs are for."""

    place: ClassVar[tuple[str, ...]] = ("login", "directory")

    login: SSHMachine | None = Field(
        default=None, description="login node, as a host of the ssh driver; none: this computer is one"
    )
    key: str = Field(
        default="",
        description="private key to log in with: file:PATH, env:NAME or agent:; empty: the key of this gridcloud",
    )
    known_hosts: Path | None = Field(
        default=None, description="known_hosts file, for a login node without host_keys"
    )
    directory: Directory = Field(default="~/.gridcloud", description="folder that login node and nodes share")
    environment: Annotated[Mapping[str, str], AfterValidator(_check_names)] = Field(
        default_factory=dict, description="variables for Slurm's commands and for jobs; nothing secret"
    )
    before: str = Field(
        default="", description="shell lines that each job begins with, e.g. module load python"
    )
    partitions: tuple[Word, ...] = Field(default=(), description="partitions to use")
    account: Optional = Field(default="", description="account that jobs are charged to")
    qos: Optional = Field(default="", description="quality of service")
    constraint: Optional = Field(
        default="", description="features that nodes must have, as sbatch takes them"
    )
    reservation: Optional = Field(default="", description="reservation to use")
    time: Duration = Field(
        default=0, description="time of a job where none is asked for, e.g. 8h; 0: the partition's own"
    )
    users: tuple[str, ...] = Field(
        default=(), description="users who may have jobs, beside the one named as the account that logs in"
    )
    share_account: bool = Field(
        default=False,
        description="let everybody have jobs, all as one account: each can read the others' files",
    )
    allow_root: bool = Field(default=False, description="run jobs though the account is root")


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change from minute to minute."""

    user: str
    root: bool
    home: str
    program: str
    """Path of the program that was asked for; empty when it is not found."""
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
                "Where it needs variables, such as SLURM_CONF, name them in 'environment' of this entry.",
            )
        return "sbatch is not found there.", "Set 'login' to a login node of the cluster, or its PATH."

    def within(self, path: str) -> str:
        """Return a path with the account's home for ``~``."""
        return f"{self.home}{path[1:]}" if path.startswith("~") else path


class Login:
    """The cached connection to a login node. ``script``: the text for ``sh`` whose verbs `do` runs; ``program``: what
    is looked for there; ``seconds``: for a command that asks."""

    def __init__(
        self,
        settings: LoginSettings,
        connect: Callable[[Address], Awaitable[Connection]],
        script: str,
        *,
        program: str = "",
        seconds: float,
    ) -> None:
        self._settings = settings
        self._open = connect
        self._script = script
        self._program = program
        self._seconds = seconds
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
        input: bytes | Path = b"",
        seconds: float = 0,
        output: Path | None = None,
    ) -> Done:
        """Run a command that may be repeated; ``input``: bytes, or a file; ``output``: a file for what it says. Raises
        Unreachable, TimedOut, Untrusted, Forbidden."""
        command = Command(words, ZONE | dict(self._settings.environment), directory="/")
        seconds = seconds or self._seconds
        async with self._limit:
            for attempt in (1, 2):
                fresh = self._connection is None
                try:
                    async with asyncio.timeout(seconds):
                        return await capture(await self._connect(), command, input, output)
                except TimeoutError:
                    raise TimedOut(
                        f"{words[0]} on {self.name} did not answer within {seconds:g} s."
                    ) from None
                except ConnectionLost:  # a kept connection may have died unnoticed
                    await self.close()
                    if fresh or attempt == 2:
                        raise
        raise AssertionError("two attempts end in an answer or an error")

    async def do(
        self,
        verb: str,
        *words: str,
        input: bytes | Path = b"",
        seconds: float = 0,
        bears: int = 0,
        output: Path | None = None,
    ) -> Done:
        """Run a verb of the script. Raises Transient when it fails otherwise than with ``bears``, and as `run` does."""
        script = ("sh", "-c", self._script, "gridcloud", verb)
        done = await self.run(*script, *words, input=input, seconds=seconds, output=output)
        return self._whole(verb, done, bears)

    async def facts(self) -> Facts:
        """Return what is known of it, asked once. Raises as `do` does."""
        if self._facts is None:
            words = ("sh", "-c", FACTS, "gridcloud", self._program)
            said = self._whole("facts", await self.run(*words)).said
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

    async def ready(self) -> Facts:
        """Return the facts. Raises as `do` does, InvalidSettings where Slurm cannot be used there."""
        facts = await self.facts()
        if not facts.slurm:
            self.forget()
            wrong, remedy = facts.lacks
            raise InvalidSettings(f"{self.name}: {wrong}", remedy=remedy)
        return facts

    def forget(self) -> None:
        """Ask for the facts anew next time."""
        self._facts = None

    def admit(self, owner: str, facts: Facts) -> None:
        """Raise Forbidden for who may not have jobs there."""
        settings = self._settings
        if facts.root and not settings.allow_root:
            raise Forbidden(
                f"The account on {self.name} is root.", remedy="Log in as another, or set allow_root."
            )
        if owner != facts.user and owner not in settings.users and not settings.share_account:
            raise Forbidden(
                f"Jobs on {self.name} run as {facts.user}, and {owner!r:.60} would share its files.",
                remedy="Name who may in 'users' of this entry, or set share_account.",
            )

    async def cancel(self, *words: str, seconds: float = 0) -> None:
        """Run scancel; what has ended need not be. Raises Transient."""
        done = await self.run("scancel", *words, seconds=seconds)
        if done.code and "invalid job id" not in done.complaint.lower():
            raise build_error(done.complaint, Transient)

    async def account_of(self, ids: Iterable[str], *columns: str) -> list[Sequence[str]]:
        """Return what accounting says of jobs that left the queue, where there is accounting: a row for each."""
        wanted = ",".join(sorted(set(ids)))
        if not wanted:
            return []
        words = ("sacct", "--allocations", "--noheader", "--parsable2", f"--format={','.join(columns)}")
        try:
            done = await self.run(*words, f"--jobs={wanted}")
        except GridcloudError:
            return []
        rows = (line.split("|") for line in done.said.splitlines())
        return [row for row in rows if len(row) == len(columns)]

    def address(self) -> Address:
        """Return how it is reached. Raises InvalidSettings."""
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

    async def close(self) -> None:
        """Close the connection. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(GridcloudError):
                await connection.close()

    async def _connect(self) -> Connection:
        async with self._lock:
            if self._connection is None:
                self._connection = await self._open(self.address())
            return self._connection

    def _whole(self, verb: str, done: Done, bears: int = 0) -> Done:
        if done.code not in (0, bears):
            why = done.complaint.strip()[-300:] or f"{verb} ended with {done.code}"
            raise Transient(f"{self.name}: {why}.")
        return done
