"""How jobs and arrays ended, for those who wait for them; and when an array has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gridcloud.clock import Clock
from gridcloud.errors import Conflict, NotFound
from gridcloud.jobs.model import FINAL, Array, ArrayState, Cause, Dependency, Job, State, When
from gridcloud.store.lives import Lives

__all__ = ["Fate", "Fates", "is_well"]


@dataclass(frozen=True, slots=True)
class Fate:
    """How something ended."""

    well: bool
    state: str

    def fulfils(self, when: When) -> bool:
        """Tell whether what waits for it may begin."""
        return when is When.ENDED or self.well == (when is When.OK)


def is_well(job: Job) -> bool:
    """Tell whether an ended job has results."""
    return job.state is State.DONE or job.cause is Cause.REUSED


class Fates:
    """Remembers ends, and ends arrays of which no job goes on."""

    def __init__(self, jobs: Lives[Job], arrays: Lives[Array], clock: Clock) -> None:
        self._jobs = jobs
        self._arrays = arrays
        self._clock = clock
        self._known: dict[str, Fate] = {}
        self._tallies: dict[str, Counter[State]] = {}
        self._well: dict[str, bool] = {}
        self.news = False
        """Whether anything has ended since somebody who waits was asked after."""

    async def load(self, open_: Sequence[Array]) -> None:
        """Count the jobs of open arrays that have ended."""
        for array in open_:
            self._tallies[array.id] = Counter()
            for job in await self._jobs.find(prefix=f"{array.id}-", states=FINAL):
                self.note(job)

    def begin(self, array: Array) -> None:
        """Count for a new array."""
        self._tallies.setdefault(array.id, Counter())

    def note(self, job: Job) -> None:
        """Note a job that has ended; only the first time counts."""
        if job.id in self._known:
            return
        self._known[job.id] = Fate(is_well(job), job.state)
        self.news = True
        if (tally := self._tallies.get(job.array)) is not None:
            tally[job.state] += 1
            self._well[job.array] = self._well.get(job.array, True) and is_well(job)

    async def end_arrays(self) -> list[Array]:
        """End the arrays all of whose jobs have ended; return them."""
        ended = []
        for array_id, tally in list(self._tallies.items()):
            if not tally:
                continue
            array = await self._arrays.get(array_id)
            if tally.total() < len(array.order.rows):
                continue
            told = ", ".join(f"{count} {state}" for state, count in sorted(tally.items()))
            try:
                array = await self._arrays.save(
                    array,
                    "ended",
                    f"{told}.",
                    state=ArrayState.ENDED,
                    counts=dict(tally),
                    well=self._well.get(array_id, True),
                    ended=self._clock.now(),
                )
            except Conflict:
                continue
            del self._tallies[array_id]
            self._known[array_id] = Fate(array.well, array.state)
            self.news = True
            ended.append(array)
        return ended

    async def verdict(self, after: Sequence[Dependency]) -> tuple[bool, str]:
        """Return whether all that something waits for has ended as it had to, and what has not; both empty: wait."""
        waiting = False
        for dependency in after:
            fate = await self._fate(dependency.on)
            if fate is None:
                waiting = True
            elif not fate.fulfils(dependency.when):
                return False, f"{dependency.on} did not end as it had to: it is {fate.state}."
        return not waiting, ""

    async def _fate(self, id: str) -> Fate | None:
        if id in self._known:
            return self._known[id]
        try:
            if id in self._tallies:
                return None
            job = await self._jobs.get(id)
            if job.state not in FINAL:
                return None
            self._known[id] = Fate(is_well(job), job.state)
        except NotFound:
            try:
                array = await self._arrays.get(id)
            except NotFound:
                return Fate(False, "gone")
            if array.state is not ArrayState.ENDED:
                return None
            self._known[id] = Fate(array.well, array.state)
        return self._known[id]
