"""Jobs over HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from gridcloud import plugins
from gridcloud.errors import Forbidden, GridcloudError, InvalidRequest, NotFound
from gridcloud.jobs.driver import Stream
from gridcloud.jobs.model import FINAL, Array, Job, State
from gridcloud.service import packing
from gridcloud.service.access import Admin, Asking, Caller, TheHouse
from gridcloud.service.documents import Findings
from gridcloud.service.entries import check_entry, list_entries
from gridcloud.service.files import incoming
from gridcloud.service.job_documents import (
    Counted,
    JobLine,
    JobList,
    JobResult,
    JobResults,
    JobShown,
    JobWish,
    LogPart,
    Scheduler,
    SchedulerList,
)

__all__ = ["owned", "router"]

router = APIRouter(tags=["jobs"])

MOST = 1 << 20
"""Bytes of a log in one answer."""

Place = Annotated[int, Query(ge=-(2**40), le=2**40)]


@router.post("/jobs", status_code=201)
async def submit(wish: JobWish, caller: Asking, house: TheHouse) -> JobShown:
    """Ask for a job, or for an array of them; answers at once."""
    if wish.order.secrets and not caller.admin:
        raise Forbidden(
            "Secrets by reference are read where the service runs, so only administrators may name them.",
            remedy="Leave 'secrets' out.",
        )
    request = house.complete(wish.order.request)
    house.check(request)
    order = wish.order.model_copy(update={"request": request})
    return await _shown(house, await house.jobs.submit(caller.owner(wish.owner), order))


@router.get("/jobs")
async def find(
    caller: Asking, house: TheHouse, all: bool = False, array: str = "", owner: str | None = None
) -> JobList:
    """List jobs and arrays, or the jobs of one array; those that have ended too with ``all``."""
    if array:
        found = await owned(house, caller, array)
        return JobList(jobs=[_line(job) for job in await house.jobs.of(found.id)])
    whose = owner if caller.admin else caller.user
    runner = house.jobs
    jobs = await (runner.jobs.find(owner=whose) if all else runner.jobs.live(whose))
    arrays = await (runner.arrays.find(owner=whose) if all else runner.arrays.live(whose))
    lines = [_line(job) for job in jobs if not job.array]
    lines += [_line_of_array(one, await _counts(house, one)) for one in arrays]
    return JobList(jobs=sorted(lines, key=lambda line: (line.created, line.id)))


@router.get("/jobs/{job_id}")
async def show(job_id: str, caller: Asking, house: TheHouse) -> JobShown:
    """Return one job or array."""
    return await _shown(house, await owned(house, caller, job_id))


@router.post("/jobs/{job_id}/cancel")
async def cancel(job_id: str, caller: Asking, house: TheHouse) -> Counted:
    """Have a job end, or all of an array; answers at once. May be asked twice."""
    found = await owned(house, caller, job_id)
    return Counted(count=len(await house.jobs.cancel(found.id)))


@router.post("/jobs/{job_id}/retry", status_code=201)
async def retry(job_id: str, caller: Asking, house: TheHouse) -> JobShown:
    """Ask again for what did not end well."""
    found = await owned(house, caller, job_id)
    return await _shown(house, await house.jobs.retry(found.id))


@router.post("/jobs/{job_id}/clean")
async def clean(job_id: str, caller: Asking, house: TheHouse) -> Counted:
    """Remove the folders of what has ended, with their logs; records and kept outputs stay."""
    found = await owned(house, caller, job_id)
    return Counted(count=await house.jobs.remove(found.id))


@router.get("/jobs/{job_id}/results")
async def results(job_id: str, caller: Asking, house: TheHouse) -> JobResults:
    """Return what came of a job, or of each of an array's."""
    found = await owned(house, caller, job_id)
    listed = [
        JobResult(
            id=job.id,
            state=job.state,
            cause=job.cause,
            parameters={**(await house.jobs.order_of(job)).work.parameters, **job.parameters},
            results=job.results,
            kept=job.kept,
        )
        for job in await house.jobs.of(found.id)
    ]
    return JobResults(results=listed)


@router.get("/jobs/{job_id}/outputs", response_class=StreamingResponse)
async def outputs(job_id: str, caller: Asking, house: TheHouse) -> StreamingResponse:
    """Return the outputs that are kept of a job: a tar archive with one member ``content``."""
    job = await _job(house, caller, job_id)
    folder = house.jobs.results / (job.reused or job.id)
    if not await asyncio.to_thread(folder.is_dir):
        raise NotFound(f"Nothing is kept of {job.id}.", remedy="Name what it leaves by --output.")
    return StreamingResponse(packing.pack(folder), media_type="application/x-tar")


