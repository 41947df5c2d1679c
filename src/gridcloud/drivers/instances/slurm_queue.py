"""Our jobs in the queue of a cluster: looked at, submitted, and ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from gridcloud.drivers.instances.slurm_job import Names, submit_words
from gridcloud.drivers.instances.slurm_settings import SlurmSettings
from gridcloud.drivers.slurm_login import Login
from gridcloud.drivers.slurm_words import FORMAT, Job, build_error, format_time, parse_jobs
from gridcloud.errors import GridcloudError, NoCapacity, Transient
from gridcloud.instances.driver import Context

__all__ = ["SOON", "Queue"]

SOON = 60
"""Seconds until a start that are none: Slurm plans in steps."""
DECIDED = 8.0
"""Seconds for Slurm to look at a new job."""
PATIENCE = 20.0
"""Seconds for a command that changes something: how it ended is worth to be known."""
ENDING = 25.0
"""Seconds for a job to end once it was told to."""
UNDECIDED = frozenset({"", "None", "Dependency", "Priority"})
"""Reasons of jobs that Slurm may start all the same once it comes to them."""
HOPELESS = ("BadConstraints", "Held", "Invalid", "PartitionDown", "PartitionInactive", "PartitionTimeLimit",
            "PartitionNodeLimit", "DependencyNeverSatisfied", "ReservationDeleted")  # fmt: skip
"""Beginnings or ends of reasons for which a job never starts."""


class Queue:
    """The jobs of one provider."""

    def __init__(self, login: Login, settings: SlurmSettings, context: Context) -> None:
        self._login = login
        self._settings = settings
        self._context = context

    async def names(self) -> Names:
        """Return what is ours on this cluster."""
        base = (await self._login.facts()).within(self._settings.directory)
        return Names(self._context.installation, self._context.provider, base)

    async def jobs(self) -> dict[str, Job]:
        """Return our jobs by instance: the first that lives, else the last that ended."""
        names, user = await self.names(), (await self._login.facts()).user
        found: dict[str, Job] = {}
        for job in await self._squeue(f"--user={user}"):
            one = names.owner_of(job)
            known = found.get(one)
            if one and (known is None or _better(job, known)):
                found[one] = job
        return found

    async def find(self, instance_id: str) -> list[Job]:
        """Return all jobs of an instance that Slurm shows, those that have ended too."""
        names, user = await self.names(), (await self._login.facts()).user
        jobs = await self._squeue(f"--user={user}", f"--name={names.job(instance_id)}")
        return [job for job in jobs if names.owner_of(job) == instance_id]

    async def _squeue(self, *words: str) -> list[Job]:
        done = await self._login.run("squeue", "--noheader", "--states=all", f"--format={FORMAT}", *words)
        if done.code:
            raise build_error(done.complaint, Transient)
        return parse_jobs(done.said)

    async def show(self, what: str) -> str:
        """Return what scontrol shows of all nodes or partitions. Raises Transient."""
        done = await self._login.run("scontrol", "--oneliner", "show", what)
        if done.code:
            raise build_error(done.complaint, Transient)
        return done.said

    async def submit(self, instance_id: str, resources: Sequence[str], script: str) -> Job:
        """Submit the job of an instance. Raises what Slurm refuses, NoCapacity where it would wait for too long."""
        words = submit_words(await self.names(), instance_id, resources)
        done = await self._login.run(*words, input=script.encode(), seconds=PATIENCE)
        if done.code or not done.said.strip().partition(";")[0].isdigit():
            raise build_error(done.complaint)
        return await self._settle(instance_id)

    async def _settle(self, instance_id: str) -> Job:
        """Return the new job once Slurm has looked at it; cancel it when it would wait for too long.

        Raises NoCapacity, Unavailable.
        """
        deadline = time.monotonic() + DECIDED
        while True:
            jobs = await self.find(instance_id)
            if not jobs:
                raise Transient(f"Slurm took the job of {instance_id}, and does not show it.")
            living = sorted((one for one in jobs if one.lives), key=lambda one: int(one.id))
            job = living[0] if living else jobs[0]
            if living[1:]:  # it was submitted again when the first answer was lost
                await self._login.run("scancel", *(one.id for one in living[1:]))
            decided = not job.waits or job.reason not in UNDECIDED
            if decided or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1)
        if not job.waits:
            return job
        wait = job.start - time.time() if job.start else 0
        hopeless = any(job.reason.startswith(one) or job.reason.endswith(one) for one in HOPELESS)
        if hopeless or not self._settings.wait or wait > self._settings.wait + SOON:
            await self.cancel(instance_id)
            when = f", and is expected to in {format_time(int(wait))} minutes" if wait > 0 else ""
            raise NoCapacity(f"The job does not start ({job.reason}){when}.")
        return job

    async def cancel(self, instance_id: str) -> None:
        """Cancel all jobs of an instance and wait until none has nodes. Raises Transient when one does not end."""
        names = await self.names()
        deadline = time.monotonic() + ENDING
        pause, told = 0.1, False
        while True:
            jobs = await self.find(instance_id)
            living = [job.id for job in jobs if job.lives]
            if living and not told:
                words = (f"--name={names.job(instance_id)}", *living)
                await self._login.cancel(*words, seconds=PATIENCE)
                told = True
            elif not any(job.lives or job.state == "COMPLETING" for job in jobs):
                return
            if time.monotonic() > deadline:
                if not living:
                    return  # it is certain to go: a node is slow to clear up
                raise Transient(f"The job {', '.join(living)} of {instance_id} has not ended yet.")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 2.0)

    async def last_words(self, instance_id: str) -> str:
        """Return the end of what a job said, as the end of a sentence; empty when that cannot be seen."""
        try:
            folder = (await self.names()).folder(instance_id)
            said = " ".join((await self._login.do("tail", folder)).said.split())
        except GridcloudError:
            return ""
        return f"; it said: {said[-400:]}" if said else ""

    async def account_of(self, ids: Sequence[str]) -> dict[str, str]:
        """Return what accounting says of jobs that left the queue, where there is accounting."""
        numbers = [one for one in ids if one.isdigit()]
        return {
            job: f"job {job} is {state.lower().replace('_', ' ')}, with exit code {code}"
            for job, state, code in await self._login.account_of(numbers, "JobIDRaw", "State", "ExitCode")
        }


def _better(job: Job, known: Job) -> bool:
    if job.lives != known.lives:
        return job.lives
    return int(job.id) < int(known.id) if job.lives else int(job.id) > int(known.id)
