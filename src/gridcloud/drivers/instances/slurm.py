"""Jobs of a cluster under Slurm: an instance is an allocation on one node, in which an agent dials us.

Slurm knows all that matters: a job carries our tag, and its name the instance's id. The token by which its agent joins
lies in a folder that only the account may read, and that login node and nodes share.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakValueDictionary

from gridcloud.drivers.instances.slurm_check import check_cluster
from gridcloud.drivers.instances.slurm_choices import Choice, choose, largest, resources
from gridcloud.drivers.instances.slurm_job import ID, Names, render_script
from gridcloud.drivers.instances.slurm_queue import SOON, Queue
from gridcloud.drivers.instances.slurm_settings import SlurmSettings
from gridcloud.drivers.slurm_login import Facts, Login
from gridcloud.drivers.slurm_words import (
    Job,
    build_error,
    format_time,
    parse_nodes,
    parse_partitions,
    parse_start,
)
from gridcloud.errors import GridcloudError, InvalidSettings, NotFound, Rejected, Unavailable
from gridcloud.instances.bootstraps import address_of, find_machines, invite, read_authorities
from gridcloud.instances.driver import Context, InstanceDriver, JoinedMachine
from gridcloud.instances.model import (
    SHARED,
    Finding,
    Handle,
    Holding,
    Observation,
    Offer,
    Phase,
    Request,
    Spec,
)
from gridcloud.settings import ProviderSettings

__all__ = ["FOLDERS", "SlurmDriver"]

MOST = 12
"""Partitions that Slurm is asked about, for one request."""
FOLDERS = Path(__file__).with_name("slurm_folders.sh").read_text(encoding="utf-8")
SECONDS = 9.0
"""Seconds for a command that asks; Slurm's own wait longer for a controller that is away."""
QUIET = 60
"""Seconds after which a job's own words are looked at when its agent has not come."""

_LOCKS: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()


