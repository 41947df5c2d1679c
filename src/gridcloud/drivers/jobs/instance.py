"""Jobs on machines that are got for them: asked for as everybody asks, packed, and ended once nobody needs them.

A machine belongs to one owner, whose jobs share it within its cores and memory. Which machine a job is for is written
down before anything is brought there, and the folders there say what became of it. What jobs said is fetched before
their machine ends. A machine that is lost takes its jobs with it: they end with that cause, and whoever may be begun
again is begun elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from gridcloud.connections.driver import Connection
from gridcloud.drivers.jobs.instance_book import Book, Slip, open_book
from gridcloud.drivers.jobs.instance_packing import (
    LEAVING,
    InstanceJobsSettings,
    machine_request,
    measure_rooms,
    suits,
)
from gridcloud.errors import (
    GridcloudError,
    InvalidSettings,
    NotFound,
    Rejected,
    Transient,
    Unavailable,
)
from gridcloud.instances.model import Finding, Instance, Offer, State
from gridcloud.jobs.driver import (
    JobContext,
    JobDriver,
    JobHolding,
    JobObservation,
    JobOffer,
    Machines,
    Part,
    Phase,
    Place,
    SchedulerSettings,
    Stream,
    Submission,
)
from gridcloud.jobs.folders import Folders, Seen, verbs_over
from gridcloud.jobs.model import Cause
from gridcloud.settings.request import Request

__all__ = ["InstanceJobs", "InstanceJobsSettings"]

log = logging.getLogger(__name__)

SECONDS = 15.0
"""Seconds for a machine to say what becomes of its jobs."""
BATCH = 50
"""Jobs that are brought at once."""
SILENT = 5.0
"""Seconds after which a frame that is gone, or did not begin, writes no last words any more."""
START = 60.0
"""Seconds until a new machine is of use, where nobody knows."""
LOOK = 15.0
"""Seconds between looks for machines that nobody needs."""

_UNBEGUN = JobObservation(phase=Phase.ENDED, detail="It had not begun.")


class InstanceJobs(JobDriver):
    """Machines of the broker."""

    Settings = InstanceJobsSettings
    settings: InstanceJobsSettings

    def __init__(self, settings: SchedulerSettings, context: JobContext) -> None:
        super().__init__(settings, context)
        self._tasks: set[asyncio.Task[None]] = set()
        self._bases: dict[str, str] = {}
        self._silent: dict[str, float] = {}
        self._book_: Book | None = None

    async def offer(self, request: Request, owner: str) -> JobOffer:
        """Ask whether there is room, else the broker; see the contract."""
        machines, wanted = self._machines(), machine_request(self.settings, request)
        now = datetime.now(UTC)
        for room in measure_rooms((await machines.all()).values(), self._taken()):
            fits = room.fits(request) and suits(room.machine, owner, wanted, request.time, now)
            if fits and room.machine.state is State.READY and room.machine.offer is not None:
                return JobOffer(price=room.machine.offer.price)
        offers = await machines.offers(wanted, owner)
        for one in offers:
            if one.available:
                return JobOffer(wait=START + one.wait, price=one.price)
        why = "; ".join(f"{one.provider}: {one.why_not}" for one in offers) or "no provider is configured"
        if any(one.possible for one in offers):
            return JobOffer(wait=3600.0, why_not=why)
        return JobOffer(possible=False, why_not=why)

    async def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:
        """Write them down, and give them to machines; see the contract."""
        async with self._book.turn:
            await asyncio.to_thread(self._book.add, jobs)
        await self._advance()
        return {}

    async def observe(self, handles: Sequence[str]) -> Mapping[str, JobObservation]:
        """Ask each machine once; see the contract."""
        await self._advance()
        found: dict[str, JobObservation] = {}
        asked: dict[str, list[str]] = {}
        for handle in handles:
            slip = self._book.find(handle)
            if slip is None:
                found[handle] = JobObservation(phase=Phase.GONE)
            elif slip.observed is not None:
                found[handle] = slip.observed
            elif not slip.laid:
                found[handle] = JobObservation(phase=Phase.WAITING)
            else:
                asked.setdefault(slip.machine, []).append(handle)
        looks = [self._look(machine, some) for machine, some in asked.items()]
        for seen in await asyncio.gather(*looks, return_exceptions=True):
            if isinstance(seen, dict):
                found |= seen
            elif not isinstance(
                seen, GridcloudError | KeyError
            ):  # of these, one machine is silent, or one job gone
                raise seen
        return found

    async def cancel(self, handles: Sequence[str]) -> None:
        """Drop what was not brought, have the machines end the others; see the contract."""
        there: dict[str, list[str]] = {}
        async with self._book.turn:
            for handle in handles:
                slip = self._book.find(handle)
                if slip is None or slip.seen is not None:
                    continue
                slip = self._book.change(handle, cancelled=True)
                if slip.laid:
                    there.setdefault(slip.machine, []).append(handle)
                else:
                    self._book.note_end(handle, _UNBEGUN)
        for machine, some in there.items():
            instance = await self._machines().find(machine)
            if instance is None or instance.state in LEAVING:
                continue
            async with self._gate(machine):
                folders = await self._folders(instance)
                await folders.claim(some)
                await folders.tell("end", some)

    async def remove(self, handles: Sequence[str]) -> None:
        """Remove their folders and slips; see the contract."""
        there: dict[str, list[str]] = {}
        ended = [slip for one in handles if (slip := self._book.find(one)) and slip.seen is not None]
        for slip in ended:
            if slip.laid and not slip.fetched:
                there.setdefault(slip.machine, []).append(slip.handle)
        for machine, some in there.items():
            instance = await self._machines().find(machine)
            if instance is not None and instance.state is State.READY:
                await (await self._folders(instance)).tell("remove", some)
        for slip in ended:
            await asyncio.to_thread(self._book.drop, slip.handle)

    async def holdings(self) -> Sequence[JobHolding]:
        """List the slips; machines are instances, and known as such; see the contract."""
        return [JobHolding(handle=slip.handle, name=slip.machine) for slip in self._book.all()]

    async def logs(self, handle: str, stream: Stream, offset: int, most: int) -> Part:
        """Read from its machine, or what was fetched from there; see the contract."""
        slip = self._known(handle)
        if slip.fetched:
            try:
                return await asyncio.to_thread(self._book.read, handle, stream, offset, most)
            except FileNotFoundError as error:
                raise NotFound(f"{handle} has left no {stream}.") from error
        instance = await self._machines().find(slip.machine) if slip.laid else None
        if instance is not None and instance.state is State.READY:
            return await (await self._folders(instance)).read(handle, stream, offset, most)
        if slip.laid and stream is Stream.RESULT:  # it may have had one, which is not the same as none
            raise Rejected(f"The machine {slip.machine} was lost with what {handle} found.")
        raise NotFound(f"{handle} has said nothing that is left.")

    async def place(self, handle: str) -> Place:
        """Return its folder on its machine; see the contract."""
        slip = self._known(handle)
        instance = await self._machines().find(slip.machine) if slip.laid and not slip.fetched else None
        if instance is None or instance.address is None or instance.state is not State.READY:
            raise NotFound(f"The files of {handle} are gone with their machine, or not there yet.")
        return Place(instance.address, await (await self._folders(instance)).work(handle))

    async def check(self) -> Sequence[Finding]:
        """Ask the broker what could be had for the machines."""
        subject = self.context.provider
        wanted = machine_request(self.settings, Request(cpus=self.settings.cpus, memory=self.settings.memory))
        try:
            offers = await self._machines().offers(wanted, "")
        except GridcloudError as error:
            remedy = error.remedy or "Look at 'providers' of the configuration."
            return [Finding(subject=subject, ok=False, message=error.message, remedy=remedy)]
        able = [one.provider for one in offers if one.possible]
        if able:
            words = f"machines from {', '.join(dict.fromkeys(able))}"
            return [Finding(subject=subject, ok=True, message=words)]
        words = "no provider has machines like that"
        remedy = "See 'gridcloud offers', and make cpus, memory or gpus of this scheduler smaller."
        return [Finding(subject=subject, ok=False, message=words, remedy=remedy)]

    async def keep_house(self) -> float:
        """Give jobs to machines, and end machines that no job needs; see `Housekeeping`."""
        await self._advance()
        machines = await self._machines().all()
        waits = any(not slip.machine and slip.seen is None for slip in self._book.all())
        wanted, now = await self.context.wanted() if machines else frozenset(), time.monotonic()
        if unasked := [s.handle for s in self._book.all() if s.seen is None and s.handle not in wanted]:
            await self.observe(unasked)  # else nobody would hear that they have ended
        for instance in machines.values():
            needed = [s for s in self._book.on(instance.id) if s.seen is None or s.handle in wanted]
            if needed or instance.state in LEAVING:
                self._book.idle.pop(instance.id, None)
            elif now - self._book.idle.setdefault(instance.id, now) >= self.settings.idle:
                await self._dismiss(instance)
        return min(LOOK, max(1.0, self.settings.idle / 4)) if machines or waits else 0.0

    async def close(self) -> None:
        """Stop bringing jobs; they, and machines, live on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Giving jobs to machines ---------------------------------------------------------------------------------

    async def _advance(self) -> None:
        """Note which machines are lost, give waiting jobs to machines, and have them brought."""
        async with self._book.turn:
            machines = dict(await self._machines().all())
            lost = [s for s in self._book.all() if s.machine and s.seen is None and s.machine not in machines]
            leaving = [s for s in self._book.all() if s.seen is None and _leaves(machines.get(s.machine))]
            for slip in (*lost, *leaving):
                await self._lose(slip)
            await self._assign(machines)
        for instance in machines.values():
            waiting = any(_may_start(slip) for slip in self._book.on(instance.id))
            if waiting and instance.state is State.READY and instance.id not in self._book.handing:
                self._book.handing.add(instance.id)
                task = asyncio.create_task(self._hand_over(instance), name=f"jobs to {instance.id}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _lose(self, slip: Slip) -> None:
        instance = await self._machines().find(slip.machine)
        if not slip.laid and instance is not None and instance.ready_at is not None:
            self._book.change(
                slip.handle, machine="", devices=()
            )  # nothing of it was there: another takes it
            return
        why = instance.detail if instance is not None else "it is not known any more"
        seen = JobObservation(
            phase=Phase.ENDED,
            cause=Cause.MACHINE,
            detail=f"Its machine {slip.machine} was lost: {why}"
            if slip.laid
            else f"It got no machine: {why}",
            begun=slip.laid,
        )
        self._book.note_end(slip.handle, seen)

    async def _assign(self, machines: dict[str, Instance]) -> None:
        """Give waiting jobs a machine each, in their order; ask for machines where that is not enough."""
        now, full = datetime.now(UTC), set()
        rooms = measure_rooms(machines.values(), self._taken())
        for slip in self._book.all():
            if slip.machine or slip.seen is not None or slip.owner in full:
                continue
            request = slip.request
            wanted = machine_request(self.settings, request)
            able = [
                room
                for room in rooms
                if room.fits(request) and suits(room.machine, slip.owner, wanted, request.time, now)
            ]
            # The fullest first, so that the others may end.
            able.sort(key=lambda room: (room.machine.state is not State.READY, -room.jobs))
            if not able:
                if len(rooms) >= self.settings.machines:
                    full.add(slip.owner)  # what came later does not overtake it
                    continue
                try:
                    instance = await self._machines().ask(wanted, slip.owner, await self._lost_before(slip))
                except (Unavailable, Transient):
                    full.add(slip.owner)
                    continue
                except GridcloudError as error:
                    seen = JobObservation(phase=Phase.ENDED, cause=Cause.REFUSED, detail=str(error))
                    self._book.note_end(slip.handle, seen)
                    continue
                machines[instance.id] = instance
                able = measure_rooms([instance], {})
                rooms += able
            devices = able[0].take(request)
            self._book.change(slip.handle, machine=able[0].machine.id, devices=devices)

    async def _lost_before(self, slip: Slip) -> list[Offer]:
        """Return the offers of machines that earlier attempts at a job were lost with: elsewhere is better."""
        job = slip.handle.rpartition("-")[0]
        before = [one for one in self._book.all() if one.handle.rpartition("-")[0] == job and one.machine]
        found = [await self._machines().find(one.machine) for one in before]
        return [one.offer for one in found if one is not None and one.offer is not None]

    def _taken(self) -> dict[str, list[tuple[Request, tuple[int, ...]]]]:
        taken: dict[str, list[tuple[Request, tuple[int, ...]]]] = {}
        for slip in self._book.all():
            if slip.machine and slip.seen is None:
                taken.setdefault(slip.machine, []).append((slip.request, slip.devices))
        return taken

    async def _hand_over(self, instance: Instance) -> None:
        """Bring jobs to their machine and start them, until none is left."""
        try:
            folders = await self._folders(instance)
            while slips := [slip for slip in self._book.on(instance.id) if _may_start(slip)][:BATCH]:
                jobs = []
                for slip in slips:
                    try:
                        jobs.append(await asyncio.to_thread(self._book.submission, slip))
                        self._book.change(slip.handle, laid=True)
                    except (OSError, ValueError, KeyError) as error:
                        seen = JobObservation(phase=Phase.ENDED, cause=Cause.STAGING, detail=str(error))
                        self._book.note_end(slip.handle, seen)
                await folders.lay(secrets.token_hex(8), jobs, self.context.folder)
                async with self._gate(instance.id):
                    left = [one for one in slips if _may_start(self._book.find(one.handle))]
                    await folders.tell("start", [_line(slip, instance) for slip in left])
                    for slip in left:
                        self._book.change(slip.handle, started=True)
                        self._book.forget_brought(slip.handle)
        except (GridcloudError, OSError) as error:
            log.info("%s: jobs are not brought to %s yet: %s", self.context.provider, instance.id, error)
        except Exception:  # nobody awaits this task; the next look begins it again
            log.exception("%s: jobs could not be brought to %s", self.context.provider, instance.id)
        finally:
            self._book.handing.discard(instance.id)

    # Looking at machines, and ending them --------------------------------------------------------------------

    async def _look(self, machine: str, handles: Sequence[str]) -> dict[str, JobObservation]:
        instance = await self._machines().find(machine)
        if instance is None or instance.state is not State.READY:
            return {}  # whether it is lost is found out when its state says so
        folders = await self._folders(instance)
        found = {}
        for handle, seen in (await folders.look(handles)).items():
            slip = self._known(handle)
            observed = self._judge(slip, seen)
            if observed.phase is Phase.ENDED and seen.end is None:
                # Nothing of it is to go on, or to begin late, once it is said to have ended.
                unbegun = await folders.claim([handle])
                await folders.tell("end", [handle])
                last = (await folders.look([handle]))[handle]
                begun = last.there and handle not in unbegun
                observed = (
                    observed.model_copy(update={"begun": begun or observed.begun})
                    if last.end is None
                    else self._judge(slip, last)
                )
            found[handle] = observed
            if observed.phase is Phase.ENDED:
                self._book.note_end(handle, observed)
        return found

    def _judge(self, slip: Slip, seen: Seen) -> JobObservation:
        if seen.end is not None:
            end = seen.end
            return JobObservation(
                phase=Phase.ENDED, end=end, cause=end.cause, detail=end.describe(), begun=True
            )
        if seen.runs:
            self._silent.pop(slip.handle, None)
            return JobObservation(phase=Phase.RUNNING, begun=True)
        waits = not slip.started and not slip.cancelled
        now = time.monotonic()
        if waits or now - self._silent.setdefault(slip.handle, now) < SILENT:
            return JobObservation(phase=Phase.RUNNING if seen.begun else Phase.WAITING, begun=seen.begun)
        del self._silent[slip.handle]
        if slip.cancelled:
            return _UNBEGUN.model_copy(update={"begun": seen.begun})
        detail = "It ended without a last word: its machine may have been restarted."
        begun = seen.begun or not seen.there  # a folder that is gone tells nothing
        return JobObservation(phase=Phase.ENDED, cause=Cause.MACHINE, detail=detail, begun=begun)

    async def _dismiss(self, instance: Instance) -> None:
        """Fetch what jobs said on a machine, and have it end."""
        slips = [slip for slip in self._book.on(instance.id) if slip.laid and not slip.fetched]
        if slips and instance.state is State.READY:
            handles = [slip.handle for slip in slips]
            with tempfile.TemporaryDirectory(dir=self.context.folder) as folder:
                packed = Path(folder) / "said.tar"
                await (await self._folders(instance)).gather(handles, packed)
                await asyncio.to_thread(self._book.take_in, packed, handles)
            for handle in handles:
                with contextlib.suppress(KeyError):  # it was removed meanwhile
                    self._book.change(handle, fetched=True)
        await self._machines().stop(instance.id, "No job needs it any more.")

    async def _folders(self, instance: Instance) -> Folders:
        """Return the folders of jobs on a machine, below its own. Raises what a connection raises."""
        connection = await self._machines().connect(instance)

        async def kept() -> Connection:
            return connection

        do = verbs_over(kept, f"The machine {instance.id}", SECONDS)

        async def base() -> str:
            if instance.id not in self._bases:
                where = (await do("where", "")).said.strip()
                if not where.startswith("/"):
                    raise Transient(f"The machine {instance.id} answers with something else: {where!r:.200}.")
                self._bases[instance.id] = f"{where}/gridcloud-jobs"
            return self._bases[instance.id]

        return Folders(do, base)

    @property
    def _book(self) -> Book:
        if self._book_ is None:
            self._book_ = open_book(self.context.folder)
        return self._book_

    def _gate(self, machine: str) -> asyncio.Lock:
        return self._book.gates.setdefault(machine, asyncio.Lock())

    def _machines(self) -> Machines:
        if self.context.machines is None:
            raise InvalidSettings("This scheduler was given nothing to get machines from.")
        return self.context.machines

    def _known(self, handle: str) -> Slip:
        slip = self._book.find(handle)
        if slip is None:
            raise NotFound(f"{self.context.provider} holds nothing of {handle:.60}.")
        return slip


def _leaves(machine: Instance | None) -> bool:
    return machine is not None and machine.state in LEAVING


def _may_start(slip: Slip | None) -> bool:
    return slip is not None and slip.seen is None and not slip.started and not slip.cancelled


def _line(slip: Slip, instance: Instance) -> str:
    """A line for the verb ``start``: a hyphen before the GPUs, so that none is told from not to be told."""
    gpus = instance.offer.shape.gpus if instance.offer is not None else 0
    devices = f" -{','.join(map(str, slip.devices))}" if gpus else ""
    return f"{slip.handle} {max(1, int(slip.request.cpus))}{devices}"
