"""Jobs of a cluster under Slurm: as an ordinary user, on the login node or through SSH to it; many jobs are one array.

A job's folder lies where login node and nodes share it, and says itself which element of which array it is. So what was
submitted is found again by whoever comes next. The frame tells how a job ended; Slurm is believed where the frame could
not say it: out of time or memory by Slurm's own hand, preempted, a node lost.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence

from pydantic import Field

from gridcloud.connections.model import LocalAddress
from gridcloud.drivers.slurm_login import Directory, Login, LoginSettings
from gridcloud.drivers.slurm_words import RUNNING, WAITING, build_error, format_time, parse_start
from gridcloud.errors import GridcloudError, NotFound, Rejected, Transient, Unavailable
from gridcloud.instances.model import Finding
from gridcloud.instances.ssh_machine import Word
from gridcloud.jobs.driver import (
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
from gridcloud.jobs.folders import FOLDERS, Folders, Seen
from gridcloud.jobs.frame import MARK
from gridcloud.jobs.model import Cause
from gridcloud.settings.request import Request

__all__ = ["SlurmJobs", "SlurmJobsSettings", "render_script"]

SECONDS = 20.0
"""Seconds for a command."""
MARGIN = 120
"""Seconds that Slurm's own limit lies behind the frame's, so that the frame can say what happened."""
SPARE = 32
"""MiB beyond what a job may use, for the same reason."""
UNSAID = 5.0
"""Seconds after which a job's last words come no more: they are written on another node."""
SEPARATOR = "\x1f"
FORMAT = SEPARATOR.join(("%F", "%K", "%T", "%r", "%j"))
"""What squeue is asked for: job, element, state, reason, name."""

CAUSES = {
    "TIMEOUT": Cause.TIME,
    "DEADLINE": Cause.TIME,
    "OUT_OF_MEMORY": Cause.MEMORY,
    "PREEMPTED": Cause.PREEMPTED,
    "NODE_FAIL": Cause.MACHINE,
    "BOOT_FAIL": Cause.MACHINE,
}


class SlurmJobsSettings(LoginSettings, SchedulerSettings):
    """Settings of a cluster under Slurm, as what runs jobs."""

    directory: Directory = Field(
        default="~/.gridcloud/jobs",
        description="folder that login node and nodes share; the jobs' folders lie there",
    )
    partitions: tuple[Word, ...] = Field(
        default=(),
        description="partitions to use, the first that takes a job soonest; Slurm's default otherwise",
    )
    array: int = Field(
        default=1000, ge=1, le=100_000, description="jobs in one array at most: Slurm's MaxArraySize - 1"
    )


