"""Jobs on this computer: a queue that is kept, within so many cores and so much memory.

A job is a process of its own session that outlives us. Its slip, in a folder that only the scheduler may write to, says
what it may use; its own folder says whether it has begun and how it ended (`gridcloud.jobs.frame`). So whoever comes
next knows all of it, and goes on. What begins is decided in the order in which it came: the first that does not fit
holds back those behind it, so that large jobs come to their turn.

Whose account a job runs as is decided as for instances of the ``local`` provider (`gridcloud.instances.accounts`). Time
and memory are limits: whoever goes over is ended within a second or a few. Cores are a promise, not a limit: programs
are told of theirs by OMP_NUM_THREADS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import psutil
from pydantic import Field

from gridcloud.connections.environment import inherited, of_user
from gridcloud.connections.model import LocalAddress
from gridcloud.drivers.jobs import local_files
from gridcloud.drivers.jobs.local_files import Running, Slip
from gridcloud.errors import GridcloudError, NotFound
from gridcloud.instances.accounts import account_for
from gridcloud.instances.model import Finding, format_size
from gridcloud.jobs.driver import (
    HANDLE,
    JobContext,
    JobDriver,
    JobHolding,
    JobObservation,
    JobOffer,
    Part,
    Phase,
    Place,
    SchedulerSettings,
    Stream,
    Submission,
)
from gridcloud.jobs.frame import MARK, UNUSABLE
from gridcloud.jobs.model import Cause
from gridcloud.settings import Size
from gridcloud.settings.request import Request

__all__ = ["LocalJobs", "LocalJobsSettings"]

YOUNG = 5.0
"""Seconds that a frame may take from its first act to saying which process it is."""
SWEEP = 1.0
"""Seconds from a job's end to looking for what it left running."""
PATIENCE = 20.0
"""Seconds from asking a frame to end to killing all of its job."""


class LocalJobsSettings(SchedulerSettings):
    """Settings of the queue of this computer."""

    place: ClassVar[tuple[str, ...]] = ("directory",)

    cpus: float | None = Field(
        default=None, gt=0, description="CPU cores for all jobs together; all there are when not given"
    )
    memory: Size | None = Field(
        default=None, description="memory for all jobs together, e.g. 24GiB; all when not given"
    )
    gpus: int = Field(default=0, ge=0, le=64, description="GPUs for all jobs together, numbered from 0")
    directory: str = Field(
        default="",
        pattern=r"^(/.*)?$",
        description="folder for the jobs' own folders; by default the driver's private folder, and "
        "/var/lib/gridcloud for those of other accounts",
    )
    accounts: Mapping[str, str] = Field(
        default_factory=dict, description="owner to account of this computer, where the names differ"
    )
    allow_root: bool = Field(
        default=False,
        description="let owners without an account here run as root, when gridcloud runs as root",
    )
    share_account: bool = Field(
        default=False,
        description="let all owners share the account gridcloud runs as: only among people who trust each other",
    )


@dataclass(slots=True, eq=False)
class _Job:
    slip: Slip
    running: Running | None = None
    devices: tuple[int, ...] = ()
    ended: JobObservation | None = None
    settling: bool = False
    """Its frame runs no longer, or another start of it goes on: which, is being found out."""
    killing: asyncio.TimerHandle | None = field(default=None, repr=False)


_children: dict[int, subprocess.Popen[bytes]] = {}
"""The frames that this process started, whichever driver did: to be waited for when they end."""


