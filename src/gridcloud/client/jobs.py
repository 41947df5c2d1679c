"""The verbs for jobs, for asyncio programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gridcloud.client.wire import Wire
from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.instances.model import Finding
from gridcloud.jobs.descriptions import Description, read_description
from gridcloud.jobs.model import Order
from gridcloud.service import packing
from gridcloud.service.documents import Event, Findings
from gridcloud.service.job_documents import (
    Counted,
    JobLine,
    JobList,
    JobResult,
    JobResults,
    JobShown,
    JobWish,
    LogPart,
    SchedulerList,
)

__all__ = ["Jobs"]

CHUNK = 1 << 20


class Jobs:
    """Everything that can be asked of jobs. Methods that return a job take the id of an array, too."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def submit(
        self,
        description: Description | Mapping[str, Any],
        *,
        owner: str | None = None,
        folder: Path | None = None,
    ) -> JobShown:
        """Hand over the files of what is described, and ask for it; return at once. ``folder``: where relative paths
        begin. With a sweep it is an array."""
        if not isinstance(description, Description):
            description = read_description(description)
        order, files = await asyncio.to_thread(description.build, folder or Path.cwd())
        for digest, path in files.items():
            await self.hand_over(digest, path)
        return await self.order(order, owner=owner)

    async def order(self, order: Order, *, owner: str | None = None) -> JobShown:
        """Ask for a job whose files were handed over."""
        body = JobWish(order=order, owner=owner).model_dump(mode="json")
        # What the request leaves open is filled in from the service's defaults.
        body["order"]["request"] = order.request.model_dump(mode="json", exclude_unset=True)
        return await self._wire.ask("POST", "/jobs", JobShown, body)

    async def hand_over(self, digest: str, path: Path) -> None:
        """Give the service a file, unless it has it already."""
        try:
            await self._wire.tell("GET", _path("job-files", digest))
        except NotFound:
            await self._wire.tell("PUT", _path("job-files", digest), _read(path))

    async def list(
        self, *, all: bool = False, array: str = "", owner: str | None = None
    ) -> Sequence[JobLine]:
        """Return jobs and arrays, or the jobs of one array; ended ones too with ``all``."""
        return (await self._wire.ask("GET", "/jobs", JobList, all=all, array=array or None, owner=owner)).jobs

    async def get(self, job_id: str) -> JobShown:
        """Return one. Raises NotFound."""
        return await self._wire.ask("GET", _path("jobs", job_id), JobShown)

    async def cancel(self, job_id: str) -> int:
        """Have it end, or all of an array; return how many."""
        return (await self._wire.ask("POST", _path("jobs", job_id, "cancel"), Counted)).count

    async def retry(self, job_id: str) -> JobShown:
        """Ask again for what did not end well."""
        return await self._wire.ask("POST", _path("jobs", job_id, "retry"), JobShown)

    async def clean(self, job_id: str) -> int:
        """Remove the folders of what has ended; return how many."""
        return (await self._wire.ask("POST", _path("jobs", job_id, "clean"), Counted)).count

    async def results(self, job_id: str) -> Sequence[JobResult]:
        """Return parameters and results of a job, or of each of an array's."""
        return (await self._wire.ask("GET", _path("jobs", job_id, "results"), JobResults)).results

    async def fetch(self, job_id: str, target: Path) -> Path:
        """Copy the outputs that are kept of a job into a new folder. Raises InvalidRequest where that is there."""
        if target.exists():
            raise InvalidRequest(f"{target} is there already.", remedy="Remove it, or name another folder.")
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.arriving")
        fresh.mkdir()
        try:
            async with self._wire.send("GET", _path("jobs", job_id, "outputs")) as response:
                content = await packing.unpack(response.content.iter_chunked(CHUNK), fresh)
            content.rename(target)
        finally:
            for left in sorted(fresh.rglob("*"), reverse=True):
                left.unlink() if not left.is_dir() else left.rmdir()
            fresh.rmdir()
        return target

    async def log(self, job_id: str, *, stream: str = "out", offset: int = 0, wait: bool = False) -> LogPart:
        """Return what a job said from a place on; with ``wait`` more is waited for, some seconds."""
        place = _path("jobs", job_id, "log")
        return await self._wire.ask("GET", place, LogPart, stream=stream, offset=offset, wait=wait)

    async def follow_log(self, job_id: str, *, stream: str = "out", offset: int = 0) -> AsyncIterator[str]:
        """Yield what a job says until it has ended."""
        while True:
            part = await self.log(job_id, stream=stream, offset=offset, wait=True)
            offset = part.offset
            if part.text:
                yield part.text
            elif part.ended:
                return

    def events(self, job_id: str, *, follow: bool = False, after: int = 0) -> AsyncIterator[Event]:
        """Yield the story of a job or an array; with ``follow`` until it has ended."""
        return self._wire.events(_path("jobs", job_id, "events"), follow=follow, after=after)

    async def wait(self, job_id: str, on_event: Callable[[Event], None] | None = None) -> JobShown:
        """Return a job, or an array, once it has ended."""
        shown = await self.get(job_id)
        async for event in self.events(shown.id, follow=not shown.ended):
            if on_event is not None:
                on_event(event)
        return await self.get(shown.id)

    async def schedulers(self) -> SchedulerList:
        """Return what runs jobs, as it is configured and installed."""
        return await self._wire.ask("GET", "/schedulers", SchedulerList)

    async def check(self, name: str) -> Sequence[Finding]:
        """Try a scheduler without running anything."""
        return (await self._wire.ask("GET", _path("schedulers", name, "check"), Findings)).findings


async def _read(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk


def _path(*parts: str) -> str:
    return "/" + "/".join(quote(part, safe="") for part in parts)
