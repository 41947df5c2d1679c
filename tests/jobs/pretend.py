"""A scheduler that runs nothing: its jobs end as a test says, and its answers are lost when a test says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gridcloud.clock import SystemClock
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.errors import NoOffer, NotFound, Unreachable
from gridcloud.identity import Secret
from gridcloud.jobs.driver import (
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
from gridcloud.jobs.frame import End
from gridcloud.jobs.model import Array, Cause, Command, Job, Order, Work
from gridcloud.jobs.runner import Runner
from gridcloud.jobs.timing import Timing
from gridcloud.settings.model import JobSettings
from gridcloud.settings.request import Request
from gridcloud.store import open_store
from gridcloud.testing.jobs import job_context

__all__ = ["QUICK", "Pretence", "array_of", "ended", "job_of", "lost", "order", "running"]

QUICK = Timing(poll=0.05, gather=0.001, missed=0.1, first_pause=0.01, tidy=3600)


class Pretence(JobDriver):
    """What a test steers. By default a job ends well as soon as it was submitted."""

    def __init__(self, folder: Path) -> None:
        super().__init__(SchedulerSettings(driver="pretence"), job_context(folder))
        self.jobs: dict[str, Submission] = {}
        self.taken: list[str] = []
        """Handles, each time that one was taken anew."""
        self.ends: dict[str, JobObservation] = {}
        self.how: Callable[[Submission], JobObservation | None] = lambda job: ended(0)
        self.faults: list[str] = []
        """Names of calls that fail, each once, after they did what was asked."""
        self.results: dict[str, bytes] = {}
        self.hold = asyncio.Event()
        """What submits waits for this."""
        self.hold.set()
        self.cancelled: list[str] = []

    async def offer(self, request: Request, owner: str) -> JobOffer:
        return JobOffer(possible=request.cpus < 1000, why_not="too many")

    async def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:
        await self.hold.wait()
        for job in jobs:
            if job.handle not in self.jobs:
                self.jobs[job.handle] = job
                self.taken.append(job.handle)
        self._fail("submit")
        return {}

    async def observe(self, handles: Sequence[str]) -> Mapping[str, JobObservation]:
        self._fail("observe")
        return {handle: self._seen(handle) for handle in handles}

    async def cancel(self, handles: Sequence[str]) -> None:
        self.cancelled += handles
        for handle in handles:
            self.ends.setdefault(handle, ended(143, "stopped"))
        self._fail("cancel")

    async def remove(self, handles: Sequence[str]) -> None:
        for handle in handles:
            self.jobs.pop(handle, None)

    async def holdings(self) -> Sequence[JobHolding]:
        return [JobHolding(handle=handle) for handle in self.jobs]

    async def logs(self, handle: str, stream: Stream, offset: int, most: int) -> Part:
        if stream is not Stream.RESULT or handle not in self.results:
            raise NotFound("nothing")
        data = self.results[handle][offset:]
        return Part(data, offset + len(data), len(data))

    async def place(self, handle: str) -> Place:
        raise NotFound("nowhere")

    async def check(self) -> Sequence[Any]:
        return []

    def _seen(self, handle: str) -> JobObservation:
        if handle in self.ends:
            return self.ends[handle]
        if handle not in self.jobs:
            return JobObservation(phase=Phase.GONE)
        return self.how(self.jobs[handle]) or JobObservation(phase=Phase.RUNNING, begun=True)

    def _fail(self, call: str) -> None:
        if call in self.faults:
            self.faults.remove(call)
            raise Unreachable(f"{call} was not answered")


class PretendSchedulers:
    """The only scheduler there is, in the place of those that are configured."""

    def __init__(self, driver: Pretence) -> None:
        self.driver = driver

    def get(self, name: str) -> Pretence:
        if name != "there":
            raise NotFound(f"No scheduler {name}.")
        return self.driver

    async def holder(self, name: str) -> Pretence:
        return self.get(name)

    async def choose(self, request: Request, owner: str, on: Sequence[str] = (), within: int = 0) -> str:
        if not (await self.driver.offer(request, owner)).possible:
            raise NoOffer("No scheduler runs that.")
        return "there"

    @contextlib.asynccontextmanager
    async def remembering(self, name: str) -> AsyncIterator[None]:
        yield

    async def remembered(self) -> list[str]:
        return ["there"]

    async def close(self) -> None:
        return


@contextlib.asynccontextmanager
async def running(folder: Path, driver: Pretence) -> AsyncIterator[Runner]:
    """Open a runner over a folder; open it again to see what outlives it."""

    async def connect(address: Address) -> Connection:
        raise Unreachable("nowhere")

    async def secret(reference: str) -> Secret:
        raise NotFound(reference)

    clock = SystemClock()
    async with await open_store(folder / "store.sqlite", clock) as store:
        schedulers: Any = PretendSchedulers(driver)
        runner = Runner(store, schedulers, clock, folder / "jobs", JobSettings, connect, secret, QUICK)
        await runner.start()
        try:
            yield runner
        finally:
            await runner.close()


def order(*words: str, **more: Any) -> Order:
    """Return an order of a command."""
    work = more.pop("work", {})
    return Order(work=Work(run=Command(words=words or ("true",)), **work), **more)


def ended(code: int, why: str = "", **more: Any) -> JobObservation:
    """Return what is seen of a job that ended so."""
    end = End(exit=code, why=why, cpu=1, memory=2, wall=3)
    return JobObservation(
        phase=Phase.ENDED, end=end, cause=end.cause, detail=end.describe(), begun=True, **more
    )


def lost(cause: Cause = Cause.MACHINE, *, begun: bool = True) -> JobObservation:
    """Return what is seen of a job whose machine is gone."""
    return JobObservation(phase=Phase.ENDED, cause=cause, detail="Its machine is gone.", begun=begun)


async def job_of(runner: Runner, asked: Order, owner: str = "ada") -> Job:
    """Submit one job."""
    found = await runner.submit(owner, asked)
    assert isinstance(found, Job)
    return found


async def array_of(runner: Runner, asked: Order, owner: str = "ada") -> Array:
    """Submit an array."""
    found = await runner.submit(owner, asked)
    assert isinstance(found, Array)
    return found