class LocalJobs(JobDriver):
    """This computer."""

    Settings = LocalJobsSettings
    settings: LocalJobsSettings

    def __init__(self, settings: SchedulerSettings, context: JobContext) -> None:
        super().__init__(settings, context)
        self._queue = context.folder / "queue"
        self._ended = context.folder / "ended"
        self._jobs: dict[str, _Job] = {}
        self._loaded = False
        self._closed = False
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()
        self._left: dict[str, Slip] = {}
        """Jobs that ended just now, of which something may still run."""
        self._sweeping: asyncio.TimerHandle | None = None
        self._whole = _measure(self.settings)

    async def offer(self, request: Request, owner: str) -> JobOffer:
        """Say whether it fits into this computer, and whether now; see the contract."""
        await self._load()
        cpus, memory, gpus = self._whole
        try:
            self._account(owner)
        except GridcloudError as error:
            return JobOffer(possible=False, why_not=str(error))
        for why, short in (
            (f"this computer has {cpus:g} CPUs for jobs", request.cpus > cpus + 1e-9),
            (f"this computer has {format_size(memory)} for jobs", request.memory > memory),
            (f"this computer has {gpus} GPUs for jobs", request.gpus > gpus),
            ("this computer has no images to choose from", bool(request.image)),
        ):
            if short:
                return JobOffer(possible=False, why_not=why)
        waiting = sum(one.running is None and one.ended is None for one in self._jobs.values())
        fits = not waiting and self._fits(request.cpus, request.memory, request.gpus)
        return JobOffer(wait=0.0 if fits else 60.0 * (1 + waiting), why_not="" if fits else "it is busy")

    async def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:
        """Lay out their folders, put them into the queue, begin what fits; see the contract."""
        await self._load()
        async with self._turn:
            fresh = [job for job in jobs if self._find(job.handle) is None]
            slips, refused = await asyncio.to_thread(self._lay_out, fresh)
            for slip in slips:
                self._jobs[slip.handle] = _Job(slip)
            self._advance()
        return refused

    async def observe(self, handles: Sequence[str]) -> Mapping[str, JobObservation]:
        """Say what each is; see the contract."""
        await self._load()
        self._advance()
        return {handle: self._observe(handle) for handle in handles}

    async def cancel(self, handles: Sequence[str]) -> None:
        """Drop what has not begun, ask the others' frames to end; see the contract."""
        await self._load()
        async with self._turn:
            waiting = []
            for handle in handles:
                job = self._jobs.get(handle)
                if job is None or job.ended is not None:
                    continue
                if job.running is not None:
                    self._end(job, job.running)
                elif not local_files.find_frame(job.slip)[0]:
                    job.slip = replace(job.slip, cancelled=True)
                    job.ended = _UNBEGUN
                    waiting.append(job.slip)
            await asyncio.to_thread(self._put_by, waiting)
            self._forget_ended()
            self._advance()

    async def remove(self, handles: Sequence[str]) -> None:
        """Remove their folders and slips; see the contract."""
        await self._load()
        self._sweep()
        ended = [one for one in handles if one not in self._jobs or self._jobs[one].ended is not None]
        await asyncio.to_thread(self._remove, ended)
        for handle in ended:
            self._jobs.pop(handle, None)

    async def holdings(self) -> Sequence[JobHolding]:
        """List the slips, and folders without one; see the contract."""
        names = {path.stem for folder in (self._queue, self._ended) for path in folder.glob("[!.]*.json")}
        for base in (self._base(""), self._base("x")):
            with contextlib.suppress(OSError):
                names |= {entry.name for entry in os.scandir(base) if re.fullmatch(HANDLE, entry.name)}
        return [JobHolding(handle=name) for name in sorted(names)]

    async def logs(self, handle: str, stream: Stream, offset: int, most: int) -> Part:
        """Read from its folder; see the contract."""
        slip = self._known(handle)
        try:
            return await asyncio.to_thread(local_files.read_part, slip, stream, offset, most)
        except FileNotFoundError as error:
            raise NotFound(f"The files of {handle} are gone.") from error

    async def place(self, handle: str) -> Place:
        """Return its folder; see the contract."""
        slip = self._known(handle)
        folder = f"{slip.folder}/work"
        return Place(LocalAddress(directory=folder, user=slip.account), folder)

    async def check(self) -> Sequence[Finding]:
        """Tell what there is to give."""
        cpus, memory, gpus = self._whole
        subject = self.context.provider
        words = f"{cpus:g} CPUs, {format_size(memory)}, {gpus} GPUs for jobs"
        found = [Finding(subject=subject, ok=True, message=words)]
        if not hasattr(os, "pidfd_open"):
            found.append(
                Finding(subject=subject, ok=False, message="this system is no Linux of 5.3 or newer")
            )
        return found

    async def changed(self) -> None:
        """Return when any job began or ended; see `Telling`."""
        await self._news.wait()
        self._news.clear()

    async def close(self) -> None:
        """Let go of what is watched; jobs live on."""
        self._closed = True
        self._sweep()
        for job in self._jobs.values():
            if job.killing is not None:
                job.killing.cancel()
            self._let_go(job)
        self._jobs.clear()
        self._loaded = False

    # What is known ------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Read the slips of all that had not ended when they were last looked at, once."""
        async with self._turn:
            if self._loaded:
                return
            for slip in await asyncio.to_thread(self._read_slips):
                job = self._jobs.setdefault(slip.handle, _Job(slip))
                begun, job.running = local_files.find_frame(slip)
                if job.running is not None:
                    self._watch(job, job.running)
                elif begun:
                    self._settle(job)
            self._loaded, self._closed = True, False
            self._advance()

    def _read_slips(self) -> list[Slip]:
        for folder in (self._queue, self._ended):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = []
        for path in self._queue.glob("[!.]*.json"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                found.append(Slip(**json.loads(path.read_text())))
        return sorted(found, key=lambda slip: slip.number)

    def _find(self, handle: str) -> Slip | None:
        """The slip of a job, whether or not it has ended."""
        if handle in self._jobs:
            return self._jobs[handle].slip
        if not re.fullmatch(HANDLE, handle):
            return None
        for folder in (self._ended, self._queue):
            with contextlib.suppress(OSError, ValueError, TypeError):
                return Slip(**json.loads((folder / f"{handle}.json").read_text()))
        return None

    def _known(self, handle: str) -> Slip:
        slip = self._find(handle)
        if slip is None:
            raise NotFound(f"{self.context.provider} holds nothing of {handle:.60}.")
        return slip

    def _observe(self, handle: str) -> JobObservation:
        job = self._jobs.get(handle)
        if job is None:
            slip = self._find(handle)
            return JobObservation(phase=Phase.GONE) if slip is None else _read_end(slip)
        if job.ended is not None:
            return job.ended
        if job.running is not None:
            return JobObservation(phase=Phase.RUNNING, begun=True)
        return JobObservation(phase=Phase.WAITING)

    # The queue ----------------------------------------------------------------------------------------------

    def _lay_out(self, jobs: Sequence[Submission]) -> tuple[list[Slip], dict[str, str]]:
        slips, refused = [], {}
        for job in jobs:
            try:
                account = self._account(job.owner)
                slip = Slip(
                    handle=job.handle,
                    account=account,
                    folder=str(self._base(account) / job.handle),
                    cpus=job.request.cpus,
                    memory=job.request.memory,
                    gpus=job.request.gpus,
                    number=time.time_ns(),
                )
                if not re.fullmatch(HANDLE, job.handle):
                    raise NotFound(f"{job.handle:.60} is no handle")
                local_files.lay_out(slip, job.files, job.inputs)
                local_files.write_slip(self._queue, slip)
                slips.append(slip)
            except (GridcloudError, OSError) as error:
                refused[job.handle] = str(error)
        return slips, refused

    def _advance(self) -> None:
        """Begin what fits, in the order in which it came."""
        if self._closed:
            return
        for job in list(self._jobs.values()):
            if job.running is not None or job.ended is not None or job.settling:
                continue
            if not self._fits(job.slip.cpus, job.slip.memory, job.slip.gpus):
                break
            self._begin(job)
        self._forget_ended()

    def _fits(self, cpus: float, memory: int, gpus: int) -> bool:
        used = [job.slip for job in self._jobs.values() if job.running is not None or job.settling]
        whole = self._whole
        return (
            sum(slip.cpus for slip in used) + cpus <= whole[0] + 1e-9
            and sum(slip.memory for slip in used) + memory <= whole[1]
            and sum(slip.gpus for slip in used) + gpus <= whole[2]
        )

    def _begin(self, job: _Job) -> None:
        slip = job.slip
        taken = {one for other in self._jobs.values() if other.running for one in other.devices}
        free = [number for number in range(self._whole[2]) if number not in taken]
        job.devices = tuple(free[: slip.gpus])
        environment = of_user(slip.account) if slip.account else inherited()
        environment |= {MARK: slip.handle, "OMP_NUM_THREADS": str(max(1, int(slip.cpus)))}
        environment["GRIDCLOUD_PYTHON"] = sys.executable
        if self._whole[2]:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, job.devices))
        identity: dict[str, Any] = {}
        if slip.account:
            user = pwd.getpwnam(slip.account)
            groups = os.getgrouplist(slip.account, user.pw_gid)
            identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": groups}
        try:
            process = subprocess.Popen(
                ("/bin/sh", f"{slip.folder}/frame", slip.folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment,
                start_new_session=True,
                **identity,
            )
        except OSError as error:
            self._note_end(job, _lost(f"It could not be started: {error}.", Cause.STAGING, begun=False))
            return
        _children[process.pid] = process
        job.running = Running(process.pid, os.pidfd_open(process.pid))
        self._watch(job, job.running)
        self._news.set()

    def _watch(self, job: _Job, running: Running) -> None:
        asyncio.get_running_loop().add_reader(running.descriptor, self._over, job)

    def _over(self, job: _Job) -> None:
        """A frame has ended."""
        pid = job.running.pid if job.running else 0
        self._let_go(job)
        child = _children.pop(pid, None)
        self._settle(job, child.wait() if child is not None else None)
        self._advance()

    def _settle(self, job: _Job, code: int | None = None) -> None:
        """Find out how a job ended whose frame runs no longer, or which other start of it goes on."""
        job.settling = False
        seen = _read_end(job.slip)
        if seen.end is None:
            begun, running = local_files.find_frame(job.slip)
            if running is not None:
                job.running = running
                self._watch(job, running)
                return
            if not begun and code is None:
                return  # nobody has begun with it
            if not begun:
                seen = _lost("Its folder could not be used.", Cause.STAGING, begun=False)
            elif _is_young(job.slip):
                job.settling = True
                asyncio.get_running_loop().call_later(0.2, self._settle_later, job, code)
                return
            elif code == UNUSABLE:
                seen = _lost("How it ended could not be written: the disk may be full.", Cause.MACHINE)
        if seen.end is None and local_files.end_stragglers({job.slip.handle: job.slip}):
            seen = seen.model_copy(update={"detail": "What watched over it was killed, and so it was, too."})
        elif seen.begun:
            self._sweep_later(job.slip)
        self._note_end(job, seen)

    def _sweep_later(self, slip: Slip) -> None:
        """Have ended what left the job's session, soon: all processes are looked at once for many jobs."""
        self._left[slip.handle] = slip
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        left, self._left = self._left, {}
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._sweeping = None
        local_files.end_stragglers(left)

    def _settle_later(self, job: _Job, code: int | None) -> None:
        if not self._closed and job.settling:
            self._settle(job, code)
            self._advance()

    def _note_end(self, job: _Job, seen: JobObservation) -> None:
        job.ended = seen
        if job.killing is not None:
            job.killing.cancel()
        self._put_by([job.slip])
        self._news.set()

    def _put_by(self, slips: Sequence[Slip]) -> None:
        for slip in slips:
            if slip.cancelled:
                local_files.write_slip(self._queue, slip)
            with contextlib.suppress(FileNotFoundError):
                (self._queue / f"{slip.handle}.json").rename(self._ended / f"{slip.handle}.json")
        self._news.set()

    def _forget_ended(self) -> None:
        """Ended jobs are read from their files when somebody asks: only a lost one's cause is nowhere but here."""
        for handle in [
            one for one, job in self._jobs.items() if job.ended and (job.ended.end or job.slip.cancelled)
        ]:
            del self._jobs[handle]

    def _end(self, job: _Job, running: Running) -> None:
        running.signal(signal.SIGTERM)
        if job.killing is None:
            loop = asyncio.get_running_loop()
            job.killing = loop.call_later(
                PATIENCE, lambda: local_files.end_stragglers({job.slip.handle: job.slip})
            )

    def _let_go(self, job: _Job) -> None:
        running, job.running = job.running, None
        if running is not None:
            with contextlib.suppress(RuntimeError):  # outside of any loop nothing was watched
                asyncio.get_running_loop().remove_reader(running.descriptor)
            running.close()

    def _remove(self, handles: Sequence[str]) -> None:
        for handle in handles:
            if not re.fullmatch(HANDLE, handle):
                continue
            slip = self._find(handle)
            bases = [Path(slip.folder).parent] if slip else [self._base(""), self._base("x")]
            for base in bases:
                local_files.tidy(base / handle)
            for above in (self._queue, self._ended):
                (above / f"{handle}.json").unlink(missing_ok=True)

    def _account(self, owner: str) -> str:
        settings = self.settings
        return account_for(owner, settings.accounts, share=settings.share_account, root=settings.allow_root)

    def _base(self, account: str) -> Path:
        if self.settings.directory:
            return Path(self.settings.directory)
        if account:
            return Path("/var/lib/gridcloud") / self.context.installation / f"jobs-{self.context.provider}"
        return self.context.folder / "jobs"


_UNBEGUN = JobObservation(phase=Phase.ENDED, detail="It had not begun.")


def _lost(detail: str, cause: Cause = Cause.MACHINE, *, begun: bool = True) -> JobObservation:
    return JobObservation(phase=Phase.ENDED, cause=cause, detail=detail, begun=begun)


def _read_end(slip: Slip) -> JobObservation:
    """What a job that does not run has left to say."""
    if slip.cancelled:
        return _UNBEGUN
    end = local_files.read_last_words(slip)
    if end is None:
        return _lost("It ended without a last word: this computer may have been restarted.")
    cause, detail = end.cause, end.describe()
    if end.signal == signal.SIGKILL and end.why == "" and slip.memory and end.memory > slip.memory * 0.9:
        cause, detail = Cause.MEMORY, "It was killed when it used nearly all the memory it may."
    return JobObservation(phase=Phase.ENDED, end=end, cause=cause, detail=detail, begun=True)


def _is_young(slip: Slip) -> bool:
    """Whether a frame may be just about to say which process it is."""
    begun = Path(slip.folder) / "begun"
    try:
        return not (begun / "pid").exists() and time.time() - begun.stat().st_mtime < YOUNG
    except OSError:
        return False


def _measure(settings: LocalJobsSettings) -> tuple[float, int, int]:
    cpus = settings.cpus or float(len(os.sched_getaffinity(0)))
    return cpus, settings.memory or psutil.virtual_memory().total, settings.gpus