class SlurmJobs(JobDriver):
    """A cluster under Slurm."""

    Settings = SlurmJobsSettings
    settings: SlurmJobsSettings

    def __init__(self, settings: SchedulerSettings, context: JobContext) -> None:
        super().__init__(settings, context)
        self._login = Login(self.settings, context.connect, FOLDERS, seconds=SECONDS)
        self._folders = Folders(self._login.do, self._base)
        self._unsaid: dict[str, float] = {}
        self._turn = asyncio.Lock()

    async def offer(self, request: Request, owner: str) -> JobOffer:
        """Ask Slurm when it would begin; see the contract."""
        try:
            self._login.admit(owner, await self._login.ready())
            if request.image:
                return JobOffer(possible=False, why_not="Slurm has no images to choose from")
            _, start = await self._choose(request)
        except Unavailable as error:
            return JobOffer(wait=3600.0, price=self.settings.price, why_not=str(error))
        except Rejected as error:
            return JobOffer(possible=False, why_not=str(error))
        return JobOffer(wait=max(0.0, start - time.time()), price=self.settings.price)

    async def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:
        """Bring their folders, and submit those that need the same as one array; see the contract."""
        facts = await self._login.ready()
        refused: dict[str, str] = {}
        groups: dict[tuple[str, ...], list[Submission]] = {}
        async with self._turn:
            seen = await self._folders.look([job.handle for job in jobs])
            known = await self._queue() if any(one.token and not one.job for one in seen.values()) else {}
            for job in jobs:
                before = seen[job.handle]
                if before.job or before.end:
                    continue
                if (element := before.token.replace(" ", "_")) in known:  # Slurm's answer was lost
                    await self._folders.tell("note", [f"{job.handle} {known[element][0]}"])
                    continue
                try:
                    self._login.admit(job.owner, facts)
                    options, _ = await self._choose(job.request)
                    groups.setdefault(tuple(options), []).append(job)
                except (Rejected, Unavailable) as error:
                    refused[job.handle] = str(error)
            for wanted, members in groups.items():
                for first in range(0, len(members), self.settings.array):
                    refused |= await self._submit(wanted, members[first : first + self.settings.array])
        return refused

    async def observe(self, handles: Sequence[str]) -> Mapping[str, JobObservation]:
        """Look at their folders, and ask Slurm once for all that have not ended; see the contract."""
        if not handles:
            return {}
        seen = await self._folders.look(handles)
        open_ = [one for one in seen.values() if one.job and one.end is None]
        states = {job: state for job, state, _ in (await self._queue()).values()} if open_ else {}
        missing = {one.job for one in open_} - set(states)
        states |= await self._account_of(missing)
        return {handle: self._observation(handle, seen[handle], states) for handle in handles}

    async def cancel(self, handles: Sequence[str]) -> None:
        """Have none of them begin, and Slurm end those that have; see the contract."""
        seen = await self._folders.look(handles)
        waiting = (one for one in handles if seen[one].there and not seen[one].begun)
        await self._folders.claim(waiting)
        ids = [one.job for one in seen.values() if one.job and one.end is None]
        for first in range(0, len(ids), 500):
            await self._login.cancel(*ids[first : first + 500])

    async def remove(self, handles: Sequence[str]) -> None:
        """Remove their folders; see the contract."""
        await self._folders.tell("remove", handles)

    async def holdings(self) -> Sequence[JobHolding]:
        """List the folders; see the contract."""
        return [JobHolding(handle=handle) for handle in await self._folders.handles()]

    async def logs(self, handle: str, stream: Stream, offset: int, most: int) -> Part:
        """Read from its folder; see the contract."""
        return await self._folders.read(handle, stream, offset, most)

    async def place(self, handle: str) -> Place:
        """Return its folder; see the contract."""
        if not (await self._folders.look([handle]))[handle].there:
            raise NotFound(f"{self.context.provider} holds nothing of {handle:.60}.")
        folder = await self._folders.work(handle)
        address = self._login.address()
        if isinstance(address, LocalAddress):
            address = LocalAddress(directory=folder)
        return Place(address, folder)

    async def check(self) -> Sequence[Finding]:
        """Tell of the login node, and what Slurm says there."""
        subject = self.context.provider
        try:
            facts = await self._login.ready()
            found = [Finding(subject=subject, ok=True, message=f"{self._login.name} has {facts.slurm}")]
            if facts.root and not self.settings.allow_root:
                message = f"the account on {self._login.name} is root"
                remedy = "Log in as another, or set allow_root."
                return [*found, Finding(subject=subject, ok=False, message=message, remedy=remedy)]
            await self._choose(Request(cpus=1, memory=64 << 20))
        except GridcloudError as error:
            remedy = error.remedy or "Look at what sinfo and sbatch say there."
            return [Finding(subject=subject, ok=False, message=error.message, remedy=remedy)]
        return [*found, Finding(subject=subject, ok=True, message=f"jobs run as {facts.user}")]

    async def close(self) -> None:
        """Close the connection to the login node; see the contract."""
        await self._login.close()

    # Submitting ----------------------------------------------------------------------------------------------

    async def _choose(self, request: Request) -> tuple[list[str], float]:
        """Return the options of sbatch for a request, in the partition where it begins soonest, and when that is.

        Raises Rejected, Unavailable with Slurm's words.
        """
        found: list[tuple[float, list[str]]] = []
        refusal: GridcloudError = Rejected("Slurm takes it in no partition.")
        for partition in self.settings.partitions or ("",):
            options = self._options(request, partition)
            done = await self._login.run("sbatch", "--test-only", *options, input=b"#!/bin/sh\n")
            start = parse_start(done.said + done.complaint)
            if start is not None:
                found.append((start, options))
                continue
            error = build_error(done.said + done.complaint)
            if isinstance(error, Transient) and not isinstance(error, Unavailable):
                raise error
            if isinstance(error, Unavailable) or not isinstance(refusal, Unavailable):
                refusal = error
        if not found:
            raise refusal
        soonest, chosen = min(found, key=lambda one: one[0])
        return chosen, soonest

    def _options(self, request: Request, partition: str) -> list[str]:
        mebi = max(1, -(-request.memory // 1024**2)) + SPARE
        words = ["--nodes=1", "--ntasks=1", f"--cpus-per-task={math.ceil(request.cpus)}", f"--mem={mebi}M"]
        words += ["--no-requeue", *([f"--partition={partition}"] if partition else [])]
        if seconds := request.time or self.settings.time:
            words.append(f"--time={format_time(seconds + MARGIN)}")
        if request.gpus:
            kind = re.sub(r"[^a-z0-9_-]", "", request.gpu_model.lower())
            words.append(f"--gres=gpu:{kind}:{request.gpus}" if kind else f"--gres=gpu:{request.gpus}")
        if request.disk:
            words.append(f"--tmp={-(-request.disk // 1024**2)}M")
        for name in ("account", "qos", "constraint", "reservation"):
            if value := getattr(self.settings, name):
                words.append(f"--{name}={value}")
        return words

    async def _submit(self, options: Sequence[str], jobs: Sequence[Submission]) -> dict[str, str]:
        """Bring folders and submit one array; return why it was refused, for each of its jobs."""
        token, base = secrets.token_hex(8), await self._base()
        marks = {job.handle: {"token": f"{token} {index}\n".encode()} for index, job in enumerate(jobs)}
        await self._folders.lay(token, jobs, self.context.folder, marks)
        handles = [job.handle for job in jobs]
        words = (
            *("sbatch", "--parsable", f"--job-name=gridcloud-{token}"),
            f"--comment=gridcloud:{self.context.installation}:{self.context.provider}",
            # Nothing of our own environment; the account's own is read on the node.
            *("--export=NONE", f"--chdir={base}", "--output=/dev/null"),
            f"--array=0-{len(handles) - 1}",
            *options,
        )
        script = render_script(base, handles, self.settings.environment, self.settings.before)
        done = await self._login.run(*words, input=script.encode(), seconds=60)
        job = done.said.strip().partition(";")[0]
        if done.code or not job.isdigit():
            error = build_error(done.complaint)
            if isinstance(error, Transient):
                raise error
            return dict.fromkeys(handles, str(error))
        await self._folders.tell("note", [f"{handle} {job}_{index}" for index, handle in enumerate(handles)])
        return {}

    # Looking -------------------------------------------------------------------------------------------------

    async def _base(self) -> str:
        base = (await self._login.facts()).within(self.settings.directory)
        return f"{base}/{self.context.installation}/{self.context.provider}"

    async def _queue(self) -> dict[str, tuple[str, str, str]]:
        """Return our jobs that Slurm shows, by token and element: id with the element, state, reason."""
        user = (await self._login.facts()).user
        done = await self._login.run(
            *("squeue", "--noheader", "--array", "--states=all", f"--format={FORMAT}", f"--user={user}")
        )
        if done.code:
            raise build_error(done.complaint, Transient)
        found = {}
        for line in done.said.split("\n"):
            words = line.split(SEPARATOR)
            if len(words) == 5 and words[4].startswith("gridcloud-"):
                token = words[4].removeprefix("gridcloud-")
                found[f"{token}_{words[1]}"] = (f"{words[0]}_{words[1]}", words[2], words[3])
        return found

    async def _account_of(self, ids: set[str]) -> dict[str, str]:
        """Return the states of jobs that left the queue, where there is accounting."""
        rows = await self._login.account_of((one.partition("_")[0] for one in ids), "JobID", "State")
        return {job: state.partition(" ")[0] for job, state in rows if job in ids}

    def _observation(self, handle: str, seen: Seen, states: Mapping[str, str]) -> JobObservation:
        if not seen.there:
            return JobObservation(phase=Phase.GONE)
        state = states.get(seen.job, "")
        if (end := seen.end) is not None:
            cause = CAUSES.get(state, end.cause) if end.why == "stopped" else end.cause
            return JobObservation(phase=Phase.ENDED, end=end, cause=cause, detail=end.describe(), begun=True)
        if state in WAITING:
            return JobObservation(phase=Phase.WAITING)
        if state in RUNNING or state == "COMPLETING":
            self._unsaid.pop(handle, None)
            return JobObservation(phase=Phase.RUNNING, begun=seen.begun)
        now = time.monotonic()
        if now - self._unsaid.setdefault(handle, now) < UNSAID:
            return JobObservation(phase=Phase.RUNNING if seen.begun else Phase.WAITING, begun=seen.begun)
        words = (
            f"Slurm says that it is {state.lower().replace('_', ' ')}"
            if state
            else "Slurm has no such job any more"
        )
        cause = CAUSES.get(state, Cause.MACHINE)
        return JobObservation(phase=Phase.ENDED, cause=cause, detail=f"{words}.", begun=seen.begun)


def render_script(base: str, handles: Sequence[str], environment: Mapping[str, str], before: str) -> str:
    """Return the script of an array: each element runs the frame of one job. It holds nothing secret."""
    lines = ["#!/bin/sh", "# Jobs of gridcloud: an element of the array runs one of them.", "umask 077"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())]
    lines += [before.rstrip()] if before.strip() else []
    lines += [f"set -- {' '.join(handles)}", 'shift "$SLURM_ARRAY_TASK_ID"', f'export {MARK}="$1"']
    lines.append(f'exec sh {shlex.quote(base)}/"$1"/frame {shlex.quote(base)}/"$1"')
    return "\n".join(lines) + "\n"
