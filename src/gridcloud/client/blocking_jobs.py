"""The verbs for jobs, for plain programs and notebooks: submitting gives a handle like a future."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal

from gridcloud.client.jobs import Jobs
from gridcloud.errors import GridcloudError, TimedOut
from gridcloud.jobs.model import Array, Job, State
from gridcloud.service.documents import Event
from gridcloud.service.job_documents import JobLine, JobResult, JobShown

__all__ = ["BlockingJobs", "JobHandle"]

PAUSE = 0.2
"""Seconds between looks where a time limit is waited for."""


class JobHandle:
    """A job, or an array of them, that was submitted. It goes on when this is forgotten."""

    def __init__(self, id: str, jobs: BlockingJobs) -> None:
        self.id = id
        self._jobs = jobs

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    def show(self) -> Job | Array:
        """Return all about it as it is now."""
        shown = self._jobs.get(self.id)
        found = shown.job or shown.array
        assert found is not None  # noqa: S101 - one of both is there
        return found

    @property
    def state(self) -> str:
        """Its state as it is now."""
        return str(self.show().state)

    def done(self) -> bool:
        """Tell whether it has ended, however."""
        return self.show().ended is not None

    def wait(
        self, timeout: float | None = None, on_event: Callable[[Event], None] | None = None
    ) -> Job | Array:
        """Return it once it has ended. Raises TimedOut after ``timeout`` seconds; it goes on then."""
        if timeout is None:
            self._jobs.wait(self.id, on_event)
            return self.show()
        deadline = time.monotonic() + timeout
        while not self.done():
            if time.monotonic() > deadline:
                raise TimedOut(f"{self.id} has not ended within {timeout:g} s.")
            time.sleep(PAUSE)
        return self.show()

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait, and return the values that a job found. Raises GridcloudError with the cause where it failed."""
        self.wait(timeout)
        [found] = self._jobs.results(self.id)
        if found.state is not State.DONE and not found.results:
            shown = self.show()
            raise GridcloudError(f"The job {self.id} is {found.state}: {getattr(shown, 'detail', '')}")
        return found.results

    def results(self, timeout: float | None = None) -> Sequence[dict[str, Any]]:
        """Wait, and return parameters and values of each job in one dictionary."""
        self.wait(timeout)
        return [{**one.parameters, **one.results} for one in self._jobs.results(self.id)]

    def log(self, stream: str = "out") -> str:
        """Return what a job has said so far."""
        return self._jobs.log(self.id, stream)

    def cancel(self) -> int:
        """Have it end; return how many jobs that were."""
        return self._jobs.cancel(self.id)


class BlockingJobs:
    """Jobs. Every method raises GridcloudError, as the service does; see `jobs.Jobs`."""

    def __init__(self, jobs: Jobs, portal: BlockingPortal) -> None:
        self._jobs = jobs
        self._portal = portal

    def submit(
        self,
        command: Sequence[str] = (),
        *,
        folder: Path | None = None,
        over: Sequence[str] = (),
        **fields: Any,
    ) -> JobHandle:
        """Ask for a job and return its handle at once; with ``over`` it is an array.

        ``fields`` are those of `Description`: ``script="sim.py"``, ``notebook="a.ipynb"``, ``inputs=["data"]``,
        ``request={"cpus": 2}``, …
        """
        wanted = {"command": tuple(command), "over": tuple(over), **fields}
        return JobHandle(self._portal.call(lambda: self._jobs.submit(wanted, folder=folder)).id, self)

    def list(self, *, all: bool = False, array: str = "") -> Sequence[JobLine]:
        """Return jobs and arrays, or the jobs of one array; ended ones too with ``all``."""
        return self._portal.call(lambda: self._jobs.list(all=all, array=array))

    def get(self, job_id: str) -> JobShown:
        """Return one. Raises NotFound."""
        return self._portal.call(self._jobs.get, job_id)

    def handle(self, job_id: str) -> JobHandle:
        """Return the handle of a job by its id. Raises NotFound."""
        return JobHandle(self.get(job_id).id, self)

    def wait(self, job_id: str, on_event: Callable[[Event], None] | None = None) -> JobShown:
        """Return it once it has ended."""
        return self._portal.call(lambda: self._jobs.wait(job_id, on_event))

    def results(self, job_id: str) -> Sequence[JobResult]:
        """Return parameters and results of a job, or of each of an array's."""
        return self._portal.call(self._jobs.results, job_id)

    def log(self, job_id: str, stream: str = "out") -> str:
        """Return what a job has said so far."""

        async def whole() -> str:
            parts: list[str] = []
            offset = 0
            while True:
                part = await self._jobs.log(job_id, stream=stream, offset=offset)
                if not part.text:
                    return "".join(parts)
                parts.append(part.text)
                offset = part.offset

        return self._portal.call(whole)

    def fetch(self, job_id: str, target: Path) -> Path:
        """Copy the outputs that are kept of a job into a new folder."""
        return self._portal.call(self._jobs.fetch, job_id, target)

    def cancel(self, job_id: str) -> int:
        """Have it end, or all of an array; return how many."""
        return self._portal.call(self._jobs.cancel, job_id)

    def retry(self, job_id: str) -> JobHandle:
        """Ask again for what did not end well."""
        return JobHandle(self._portal.call(self._jobs.retry, job_id).id, self)

    def clean(self, job_id: str) -> int:
        """Remove the folders of what has ended; return how many."""
        return self._portal.call(self._jobs.clean, job_id)
