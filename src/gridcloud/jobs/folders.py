"""The folders of jobs that lie elsewhere: laid out, looked at, read and removed by one fixed text for ``sh``."""

from __future__ import annotations

import asyncio
import io
import re
import tarfile
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from gridcloud.connections.captures import Done, capture
from gridcloud.connections.driver import Command, Connection
from gridcloud.errors import NotFound, TimedOut, Transient
from gridcloud.jobs.driver import HANDLE, Part, Stream, Submission
from gridcloud.jobs.frame import End, read_end

__all__ = ["FILES", "FOLDERS", "Doing", "Folders", "Seen", "pack", "part_of", "verbs_over"]

FOLDERS = Path(__file__).with_name("folders.sh").read_text(encoding="utf-8")
"""The text: its verbs are told of at its top."""
FILES = {Stream.OUT: "out.log", Stream.ERR: "err.log", Stream.RESULT: "work/result.json"}
"""Where each stream lies in a job's folder."""
CARRYING = 600.0
"""Seconds for the files of a batch of jobs to get there, or back."""
SEPARATOR = "\x1f"


class Doing(Protocol):
    """Runs a verb of the text on the machine where the folders lie."""

    async def __call__(
        self,
        verb: str,
        *words: str,
        input: bytes | Path = b"",
        seconds: float = ...,
        bears: int = 0,
        output: Path | None = None,
    ) -> Done:
        """Raise Transient where it fails otherwise than with ``bears``. ``seconds``: by default what commands usually
        get. ``output``: a file for what it says."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a job's folder says."""

    there: bool = False
    begun: bool = False
    runs: bool = False
    """Its frame runs on the machine that was asked."""
    token: str = ""
    job: str = ""
    """By what it is known there, as it was noted."""
    end: End | None = None


def verbs_over(connect: Callable[[], Awaitable[Connection]], name: str, seconds: float) -> Doing:
    """Return what runs the verbs over a connection that is kept by somebody else. ``name``: what the machine is called
    in messages, ``seconds``: for a verb. It raises Transient, TimedOut and what ``connect`` raises."""

    async def do(
        verb: str,
        *words: str,
        input: bytes | Path = b"",
        seconds: float = seconds,
        bears: int = 0,
        output: Path | None = None,
    ) -> Done:
        command = Command(("sh", "-c", FOLDERS, "gridcloud", verb, *words))
        connection = await connect()
        try:
            async with asyncio.timeout(seconds):
                done = await capture(connection, command, input, output)
        except TimeoutError:
            raise TimedOut(f"{name} does not answer.") from None
        if done.code not in (0, bears):
            why = done.complaint.strip()[-300:] or f"{verb} ended with {done.code}"
            raise Transient(f"{name}: {why}.")
        return done

    return do


class Folders:
    """The folders below one. ``base``: where; it may have to be asked for."""

    def __init__(self, do: Doing, base: Callable[[], Awaitable[str]]) -> None:
        self._do = do
        self._base = base

    async def lay(
        self,
        batch: str,
        jobs: Sequence[Submission],
        scratch: Path,
        more: Mapping[str, Mapping[str, bytes]] = {},
    ) -> None:
        """Bring folders there; one that is there already stays as it is. ``batch``: a name that no other batch has,
        ``scratch``: where it may be packed, ``more``: further files, by handle. Raises as the verb does, OSError."""
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            packed = Path(folder) / "jobs.tar"
            await asyncio.to_thread(pack, packed, jobs, more)
            await self._do("lay", await self._base(), batch, input=packed, seconds=CARRYING)

    async def look(self, handles: Sequence[str]) -> dict[str, Seen]:
        """Return what the folders of jobs say."""
        known = [handle for handle in handles if re.fullmatch(HANDLE, handle)]
        found = dict.fromkeys(handles, Seen())
        said = (await self._do("look", await self._base(), input=_lines(known))).data if known else b""
        for line in said.decode(errors="replace").split("\n"):
            words = line.split(SEPARATOR)
            if len(words) == 5 and words[0] in found:
                handle, state, token, job, end = words
                begun = state in ("begun", "runs")
                found[handle] = Seen(bool(state), begun, state == "runs", token, job, read_end(end.encode()))
        return found

    async def tell(self, verb: str, lines: Iterable[str]) -> None:
        """Run a verb that takes lines and says nothing: note, start, end, remove."""
        await self._do(verb, await self._base(), input=_lines(lines))

    async def claim(self, handles: Iterable[str]) -> set[str]:
        """Have none of these begin any more; return those that had not, and now never do."""
        done = await self._do("claim", await self._base(), input=_lines(handles))
        return set(done.data.decode(errors="replace").split())

    async def handles(self) -> list[str]:
        """Return the handles of which there are folders."""
        names = (await self._do("list", await self._base())).data.decode(errors="replace").split("\n")
        return [name for name in names if re.fullmatch(HANDLE, name)]

    async def read(self, handle: str, stream: Stream, offset: int, most: int) -> Part:
        """Return a part of a file; see `JobDriver.logs`."""
        if not re.fullmatch(HANDLE, handle):
            raise NotFound(f"{handle!r:.60} is no handle.")
        words = (f"{handle}/{FILES[stream]}", str(offset), str(most))
        done = await self._do("part", await self._base(), *words, bears=3)
        if done.code:
            raise NotFound(f"{handle} has no {FILES[stream]}.")
        first, _, data = done.data.partition(b"\n")
        begin, size = map(int, first.split())
        return Part(data, begin + len(data), size)

    async def gather(self, handles: Sequence[str], archive: Path) -> None:
        """Write what jobs said, and their ends, into an archive here. Raises as the verb does, OSError."""
        await self._do("gather", await self._base(), input=_lines(handles), seconds=CARRYING, output=archive)

    async def work(self, handle: str) -> str:
        """Return the folder in which a job's words run."""
        return f"{await self._base()}/{handle}/work"


def pack(target: Path, jobs: Sequence[Submission], more: Mapping[str, Mapping[str, bytes]] = {}) -> None:
    """Write an archive with a folder for each job; ``more``: further files, by handle. Raises OSError."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for job in jobs:
            files = {**job.files, **more.get(job.handle, {})}
            folders = {f"{job.handle}", f"{job.handle}/work"}
            for name in (*files, *job.inputs):
                parts = f"{job.handle}/{name}".split("/")[:-1]
                folders |= {"/".join(parts[: count + 1]) for count in range(len(parts))}
            for name in sorted(folders):
                member = tarfile.TarInfo(name)
                member.type, member.mode = tarfile.DIRTYPE, 0o700
                archive.addfile(member)
            for name, content in files.items():
                member = tarfile.TarInfo(f"{job.handle}/{name}")
                member.size, member.mode = len(content), 0o600
                archive.addfile(member, io.BytesIO(content))
            for name, source in job.inputs.items():
                found = source.stat()
                member = tarfile.TarInfo(f"{job.handle}/{name}")
                member.size, member.mode = found.st_size, 0o700 if found.st_mode & 0o100 else 0o600
                with source.open("rb") as file:
                    archive.addfile(member, file)


def part_of(file: BinaryIO, offset: int, most: int) -> Part:
    """Return a part of an open file; see `JobDriver.logs`. Raises OSError."""
    size = file.seek(0, io.SEEK_END)
    if offset < 0:
        offset = max(0, size + offset)
    if offset > size:  # it was cut meanwhile: its first half stays, and what follows is new
        offset = size // 2
    file.seek(offset)
    data = file.read(most)
    return Part(data, offset + len(data), size)


def _lines(words: Iterable[str]) -> bytes:
    return "".join(f"{one}\n" for one in words).encode()