class SlurmDriver(InstanceDriver):
    """A cluster under Slurm, on this computer or through a login node."""

    Settings = SlurmSettings
    settings: SlurmSettings

    def __init__(self, settings: ProviderSettings, context: Context) -> None:
        super().__init__(settings, context)
        program = self.settings.command[0] if self.settings.command else "gridcloud"
        self._login = Login(self.settings, context.connect, FOLDERS, program=program, seconds=SECONDS)
        self._queue = Queue(self._login, self.settings, context)

    async def offers(self, request: Request) -> Sequence[Offer]:
        """Offer the partitions that fit, with the wait that Slurm expects; see the contract."""
        facts = await self._facts()
        partitions, nodes = await asyncio.gather(self._queue.show("partitions"), self._queue.show("nodes"))
        choices = choose(request, parse_partitions(partitions), parse_nodes(nodes), self.settings, facts.root)
        able = [one for one in choices if not one.why_not][:MOST]
        if able:
            offers = await asyncio.gather(*(self._offer(request, one) for one in able))
            possible = [one for one in offers if one.possible]
            if possible:
                return sorted(possible, key=lambda one: (not one.available, one.wait))
            # Slurm itself refuses them.
            choices = [Choice(one.shape.name, one.shape, why_not=one.why_not) for one in offers]
        most = largest(choices, request)
        if most is None:
            raise InvalidSettings(
                f"{self._login.name} has no partition that may be used.",
                remedy="Look at 'partitions' of this provider, and what sinfo shows there.",
            )
        why = "; ".join(dict.fromkeys(one.why_not for one in choices))
        return [most.offer(self.context.provider, self.settings).model_copy(update={"why_not": why})]

    async def create(self, spec: Spec) -> Handle:
        """Submit its job, or find it; see the contract. Raises Forbidden for who may not use the account."""
        facts, names = await self._facts(), await self._queue.names()
        self._login.admit(spec.owner, facts)
        async with self._lock(spec.id):
            jobs = await self._queue.find(spec.id)
            if not any(job.lives for job in jobs):
                try:
                    jobs = [await self._submit(spec, names, facts)]
                except Unavailable:  # nothing was made, and nobody will ask to end it
                    await self._clear(spec.id)
                    raise
            job = min((one for one in jobs if one.lives), key=lambda one: int(one.id), default=jobs[0])
        return Handle(data={"job": job.id})

    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Ask Slurm once for all, and see whose agent has come; see the contract."""
        if not handles:
            return {}
        jobs = await self._queue.jobs()
        machines = await find_machines(self.context)
        seen = {one: await self._observation(one, jobs.get(one), machines.get(one)) for one in handles}
        lost = [one for one in handles if one not in jobs]
        told = await self._queue.account_of([str(handles[one].data.get("job", "")) for one in lost])
        for one in lost:
            words = told.get(str(handles[one].data.get("job", "")), "Slurm has no such job any more")
            seen[one] = Observation(phase=Phase.GONE, detail=words)
        return seen

    async def destroy(self, instance_id: str, handle: Handle | None) -> None:
        """Cancel its job, wait for its end, and remove its folder; see the contract."""
        if instance_id == SHARED or not ID.fullmatch(instance_id):
            return  # nothing of that name was ever made
        async with self._lock(instance_id):
            await self._queue.cancel(instance_id)
            await self._clear(instance_id)

    async def holdings(self) -> Sequence[Holding]:
        """Return our jobs, and folders whose job is gone; see the contract."""
        names = await self._queue.names()
        jobs, listed = await asyncio.gather(self._queue.jobs(), self._login.do("list", names.place))
        found = {
            one: Holding(
                instance_id=one,
                what="job",
                name=f"{job.id} ({job.state.lower()})",
                handle=Handle(data={"job": job.id}),
            )
            for one, job in jobs.items()
            if job.lives
        }
        for one in listed.said.splitlines():
            if ID.fullmatch(one):
                found.setdefault(one, Holding(instance_id=one, what="folder", name=names.folder(one)))
        return list(found.values())

    async def arm(self, instance_id: str, handle: Handle, at: datetime) -> None:
        """Have its agent end it at ``at``, and its job no later than that allows. Raises NotFound, Transient, and
        Rejected where the job would have to last longer and Slurm does not let it."""
        await self.context.agents.call(instance_id, "arm", {"at": at.isoformat()})
        job = (await self._queue.jobs()).get(instance_id)
        if job is None or not job.runs:
            raise NotFound(f"The job of {instance_id} does not run.")
        end = at.timestamp()
        if not job.start or (job.end and end <= job.end <= end + self.settings.margin + 2 * SOON):
            return
        minutes = format_time(int(end + self.settings.margin - job.start))
        done = await self._login.run("scontrol", "update", f"JobId={job.id}", f"TimeLimit={minutes}")
        if not done.code or job.end > end:  # a longer limit than it needs does no harm: its agent ends it
            return
        ends = datetime.fromtimestamp(job.end, UTC)
        error = build_error(done.complaint)
        raise type(error)(
            f"The job {job.id} ends at {ends:%Y-%m-%d %H:%M} UTC. {error.message}",
            remedy="Most sites let only their operators extend a job: ask for more time at the start.",
        )

    async def check(self) -> Sequence[Finding]:
        """Tell of the login node, partitions, and gridcloud on the cluster."""
        try:
            command = self._command(await self._login.facts())
        except GridcloudError:
            command = ()
        return await check_cluster(self._login, self.settings, command)

    async def close(self) -> None:
        """Close the connection to the login node; see the contract."""
        await self._login.close()

    # Offers ---------------------------------------------------------------------------------------------------

    async def _offer(self, request: Request, choice: Choice) -> Offer:
        """Return a choice with what Slurm says of it."""
        words = resources(request, choice.minutes, choice.gres, choice.partition, self.settings)
        done = await self._login.run("sbatch", "--test-only", *words, input=b"#!/bin/sh\n")
        said = done.said + done.complaint
        start = parse_start(said)
        if start is None:
            error = build_error(said)
            if isinstance(error, Unavailable | Rejected):
                refused = choice.offer(self.context.provider, self.settings, why_not=error.message)
                return refused.model_copy(update={"possible": isinstance(error, Unavailable)})
            raise error
        wait = max(int(start - time.time()), 0)
        wait = 0 if wait <= SOON else wait
        why = f"is expected to start in {format_time(wait)} minutes" if wait > self.settings.wait else ""
        return choice.offer(self.context.provider, self.settings, why_not=why, wait=wait)

    # Making and ending ------------------------------------------------------------------------------------------

    async def _submit(self, spec: Spec, names: Names, facts: Facts) -> Job:
        choice, request = spec.offer.choice, spec.request
        token = await invite(self.context, spec.id, request, self.settings.networks, self.settings.wait)
        folder = names.folder(spec.id)
        # Who has an account there has a home; that of a guest goes with the instance.
        home = facts.home if spec.owner == facts.user else names.home(spec.owner)
        home = f"{folder}/home" if spec.guest else home
        authorities = await read_authorities(self.settings.ca)
        await self._login.do("prepare", folder, home, input=token.reveal_bytes() + b"\n" + authorities)
        script = render_script(
            self._command(facts),
            self.settings.url,
            folder,
            home=home,
            authorities=bool(authorities),
            proxy=self.settings.proxy,
            root=facts.root,
            environment=self.settings.environment,
            before=self.settings.before,
        )
        asked = resources(
            request,
            str(choice.get("minutes", "")),
            str(choice.get("gres", "")),
            str(choice.get("partition", "")),
            self.settings,
        )
        return await self._queue.submit(spec.id, asked, script)

    async def _clear(self, instance_id: str) -> None:
        """Forget the agent of an instance without a job, and remove its folder."""
        await self.context.agents.forget(instance_id, self.context.provider)
        await self._login.do("remove", (await self._queue.names()).folder(instance_id))

    def _command(self, facts: Facts) -> tuple[str, ...]:
        if self.settings.command:
            return self.settings.command
        if facts.program:
            return (facts.program,)
        return () if self.settings.login else (sys.executable, "-m", "gridcloud")

    def _lock(self, instance_id: str) -> asyncio.Lock:
        # Two of this driver, as while the configuration changes, are not to invite one instance at once.
        return _LOCKS.setdefault((str(self.context.folder), instance_id), asyncio.Lock())

    # Looking ----------------------------------------------------------------------------------------------------

    async def _facts(self) -> Facts:
        facts = await self._login.ready()
        if not self._command(facts):
            self._login.forget()
            raise InvalidSettings(
                f"gridcloud is not found on {self._login.name}.",
                remedy="Install it there, where the nodes find it too, and set 'command' of this provider.",
            )
        return facts

    async def _observation(
        self, instance_id: str, job: Job | None, machine: JoinedMachine | None
    ) -> Observation:
        if job is None:
            return Observation(phase=Phase.GONE)
        if job.waits:
            when = ""
            if job.start:
                when = f", expected to start {datetime.fromtimestamp(job.start, UTC):%Y-%m-%d %H:%M} UTC"
            words = f"job {job.id} waits in {job.partition}: {job.reason}{when}"
            return Observation(phase=Phase.PENDING, detail=words)
        if job.state == "COMPLETING" and machine is None:  # how it ended is told when it has
            return Observation(phase=Phase.PENDING, detail=f"job {job.id} is completing")
        if not job.runs:
            return await self._ended(instance_id, job, machine)
        where = f"job {job.id} on {job.nodes}"
        if machine is None or machine.why_not:
            why = machine.why_not if machine else "its agent has not connected yet"
            if machine is None and job.start and time.time() - job.start > QUIET:
                why += await self._queue.last_words(instance_id)
            return Observation(phase=Phase.PENDING, detail=f"{where}: {why}")
        return Observation(phase=Phase.RUNNING, address=address_of(machine), detail=where)

    async def _ended(self, instance_id: str, job: Job, machine: JoinedMachine | None) -> Observation:
        words = f"job {job.id} is {job.state.lower().replace('_', ' ')}"
        failed = job.state in ("FAILED", "BOOT_FAIL", "OUT_OF_MEMORY", "LAUNCH_FAILED")
        if failed and machine is None:  # it has never come to us: its own words tell why
            words += await self._queue.last_words(instance_id)
        return Observation(phase=Phase.FAILED if failed else Phase.GONE, detail=words)
