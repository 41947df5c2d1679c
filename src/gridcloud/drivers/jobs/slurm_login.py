"""The login node of a cluster, or this computer as one: Slurm's commands, and one script for the jobs' folders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.model import Address, LocalAddress, SSHAddress
from gridcloud.errors import ConnectionLost, GridcloudError, InvalidSettings, TimedOut, Transient
from gridcloud.instances.ssh_machine import SSHMachine, Word
from gridcloud.jobs.driver import JobContext, SchedulerSettings
from gridcloud.settings import Duration

__all__ = ["Done", "Facts", "Login", "SlurmJobsSettings"]

SECONDS = 20.0
"""Seconds for a command."""
CARRYING = 600.0
"""Seconds for the files of a batch of jobs to get there."""
AT_ONCE = 6
"""Commands at the same time: SSH servers allow ten on one connection."""
CHUNK = 256 * 1024
ZONE = {"SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
"""Times are seconds since 1970, and words are English, wherever the cluster is."""

SCRIPT = r"""
umask 077
verb=$1 base=$2
shift 2
case $base in "~/"*) base=$HOME/${base#"~/"} ;; esac
case $verb in
facts)
  printf '%s\n%s\n%s\n' "$(id -un)" "$(id -u)" "$base"
  sbatch --version 2>/dev/null || :
  ;;
lay)
  arriving=$base/.arriving-$1
  mkdir -p "$arriving" && cd "$arriving" && tar -xf - || { rm -rf "$arriving"; exit 1; }
  for one in *; do [ -d "$base/$one" ] || mv "$one" "$base/$one" || exit 1; done
  cd / && rm -rf "$arriving"
  ;;
note) while read -r one job; do echo "$job" >"$base/$one/job" || exit 1; done ;;
look)
  while read -r one; do
    token= job= begun= end=
    [ ! -d "$base/$one" ] || begun=there
    [ ! -d "$base/$one/begun" ] || begun=begun
    {
      read -r token <"$base/$one/token"
      read -r job <"$base/$one/job"
      read -r end <"$base/$one/end.json"
    } 2>/dev/null
    printf '%s\037%s\037%s\037%s\037%s\n' "$one" "$begun" "$token" "$job" "$end"
  done
  ;;
claim) while read -r one; do mkdir "$base/$one/begun" 2>/dev/null; done; exit 0 ;;
remove) while read -r one; do rm -rf -- "${base:?}/$one" || exit 1; done ;;
list) [ ! -d "$base" ] || ls "$base" ;;
part)
  file=$base/$1 offset=$2
  [ -f "$file" ] && [ ! -L "$file" ] || exit 3
  size=$(($(wc -c <"$file")))
  [ "$offset" -ge 0 ] || offset=$((size + offset))
  [ "$offset" -ge 0 ] || offset=0
  [ "$offset" -le "$size" ] || offset=$((size / 2))
  echo "$offset $size"
  tail -c "+$((offset + 1))" "$file" | head -c "$3"
  ;;
