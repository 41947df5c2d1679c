"""What is done with the jobs that one scheduler has: hand over, observe, end, collect."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from gridcloud.clock import Clock
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.errors import Conflict, GridcloudError, NotFound, Rejected, Transient
from gridcloud.identity.credentials import Secret
from gridcloud.jobs.collecting import collect_outputs, collect_values, explain_notebook
from gridcloud.jobs.driver import JobDriver, JobObservation, Phase, Submission
from gridcloud.jobs.frame import render_job
from gridcloud.jobs.lifecycle import Event
from gridcloud.jobs.model import Cause, Job, NotebookRun, Order, Output, State, Usage
from gridcloud.jobs.orders import (
    PARAMETERS,
    UPLOAD,
    environment_of,
    parameters_of,
    request_of,
    words_of,
)
from gridcloud.jobs.schedulers import Schedulers
from gridcloud.jobs.timing import Timing
from gridcloud.jobs.uploads import Uploads
from gridcloud.settings.model import JobSettings
from gridcloud.store.lives import Lives

__all__ = ["Tending"]

log = logging.getLogger(__name__)

BATCH = 200
"""Jobs that are handed over, or asked after, at once."""
AT_ONCE = 8
"""Jobs whose outputs are brought at the same time."""

AGAIN_ANYHOW = frozenset({Cause.EXIT, Cause.MEMORY, Cause.TIME})
"""Causes for which only who asked has a job tried again: they know that it may be begun twice."""


class Tending:
    """Does for jobs what their scheduler has to be asked for."""

    def __init__(
        self,
        jobs: Lives[Job],
        schedulers: Schedulers,
        clock: Clock,
        uploads: Uploads,
        results: Path,
        settings: Callable[[], JobSettings],
        order_of: Callable[[Job], Awaitable[Order]],
        connect: Callable[[Address], Awaitable[Connection]],
        secret: Callable[[str], Awaitable[Secret]],
        timing: Timing,
    ) -> None:
        self._jobs = jobs
        self._schedulers = schedulers
        self._clock = clock
        self._uploads = uploads
        self._results = results
        self._settings = settings
        self._order_of = order_of
        self._connect = connect
        self._secret = secret
        self._timing = timing
        self._missed: dict[str, float] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def tend(self, name: str, jobs: Sequence[Job]) -> None:
        """Do what the states of one scheduler's jobs call for. Raises what the scheduler does not answer with."""
        driver = await self._schedulers.holder(name)
        by_state: dict[State, list[Job]] = {}
        for job in jobs:
            by_state.setdefault(job.state, []).append(job)
        for batch in _batches(by_state.get(State.STAGING, [])):
            await self._submit(driver, batch)
        if ending := by_state.get(State.ENDING):
            await driver.cancel([job.handle for job in ending])
        looked = (State.SUBMITTED, State.RUNNING, State.ENDING)
        there = [job for state in looked for job in by_state.get(state, [])]
        for batch in _batches(there):
            seen = await driver.observe([job.handle for job in batch])
            await _all(self._note(driver, job, seen[job.handle]) for job in batch if job.handle in seen)
        await _all(self._collect(driver, job) for job in by_state.get(State.COLLECTING, []))

    async def _submit(self, driver: JobDriver, jobs: Sequence[Job]) -> None:
        submissions: dict[str, Submission] = {}
        for job in jobs:
            try:
                submissions[job.id] = await self._submission(job)
            except GridcloudError as error:
                if isinstance(error, Transient):
                    raise
                await self._break(job, Cause.STAGING, str(error), begun=False)
        refused = await driver.submit(list(submissions.values()))

        async def note(job: Job) -> None:
            if why := refused.get(job.handle):
                await self._break(job, Cause.STAGING, why, begun=False)
            elif job.id in submissions:
                await self._jobs.happen(job, Event.STAGED, f"{job.scheduler} has it.")

        await _all(note(job) for job in jobs)

    async def _submission(self, job: Job) -> Submission:
        order = await self._order_of(job)
        work, request = order.work, request_of(order, job)
        secrets = {name: (await self._secret(one)).reveal() for name, one in order.secrets.items()}
        words = words_of(order, job.parameters, resume=job.attempt > 1)
        environment = environment_of(order, job.parameters, job.array, job.index)
        files = render_job(
            words,
            environment,
            secrets=secrets,
            time=request.time,
            memory=request.memory,
            log=self._settings().log,
        )
        values = parameters_of(order, job.parameters)
        files[PARAMETERS] = json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")
        inputs: dict[str, Path] = {}
        for one in work.inputs:
            if not one.source.startswith(UPLOAD):
                raise Rejected(
                    f"The input {one.source!r:.100} cannot be brought: only files that were handed over."
                )
            inputs[f"work/{one.path}"] = self._uploads.path(one.source.removeprefix(UPLOAD))
        if isinstance(work.run, NotebookRun):
            place = f"work/{work.run.path}"
            if place not in inputs:
                raise Rejected(f"The notebook {work.run.path!r:.100} is none of the inputs.")
            before = self._results / job.id / work.run.path
            if work.run.resume and job.attempt > 1 and await asyncio.to_thread(before.is_file):
                inputs[place] = before
        return Submission(job.handle, job.owner, order.name, request, files, inputs)

    async def _note(self, driver: JobDriver, job: Job, seen: JobObservation) -> None:
        if seen.phase is not Phase.GONE:
            self._missed.pop(job.id, None)
        if job.state is State.ENDING:
            if seen.phase in (Phase.ENDED, Phase.GONE):
                await self._happen(job, Event.GONE, "It was cancelled.", **self._figures(seen))
        elif seen.phase is Phase.RUNNING and job.state is State.SUBMITTED:
            await self._happen(job, Event.BEGUN, "It runs.", begun=self._clock.now())
        elif seen.phase is Phase.GONE:
            now = self._clock.monotonic()
            if now - self._missed.setdefault(job.id, now) >= self._timing.missed:
                del self._missed[job.id]
                await self._break(job, Cause.MACHINE, f"{job.scheduler} knows nothing of it any more.")
        elif seen.phase is Phase.ENDED and seen.end is not None and seen.cause is Cause.NONE:
            await self._happen(job, Event.WELL, "Its program ended well.", **self._figures(seen))
        elif seen.phase is Phase.ENDED:
            cause = seen.cause or (seen.end.cause if seen.end else Cause.MACHINE)
            detail, saved = await self._rescue(driver, job, cause) if seen.begun else ("", {})
            figures = {**self._figures(seen), **saved}
            await self._break(job, cause, detail or seen.detail, begun=seen.begun, **figures)

    async def _rescue(self, driver: JobDriver, job: Job, cause: Cause) -> tuple[str, dict[str, Any]]:
        """Keep a notebook that did not come to its end, with its outputs so far; return what failed in it, in words."""
        run = (await self._order_of(job)).work.run
        if not isinstance(run, NotebookRun):
            return "", {}
        async with self._gate:
            detail = await explain_notebook(driver, job.handle) if cause is Cause.EXIT else ""
            wanted = [Output(pattern=run.path)]
            try:
                kept = await collect_outputs(
                    driver, job.handle, wanted, self._results / job.id, self._connect
                )
            except (Rejected, NotFound):
                return detail, {}
        return detail, {"kept": tuple(kept)}

    async def _collect(self, driver: JobDriver, job: Job) -> None:
        async with self._gate:
            order = await self._order_of(job)
            try:
                values = await collect_values(driver, job.handle)
                folder = self._results / job.id
                kept = await collect_outputs(driver, job.handle, order.work.outputs, folder, self._connect)
            except Rejected as error:
                await self._break(job, Cause.STAGING, str(error))
                return
        changes = {"results": values, "kept": tuple(kept), "ended": self._clock.now()}
        await self._happen(job, Event.COLLECTED, "It is done.", **changes)

    async def _break(
        self, job: Job, cause: Cause, detail: str, *, begun: bool = True, **figures: Any
    ) -> None:
        """It did not end well: have it tried again where that was asked for and may be, or let it be failed."""
        order = await self._order_of(job)
        may = not begun or order.rerunnable or cause in AGAIN_ANYHOW
        if job.state is not State.COLLECTING and may and order.retries.left(cause, job.spent):
            spent = {**job.spent, cause: job.spent.get(cause, 0) + 1}
            changes = {
                "spent": spent,
                "attempt": job.attempt + 1,
                "handle": "",
                "scheduler": "",
                "begun": None,
            }
            message = f"{detail} It is tried again, for the {_ordinal(job.attempt)} time."
            await self._happen(job, Event.AGAIN, message, **changes)
            if begun:
                await (await self._schedulers.holder(job.scheduler)).remove([job.handle])
            return
        if begun and not may and order.retries.left(cause, job.spent):
            detail += " It is not begun again: it was not said to be re-runnable."
        changes = {"cause": cause, "detail": detail, "ended": self._clock.now(), **figures}
        await self._happen(job, Event.BROKEN, detail, **changes)

    async def _happen(self, job: Job, event: Event, message: str, **changes: Any) -> None:
        if event is Event.GONE:
            changes |= {"ended": self._clock.now()}
        await self._jobs.happen(job, event, message, **changes)

    @staticmethod
    def _figures(seen: JobObservation) -> dict[str, Any]:
        if seen.end is None:
            return {}
        end = seen.end
        return {"exit": end.exit, "usage": Usage(cpu=end.cpu, memory=end.memory, wall=end.wall)}


def _batches(jobs: Sequence[Job]) -> list[Sequence[Job]]:
    return [jobs[first : first + BATCH] for first in range(0, len(jobs), BATCH)]


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at once, to the end; what was changed meanwhile by somebody else is left to the next look."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, Conflict):
            continue
        if isinstance(outcome, Transient):
            log.warning("a job: %s", outcome)
        elif isinstance(outcome, BaseException):
            raise outcome


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
