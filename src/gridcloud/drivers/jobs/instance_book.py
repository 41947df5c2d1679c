"""What the ``instance`` scheduler knows of its jobs: a slip for each, and what is to be brought to its machine.

Slips are small files, written whole before what they say is done. All drivers of one scheduler in this process (a new
one is made whenever its entry is changed) share one book, so that two never give a job to two machines.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from gridcloud.jobs.driver import HANDLE, JobObservation, Part, Stream, Submission
from gridcloud.jobs.folders import FILES, part_of
from gridcloud.settings.request import Request

__all__ = ["Book", "Slip", "open_book"]

LARGEST = 1 << 30
"""Bytes of one file that is kept of a job whose machine ends: its owner may have written anything there."""

_BOOKS: WeakValueDictionary[str, Book] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Slip:
    """What is known of one attempt."""

    handle: str
    owner: str
    number: int
    """Its place in the queue."""
    asked: dict[str, Any]
    """The request."""
    machine: str = ""
    """The instance that it is for; empty: none yet."""
    devices: tuple[int, ...] = ()
    laid: bool = False
    """Its folder may lie on the machine, and it may have begun."""
    started: bool = False
    """Its frame was started there."""
    cancelled: bool = False
    seen: dict[str, Any] | None = None
    """How it ended."""
    fetched: bool = False
    """What it said is kept here: its machine is of no more use to it."""

    @property
    def request(self) -> Request:
        """What it asks for."""
        return Request.model_validate(self.asked)

    @property
    def observed(self) -> JobObservation | None:
        """How it ended; None: it has not."""
        return None if self.seen is None else JobObservation.model_validate(self.seen)


class Book:
    """The slips of one scheduler, in a folder that is private to it."""

    def __init__(self, folder: Path) -> None:
        self.turn = asyncio.Lock()
        """Held while jobs are given to machines."""
        self.handing: set[str] = set()
        """Machines to which jobs are being brought."""
        self.gates: dict[str, asyncio.Lock] = {}
        """One for each machine: between starting jobs there and ending them."""
        self.idle: dict[str, float] = {}
        """Since when nothing is wanted of a machine, by the monotonic clock."""
        self._slips, self._brought, self._ended = folder / "slips", folder / "bring", folder / "ended"
        for one in (self._slips, self._brought, self._ended):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._known: dict[str, Slip] = {}
        for path in self._slips.glob("[!.]*.json"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                values = json.loads(path.read_text())
                slip = Slip(**values | {"devices": tuple(values["devices"])})
                self._known[slip.handle] = slip
        for path in self._brought.iterdir():  # of what was not wholly taken
            if path.stem not in self._known:
                path.unlink()
        self._last = max((slip.number for slip in self._known.values()), default=0)

    def all(self) -> list[Slip]:
        """Return all slips, in the order in which they came."""
        return sorted(self._known.values(), key=lambda slip: slip.number)

    def find(self, handle: str) -> Slip | None:
        """Return the slip of a job."""
        return self._known.get(handle)

    def on(self, machine: str) -> list[Slip]:
        """Return the slips of the jobs of a machine."""
        return [slip for slip in self.all() if slip.machine == machine]

    def add(self, jobs: Sequence[Submission]) -> None:
        """Take jobs that are not known yet, with what is to be brought. Raises OSError."""
        for job in jobs:
            if job.handle in self._known or not re.fullmatch(HANDLE, job.handle):
                continue
            self._last += 1
            files = {name: base64.b64encode(content).decode() for name, content in job.files.items()}
            inputs = {name: str(path) for name, path in job.inputs.items()}
            _write(self._brought / f"{job.handle}.json", {"name": job.name, "files": files, "inputs": inputs})
            asked = job.request.model_dump(mode="json")
            self._keep(Slip(job.handle, job.owner, self._last, asked))

    def change(self, handle: str, **changes: Any) -> Slip:
        """Note something of a job. Raises KeyError where it was removed meanwhile, OSError."""
        return self._keep(replace(self._known[handle], **changes))

    def note_end(self, handle: str, seen: JobObservation) -> None:
        """Note how a job ended; nothing of it is brought any more."""
        self.change(handle, seen=seen.model_dump(mode="json"))
        self.forget_brought(handle)

    def submission(self, slip: Slip) -> Submission:
        """Return what is to be brought for a job. Raises OSError, ValueError."""
        found = json.loads((self._brought / f"{slip.handle}.json").read_text())
        files = {name: base64.b64decode(text) for name, text in found["files"].items()}
        inputs = {name: Path(path) for name, path in found["inputs"].items()}
        return Submission(slip.handle, slip.owner, found["name"], slip.request, files, inputs)

    def forget_brought(self, handle: str) -> None:
        """Remove what was to be brought: it was, and secrets are in it."""
        (self._brought / f"{handle}.json").unlink(missing_ok=True)

    def take_in(self, archive: Path, handles: Iterable[str]) -> None:
        """Keep what jobs said, from an archive that their machine made: nothing else of it is believed. Raises OSError,
        tarfile.TarError."""
        wanted = {f"{handle}/{name}": handle for handle in handles for name in FILES.values()}
        with tarfile.open(archive) as packed:
            for member in packed:
                if member.name not in wanted or not member.isreg() or member.size > LARGEST:
                    continue
                source = packed.extractfile(member)
                if source is None:
                    continue
                target = self._ended / member.name
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)

    def read(self, handle: str, stream: Stream, offset: int, most: int) -> Part:
        """Return a part of what is kept of a job. Raises FileNotFoundError."""
        with (self._ended / handle / FILES[stream]).open("rb") as file:
            return part_of(file, offset, most)

    def drop(self, handle: str) -> None:
        """Forget a job, with what is kept of it."""
        self.forget_brought(handle)
        shutil.rmtree(self._ended / handle, ignore_errors=True)
        (self._slips / f"{handle}.json").unlink(missing_ok=True)
        self._known.pop(handle, None)

    def _keep(self, slip: Slip) -> Slip:
        _write(self._slips / f"{slip.handle}.json", asdict(slip))
        self._known[slip.handle] = slip
        return slip


def open_book(folder: Path) -> Book:
    """Return the book in a folder: the one that is open, if there is one."""
    key = str(folder)
    book = _BOOKS.get(key)
    if book is None:
        book = _BOOKS[key] = Book(folder)
    return book


def _write(path: Path, body: dict[str, Any]) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(body, file)
    fresh.replace(path)