esac
"""


def _check_directory(path: str) -> str:
    if not path.startswith(("/", "~/")) or not path.isprintable() or ".." in path.split("/"):
        raise ValueError("must be absolute or start with ~/")
    return path.rstrip("/")


def _check_option(text: str) -> str:
    if not text.isprintable() or len(text) > 300:
        raise ValueError("must be printable")
    return text


def _check_names(names: Mapping[str, str]) -> Mapping[str, str]:
    for name in names:
        if not name.isascii() or not name.isidentifier():
            raise ValueError(f"{name!r:.60} is no name of a variable")
    return names


Optional = Annotated[str, AfterValidator(_check_option)]


class SlurmJobsSettings(SchedulerSettings):
    """Settings of a cluster under Slurm, as what runs jobs."""

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
    directory: Annotated[str, AfterValidator(_check_directory)] = Field(
        default="~/.gridcloud/jobs",
        description="folder that login node and nodes share; the jobs' folders lie there",
    )
    environment: Annotated[Mapping[str, str], AfterValidator(_check_names)] = Field(
        default_factory=dict, description="variables for Slurm's commands and for jobs; nothing secret"
    )
    before: str = Field(
        default="", description="shell lines that each job begins with, e.g. module load python"
    )
    partitions: tuple[Word, ...] = Field(
        default=(),
        description="partitions to use, the first that takes a job soonest; Slurm's default otherwise",
    )
    account: Optional = Field(default="", description="account that jobs are charged to")
    qos: Optional = Field(default="", description="quality of service")
    constraint: Optional = Field(
        default="", description="features that nodes must have, as sbatch takes them"
    )
    reservation: Optional = Field(default="", description="reservation to use")
    time: Duration = Field(
        default=0, description="time of a job where none is asked for, e.g. 8h; 0: the partition's own"
    )
    array: int = Field(
        default=1000, ge=1, le=100_000, description="jobs in one array at most: Slurm's MaxArraySize - 1"
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
class Done:
    """What a command said."""

    code: int
    said: bytes
    complaint: str

    @property
    def text(self) -> str:
        """What it said, as text."""
        return self.said.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change from minute to minute."""

    user: str
    root: bool
    base: str
    slurm: str
    """What ``sbatch --version`` says; empty where it is not found."""


class Login:
    """The cached connection to a login node."""

    def __init__(self, settings: SlurmJobsSettings, context: JobContext) -> None:
        self._settings = settings
        self._context = context
        self._connection: Connection | None = None
        self._facts: Facts | None = None
        self._lock = asyncio.Lock()
        self._limit = asyncio.Semaphore(AT_ONCE)
        self._base = f"{settings.directory}/{context.installation}/{context.provider}"

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self._settings.login.label if self._settings.login else "this computer"

    async def facts(self) -> Facts:
        """Return what is known of it, asked once. Raises Transient, InvalidSettings."""
        if self._facts is None:
            lines = (await self.do("facts")).text.splitlines()
            if len(lines) < 3 or not lines[2].startswith("/"):
                raise Transient(f"{self.name} answers with something else: {lines!r:.200}.")
            self._facts = Facts(lines[0], lines[1] == "0", lines[2], " ".join(lines[3:4]))
        return self._facts

    async def run(self, *words: str, input: bytes | Path = b"", seconds: float = SECONDS) -> Done:
        """Run a command that may be repeated. Raises Unreachable, TimedOut, Untrusted, Forbidden."""
        command = Command(words, ZONE | dict(self._settings.environment), directory="/")
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

    async def do(self, verb: str, *words: str, input: bytes | Path = b"", bears: int = 0) -> Done:
        """Run a verb of the script. Raises Transient when it fails otherwise than with ``bears``, and as `run` does."""
        seconds = CARRYING if verb == "lay" else SECONDS
        words = ("sh", "-c", SCRIPT, "gridcloud", verb, self._base, *words)
        done = await self.run(*words, input=input, seconds=seconds)
        if done.code not in (0, bears):
            why = done.complaint.strip()[-300:] or f"{verb} ended with {done.code}"
            raise Transient(f"{self.name}: {why}.")
        return done

    def address(self, directory: str = "/") -> Address:
        """Return how it is reached. Raises InvalidSettings."""
        login = self._settings.login
        if login is None:
            return LocalAddress(directory=directory)
        address: SSHAddress = login.address(self._settings.key, self._settings.known_hosts)
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
                self._connection = await self._context.connect(self.address())
            return self._connection


async def _capture(connection: Connection, command: Command, input: bytes | Path) -> Done:
    """Run a command to its end; one that is given up is killed."""
    process = await connection.start(command)

    async def gather(stream: AsyncIterator[bytes]) -> bytes:
        return b"".join([chunk async for chunk in stream])

    async def feed() -> None:
        if isinstance(input, Path):
            with input.open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK):
                    await process.write(chunk)
        elif input:
            await process.write(input)
        await process.close_input()

    try:
        said, complaint, _ = await asyncio.gather(gather(process.stdout()), gather(process.stderr()), feed())
        return Done(await process.wait(), said, complaint.decode(errors="replace"))
    except BaseException:
        with contextlib.suppress(GridcloudError):
            await process.signal("KILL")
        raise
