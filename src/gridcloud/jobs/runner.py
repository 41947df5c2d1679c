"""Carry every job through its life: the only place that asks schedulers.

One loop looks at all live jobs whenever something may have changed. What it does for a job follows from the job's
stored state alone, and schedulers are asked by idempotent handles: any step may be the last one before a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from gridcloud.clock import Clock
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.errors import Conflict, GridcloudError, InvalidRequest, NoOffer, NotFound, Rejected
from gridcloud.finishing import whole
from gridcloud.identity.credentials import Secret
from gridcloud.jobs.driver import Housekeeping, JobDriver, Part, Stream, Telling
from gridcloud.jobs.fates import Fates, is_well
from gridcloud.jobs.lifecycle import Event, step
from gridcloud.jobs.model import FINAL, Array, ArrayState, Cause, Job, Order, State
from gridcloud.jobs.orders import UPLOAD, digest_of, request_of, words_of
from gridcloud.jobs.schedulers import Schedulers
from gridcloud.jobs.tending import Tending
from gridcloud.jobs.timing import Timing
from gridcloud.jobs.uploads import Uploads
from gridcloud.settings.model import JobSettings
from gridcloud.store import Store
from gridcloud.store.lives import Lives
from gridcloud.store.model import Record as Stored

__all__ = ["Runner"]

log = logging.getLogger(__name__)

HELD = frozenset(
    {State.STAGING, State.SUBMITTED, State.RUNNING, State.COLLECTING, State.ENDING},
)
"""States in which a scheduler has to be asked."""


class Runner:
    """Owns all jobs of a store."""

    def __init__(
        self,
        store: Store,
        schedulers: Schedulers,
        clock: Clock,
        folder: Path,
        settings: Callable[[], JobSettings],
        connect: Callable[[Address], Awaitable[Connection]],
        secret: Callable[[str], Awaitable[Secret]],
        timing: Timing | None = None,
    ) -> None:
        self.timing = timing or Timing()
        self.jobs = Lives(store, "job", Job, step, FINAL)
        self.arrays = Lives(store, "array", Array, lambda state, event: None, {ArrayState.ENDED})
        self.schedulers = schedulers
        self.clock = clock
        self.uploads = Uploads(folder / "uploads")
        self.results = folder / "results"
        self._settings = settings
        self._fates = Fates(self.jobs, self.arrays, clock)
        self._tending = Tending(
            self.jobs,
            schedulers,
            clock,
            self.uploads,
            self.results,
            settings,
            self.order_of,
            connect,
            secret,
            self.timing,
        )
        self._live: dict[str, Job] = {}
        self._orders: dict[str, Order] = {}
        self._paused: dict[str, float] = {}
        """When a job may be tried again, by the monotonic clock."""
        self._digests: dict[tuple[str, str], str] | None = None
        self._wake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._listening: dict[JobDriver, asyncio.Task[None]] = {}
        self._keeping: dict[JobDriver, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self.jobs.listen(self._heard)

    async def start(self) -> None:
        """Take up every job that has not ended."""
        self.results.mkdir(mode=0o700, parents=True, exist_ok=True)
        open_ = await self.arrays.take_up()
        await self._fates.load(open_)
        for job in await self.jobs.take_up():
            self._heard(job)
        for array in open_:
            await self._complete(array)
        self._fates.news = True
        self._wake.set()
        self._loops = [
            asyncio.create_task(self._run(), name="jobs"),
            asyncio.create_task(self._tidy(), name="jobs: tidy"),
            asyncio.create_task(self._keep_houses(), name="jobs: what schedulers still have"),
        ]

    async def close(self) -> None:
        """Let go of everything. Jobs live on; the next run takes them up."""
        tasks = [
            *self._loops,
            *self._busy.values(),
            *self._listening.values(),
            *self._keeping.values(),
        ]
        self._loops, self._busy, self._listening, self._keeping = [], {}, {}, {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.schedulers.close()

    # Verbs ---------------------------------------------------------------------------------------------------

    @whole
    async def submit(self, owner: str, order: Order) -> Job | Array:
        """Store a job, or with rows an array of them, and begin; return at once. What was returned is never lost.

        Raises InvalidRequest for what can never be run, NotFound for what it waits for and schedulers that are not
        there.
        """
        if not owner:
            raise InvalidRequest("A job needs an owner.")
        await self._check(owner, order)
        now = self.clock.now()
        if not order.rows:
            job = Job(
                id=self.clock.new_id("j"),
                owner=owner,
                order=order,
                state=State.WAITING if order.after else State.QUEUED,
                digest=digest_of(order, {}),
                created=now,
            )
            return await self.jobs.insert(job, str(job.state), "Asked for.")
        array = Array(id=self.clock.new_id("a"), owner=owner, order=order, created=now)
        self._fates.begin(array)
        array = await self.arrays.insert(array, "open", f"Asked for {len(order.rows):,} jobs.")
        self._orders[array.id] = order
        await self._complete(array)
        return array

    @whole
    async def cancel(self, id: str) -> list[Job]:
        """Have a job end, or all of an array; return them at once. What has ended stays as it ended."""
        jobs = [job for job in await self.of(id) if job.state not in FINAL]
        return list(await asyncio.gather(*(self._cancel(job.id) for job in jobs)))

    @whole
    async def retry(self, id: str) -> Job | Array:
        """Ask again for a job that did not end well, or for those of an array; return the new one.

        Raises InvalidRequest where there is nothing to be tried again.
        """
        jobs = await self.of(id)
        failed = [job for job in jobs if job.state in FINAL and not is_well(job)]
        if not failed:
            raise InvalidRequest(f"Nothing of {id} has failed or was cancelled.", remedy="Submit it anew.")
        order = (await self.order_of(failed[0])).model_copy(update={"after": ()})
        if failed[0].array:
            order = order.model_copy(update={"rows": tuple(job.parameters for job in failed)})
        return await self.submit(failed[0].owner, order)

    @whole
    async def remove(self, id: str) -> int:
        """Remove the folders of a job, or of an array's, that have ended, with their logs; return how many. Records and
        kept outputs stay."""
        jobs = [job for job in await self.of(id) if job.state in FINAL and job.handle]
        return await self._remove(jobs)

    async def of(self, id: str) -> list[Job]:
        """Return a job, or all jobs of an array in their order. Raises NotFound."""
        with contextlib.suppress(NotFound):
            return [await self.jobs.get(id)]
        array = await self.arrays.get(id)
        return sorted(await self.jobs.find(prefix=f"{array.id}-"), key=lambda job: job.index)

    async def order_of(self, job: Job) -> Order:
        """Return what was asked of a job, its array's where it is of one."""
        if job.order is not None:
            return job.order
        if job.array not in self._orders:
            self._orders[job.array] = (await self.arrays.get(job.array)).order
        return self._orders[job.array]

    async def logs(self, id: str, stream: Stream, offset: int, most: int) -> Part:
        """Return a part of what a job said. Raises NotFound where there is nothing (any more)."""
        job = await self.jobs.get(id)
        if not job.handle:
            raise NotFound(f"The job {id} has said nothing: it is {job.state}.")
        driver = await self.schedulers.holder(job.scheduler)
        return await driver.logs(job.handle, stream, offset, most)

    async def wait(self, id: str) -> list[Job]:
        """Return a job, or those of an array, once all have ended."""
        follow: AsyncIterator[Any]
        try:
            follow = self.jobs.follow((await self.jobs.get(id)).id)
        except NotFound:
            follow = self.arrays.follow((await self.arrays.get(id)).id)
        async for _ in follow:
            pass
        return await self.of(id)

    async def _check(self, owner: str, order: Order) -> None:
        row = order.rows[0] if order.rows else {}
        request_of(order, Job(id="x", owner=owner, created=self.clock.now()))
        if not words_of(order, row)[0]:
            raise InvalidRequest("The command is empty.", remedy="Give the program to run as its first word.")
        for one in order.work.inputs:
            if not one.source.startswith(UPLOAD):
                raise InvalidRequest(f"The input {one.source!r:.100} was not handed over.")
            self.uploads.path(one.source.removeprefix(UPLOAD))
        if any(one.target for one in order.work.outputs):
            raise InvalidRequest("Outputs cannot be brought elsewhere yet.", remedy="Leave 'target' out.")
        for name in order.on:
            self.schedulers.get(name)
        for dependency in order.after:
            try:
                found = await self.of(dependency.on)
            except NotFound:
                found = []
            if not found or found[0].owner != owner:
                raise NotFound(f"There is no job {dependency.on!r:.100} to wait for.")

    async def _complete(self, array: Array) -> None:
        """Store the jobs of an array that are not there yet."""
        there = {job.index for job in await self.jobs.find(prefix=f"{array.id}-")}
        order, state = array.order, State.WAITING if array.order.after else State.QUEUED

        async def one(index: int) -> None:
            row = dict(order.rows[index])
            job = Job(
                id=f"{array.id}-{index}",
                owner=array.owner,
                array=array.id,
                index=index,
                parameters=row,
                state=state,
                digest=digest_of(order, row),
                created=array.created,
            )
            with contextlib.suppress(Conflict):
                await self.jobs.insert(job, str(state), "Asked for.")

        await asyncio.gather(*(one(index) for index in range(len(order.rows)) if index not in there))

    async def _cancel(self, id: str) -> Job:
        while True:
            job = await self.jobs.get(id)
            self.jobs.check_ours(job)
            if job.state in FINAL or job.state is State.ENDING:
                return job
            changes: dict[str, Any] = {"detail": "Cancelled as asked."}
            if job.state in (State.WAITING, State.QUEUED):
                changes["ended"] = self.clock.now()
            if done := await self.jobs.happen(job, Event.CANCEL, "Cancelled as asked.", **changes):
                return done

    # The loop ------------------------------------------------------------------------------------------------

    def _heard(self, job: Job) -> None:
        """Note a job that was stored or changed."""
        if not self.jobs.keeps(job):
            return
        if job.state in FINAL:
            self._live.pop(job.id, None)
            self._paused.pop(job.id, None)
            self._fates.note(job)
            if self._digests is not None and job.state is State.DONE and job.digest:
                self._digests[job.owner, job.digest] = job.id
        else:
            before = self._live.get(job.id)
            if before is not None and job.attempt > before.attempt:
                times = min(sum(job.spent.values()) - 1, 16)
                pause = min(self.timing.longest_pause, self.timing.first_pause * 2.0**times)
                self._paused[job.id] = self.clock.monotonic() + pause
            self._live[job.id] = job
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._look()
            except GridcloudError as error:
                log.warning("jobs: %s", error)
            except Exception:  # a fault of ours must not leave jobs that nobody looks after
                log.exception("the runner of jobs failed; it goes on")
                await self.clock.sleep(1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.timing.poll if self._live else None):
                    await self._wake.wait()
            await self.clock.sleep(self.timing.gather)

    async def _look(self) -> None:
        """Have done what the states of all live jobs call for."""
        if self._fates.news:
            self._fates.news = False
            await self._fates.end_arrays()
            waiting = [job for job in self._live.values() if job.state is State.WAITING]
            await asyncio.gather(*(self._free(job) for job in waiting))
        now = self.clock.monotonic()
        held: dict[str, list[Job]] = {}
        queued = []
        for job in self._live.values():
            if job.state in HELD:
                held.setdefault(job.scheduler, []).append(job)
            elif job.state is State.QUEUED and self._paused.get(job.id, 0) <= now:
                queued.append(job)
        for name, jobs in held.items():
            self._begin(name, lambda name=name, jobs=jobs: self._tend(name, jobs))  # type: ignore[misc]
        if queued:
            self._begin("", lambda: self._take(queued))

    def _begin(self, key: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do something for a scheduler, unless something is being done for it."""
        if key in self._busy:
            return

        async def do() -> None:
            again = True
            try:
                await work()
            except GridcloudError as error:
                again = False  # at the next poll
                log.warning("%s: %s", key or "jobs", error)
            except Exception:  # nobody awaits this task; a fault of ours holds up no other
                again = False
                log.exception("%s: the runner of jobs failed; it goes on", key or "jobs")
            finally:
                self._busy.pop(key, None)
                if again and self._unseen(key):
                    self._wake.set()

        self._busy[key] = asyncio.create_task(do(), name=f"jobs: {key or 'taking'}")

    def _unseen(self, key: str) -> bool:
        """Whether there is something left to be done at once: what came while others were served."""
        if not key:
            return any(job.state is State.STAGING for job in self._live.values())
        hasty = (State.STAGING, State.COLLECTING, State.ENDING)
        return any(job.state in hasty and job.scheduler == key for job in self._live.values())

    async def _tend(self, name: str, jobs: Sequence[Job]) -> None:
        driver = await self.schedulers.holder(name)
        if isinstance(driver, Telling) and driver not in self._listening:
            self._listening[driver] = asyncio.create_task(self._listen(driver), name=f"jobs: {name} tells")
        self._keep_house(name, driver)
        await self._tending.tend(name, jobs)

    async def _listen(self, driver: Telling) -> None:
        while True:
            await driver.changed()
            self._wake.set()

    async def _keep_houses(self) -> None:
        """Have schedulers look after what they still have, though no job may be left."""
        for name in await self.schedulers.remembered():
            try:
                self._keep_house(name, await self.schedulers.holder(name))
            except GridcloudError as error:
                log.warning("%s: %s", name, error)

    def _keep_house(self, name: str, driver: JobDriver) -> None:
        task = self._keeping.get(driver)
        if isinstance(driver, Housekeeping) and (task is None or task.done()):
            self._keeping[driver] = asyncio.create_task(
                self._keep(name, driver, driver.keep_house), name=f"jobs: {name} keeps house"
            )

    async def _keep(self, name: str, driver: JobDriver, keep: Callable[[], Awaitable[float]]) -> None:
        while True:
            try:
                pause = await keep()
            except GridcloudError as error:
                log.warning("%s: %s", name, error)
                pause = self.timing.longest_pause
            except Exception:  # nobody awaits this task, and machines that cost are not to be left alone
                log.exception("%s: what it has could not be looked after; it is tried again", name)
                pause = self.timing.longest_pause
            if not pause:
                return
            await self.clock.sleep(pause)
            if (
                await self.schedulers.holder(name) is not driver
            ):  # its entry was changed: another looks after it
                return

    async def _free(self, job: Job) -> None:
        order = await self.order_of(job)
        free, why = await self._fates.verdict(order.after)
        if why:
            changes: dict[str, Any] = {"cause": Cause.DEPENDENCY, "detail": why, "ended": self.clock.now()}
            await self.jobs.happen(job, Event.UNFULFILLED, why, **changes)
        elif free:
            await self.jobs.happen(job, Event.FREED, "What it waited for has ended.")

    # Taking --------------------------------------------------------------------------------------------------

    async def _take(self, jobs: Sequence[Job]) -> None:
        """Choose a scheduler for each of them, and store which."""
        groups: dict[Any, list[Job]] = {}
        for job in jobs:
            order = await self.order_of(job)
            if order.reuse and job.digest and await self._reuse(job):
                continue
            groups.setdefault((job.owner, order.on, order.within, request_of(order, job)), []).append(job)
        for (owner, on, within, request), members in groups.items():
            try:
                name = await self.schedulers.choose(request, owner, on, within)
            except (NoOffer, NotFound, Rejected) as error:
                await self._refuse(members, error)
                continue
            async with self.schedulers.remembering(name):
                await asyncio.gather(*(self._taken(job, name) for job in members))

    async def _taken(self, job: Job, name: str) -> None:
        with contextlib.suppress(Conflict):
            handle = f"{job.id}-{job.attempt}"
            await self.jobs.happen(job, Event.TAKEN, f"For {name}.", scheduler=name, handle=handle)

    async def _refuse(self, jobs: Iterable[Job], error: GridcloudError) -> None:
        changes: dict[str, Any] = {"cause": Cause.REFUSED, "detail": str(error), "ended": self.clock.now()}
        await asyncio.gather(*(self.jobs.happen(job, Event.BROKEN, str(error), **changes) for job in jobs))

    async def _reuse(self, job: Job) -> bool:
        """Give a job the results of the same one that was done before; return whether there was one."""
        if self._digests is None:
            found = await self.jobs.store.scan("job", _digest, states=[State.DONE])
            self._digests = {key: one for key, one in found if key[1]}
        before = self._digests.get((job.owner, job.digest))
        if before is None:
            return False
        done = await self.jobs.get(before)
        changes: dict[str, Any] = {
            "cause": Cause.REUSED,
            "detail": f"The same was done before: {done.id}.",
            "reused": done.id,
            "results": done.results,
            "kept": done.kept,
            "ended": self.clock.now(),
        }
        return await self.jobs.happen(job, Event.REUSED, changes["detail"], **changes) is not None

    # Tidying -------------------------------------------------------------------------------------------------

    async def _remove(self, jobs: Sequence[Job]) -> int:
        by_scheduler: dict[str, list[Job]] = {}
        for job in jobs:
            by_scheduler.setdefault(job.scheduler, []).append(job)
        for name, members in by_scheduler.items():
            driver = await self.schedulers.holder(name)
            await driver.remove([job.handle for job in members])
            await asyncio.gather(*map(self._removed, members))
        return len(jobs)

    async def _removed(self, job: Job) -> None:
        with contextlib.suppress(Conflict):
            await self.jobs.save(job, "removed", "Its folder was removed.", handle="")

    async def _tidy(self) -> None:
        while True:
            await self.clock.sleep(self.timing.tidy)
            if keep := self._settings().keep:
                try:
                    await self.tidy(self.clock.now() - timedelta(seconds=keep))
                except GridcloudError as error:
                    log.warning("old folders of jobs: %s", error)

    async def tidy(self, before: datetime) -> None:
        """Remove the folders of jobs that ended before a time, files that were handed over before it and no job is to
        be given any more, and what schedulers hold of no job."""
        ended = await self.jobs.find(states=FINAL)
        old = [job for job in ended if job.handle and job.ended and job.ended < before]
        await self._remove([job for job in old if self.jobs.keeps(job)])
        await self.reconcile()
        orders = [await self.order_of(job) for job in list(self._live.values())]
        used = {one.source.removeprefix(UPLOAD) for order in orders for one in order.work.inputs}
        await asyncio.to_thread(self.uploads.forget, used, before.timestamp())

    async def reconcile(self) -> list[str]:
        """Remove what schedulers hold of attempts that are no job's present one; return their handles."""
        removed = []
        for name in await self.schedulers.remembered():
            driver = await self.schedulers.holder(name)
            held = [one.handle for one in await driver.holdings()]
            present = {job.handle for job in await self.jobs.find() if job.handle}
            if left := [handle for handle in held if handle not in present]:
                await driver.cancel(left)
                await driver.remove(left)
                removed += left
        return removed

    async def forget_results(self, id: str) -> None:
        """Remove the outputs that are kept of a job. What is not there is removed."""
        await asyncio.to_thread(shutil.rmtree, self.results / id, ignore_errors=True)


def _digest(record: Stored) -> tuple[tuple[str, str], str]:
    return (record.owner, str(record.body.get("digest", ""))), record.id