@router.get("/jobs/{job_id}/log")
async def log(
    job_id: str,
    caller: Asking,
    house: TheHouse,
    stream: Stream = Stream.OUT,
    offset: Place = 0,
    wait: bool = False,
) -> LogPart:
    """Return what a job said from a place on; a negative one counts from the end. ``wait``: for more, some seconds."""
    job = await _job(house, caller, job_id)
    for _ in range(20 if wait else 1):
        ended = job.state in FINAL
        try:
            part = await house.jobs.logs(job.id, stream, offset, MOST)
        except NotFound:
            if ended:
                raise
        else:
            if part.data or ended or not wait:
                text = part.data.decode(errors="replace")
                return LogPart(text=text, offset=part.offset, size=part.size, ended=ended)
        if wait:
            await asyncio.sleep(0.5)
            job = await house.jobs.jobs.get(job.id)
    return LogPart(text="", offset=max(offset, 0), size=0, ended=job.state in FINAL)


@router.put("/job-files/{digest}", status_code=204)
async def put_file(digest: str, request: Request, caller: Asking, house: TheHouse) -> None:
    """Hand over a file for jobs, under the SHA-256 of its content."""
    await house.jobs.uploads.take(digest, incoming(request, house), house.settings().jobs.input)


@router.get("/job-files/{digest}", status_code=204)
async def has_file(digest: str, caller: Asking, house: TheHouse) -> None:
    """Say whether a file was handed over already."""
    house.jobs.uploads.path(digest)


@router.get("/schedulers")
async def schedulers(caller: Asking, house: TheHouse) -> SchedulerList:
    """List what runs jobs, and what is wrong with any of the entries."""
    listed = list_entries(Scheduler, house.settings().schedulers, caller)
    return SchedulerList(schedulers=listed, drivers=plugins.names("jobs"))


@router.get("/schedulers/{name}/check")
async def check(name: str, caller: Admin, house: TheHouse) -> Findings:
    """Try what runs jobs, without running any."""
    return await check_entry(name, house.jobs.schedulers.get)


async def owned(house: TheHouse, caller: Caller, word: str) -> Job | Array:
    """Return a job or an array that the caller may see. Raises NotFound."""
    found: Job | Array
    try:
        found = await house.jobs.jobs.get(word)
    except NotFound as error:
        try:
            found = await house.jobs.arrays.get(word)
        except NotFound:
            raise error from None
    caller.check(found.owner, f"job {word!r:.100}")
    return found


async def _job(house: TheHouse, caller: Caller, word: str) -> Job:
    found = await owned(house, caller, word)
    if isinstance(found, Array):
        last = len(found.order.rows) - 1
        raise InvalidRequest(
            f"{found.id} is an array.", remedy=f"Name one of its jobs: {found.id}-0 … {found.id}-{last}"
        )
    return found


async def _shown(house: TheHouse, found: Job | Array) -> JobShown:
    if isinstance(found, Array):
        return JobShown(array=found, counts=await _counts(house, found))
    folder = ""
    if found.handle and found.scheduler:
        try:
            driver = await house.jobs.schedulers.holder(found.scheduler)
            folder = (await driver.place(found.handle)).folder
        except GridcloudError:
            folder = ""
    order = await house.jobs.order_of(found)
    if found.order is None:
        order = order.model_copy(update={"rows": ()})
    return JobShown(job=found.model_copy(update={"order": order}), folder=folder)


async def _counts(house: TheHouse, array: Array) -> dict[State, int]:
    if array.counts:
        return dict(array.counts)
    return dict(Counter(job.state for job in await house.jobs.of(array.id)))


def _line(job: Job) -> JobLine:
    order = job.order
    return JobLine(
        id=job.id,
        owner=job.owner,
        name=order.name if order else "",
        state=job.state,
        cause=job.cause,
        detail=job.detail,
        scheduler=job.scheduler,
        parameters=job.parameters,
        created=job.created,
        begun=job.begun,
        ended=job.ended,
    )


def _line_of_array(array: Array, counts: dict[State, int]) -> JobLine:
    return JobLine(
        id=array.id,
        owner=array.owner,
        name=array.order.name,
        state=array.state,
        counts=counts,
        created=array.created,
        ended=array.ended,
    )
