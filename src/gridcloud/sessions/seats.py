"""Keep machines ready for the lectures of courses: seats, which members' sessions take (see `seating`).

Nothing is kept in memory that matters: how many there are, who has one and what failed is read from the instances, so
that one that was being made when the service died is neither made again nor forgotten. Each is asked for in the usual
way, pays from the course's project, and ends itself soon after the lecture, whatever becomes of us.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from gridcloud.clock import Clock
from gridcloud.errors import GridcloudError, NotFound
from gridcloud.instances.costs import describe_cost
from gridcloud.instances.handing import is_waiting, nobody_of
from gridcloud.instances.matching import BUDGET
from gridcloud.instances.model import FINAL, Charge, Folder, Instance, Reason, Request, State
from gridcloud.instances.runner import Runner
from gridcloud.profiles.lectures import Lecture, lectures_at
from gridcloud.sessions.model import FINAL as SESSION_FINAL
from gridcloud.sessions.model import Session
from gridcloud.sessions.seating import are_alike
from gridcloud.settings import Settings
from gridcloud.store import Entry
from gridcloud.store.lives import Lives

__all__ = ["KIND", "Seats"]

log = logging.getLogger(__name__)

INTERVAL = 15.0
"""Seconds between two looks."""

KIND = "course"
"""Kind of the events of a course."""

AFTER = 300
"""Seconds after a lecture when its seats end themselves, where we are not there to end them."""

AT_ONCE = 4
"""Seats that are asked for at the same time: where the budget is used up, so many are refused."""

PATIENCE = 60.0
"""Seconds that are waited for a seat's offer before the next are asked for."""

FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0
"""Seconds after a seat that failed until another is tried: doubled with each."""

UNASKED = (Reason.NO_OFFER, Reason.LOST, Reason.CONFIGURATION, Reason.ABANDONED, Reason.BUDGET)


class Seats:
    """The loop over all courses."""

    def __init__(
        self,
        machines: Runner,
        sessions: Lives[Session],
        settings: Callable[[], Settings],
        complete: Callable[[Request], Request],
        folders: Callable[[str], tuple[Folder, ...]],
        clock: Clock,
    ) -> None:
        """``complete`` fills in what a request leaves open, ``folders`` returns those of a course."""
        self._machines = machines
        self._sessions = sessions
        self._settings = settings
        self._complete = complete
        self._folders = folders
        self._clock = clock
        self._told: dict[tuple[str, datetime], set[str]] = {}
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            try:
                await self.look()
            except GridcloudError as error:
                log.warning("seats of courses: %s", error)
            except Exception:  # a fault of ours must leave no seat without anybody who looks after it
                log.exception("looking after the seats of courses failed; it is tried again")
            await self._clock.sleep(INTERVAL)

    async def look(self) -> None:
        """Ask for what is missing, and end what nobody needs any more."""
        async with self._looking:
            needed: set[str] = set()
            lectures = list(lectures_at(self._settings(), self._clock.now()))
            self._told = {(one.course, one.opens): self._said(one) for one in lectures}
            for lecture in map(self._whole, lectures):
                needed |= {one.id for one in await self._attend(lecture)}
            await self._end_others(needed)

    def _whole(self, lecture: Lecture) -> Lecture:
        request = self._complete(lecture.request)
        left = (lecture.closes - self._clock.now()).total_seconds()
        times = {"time": max(1, int(left)) + AFTER, "idle": 0}
        return Lecture(
            lecture.course,
            lecture.opens,
            lecture.closes,
            lecture.count,
            request.model_copy(update=times),
            lecture.configure,
            lecture.problem,
        )

    async def _attend(self, lecture: Lecture) -> list[Instance]:
        """Return the seats of a lecture, with those asked for now; beyond its count, those made last are left out."""
        seats = [
            one
            for one in await self._live()
            if one.seat == lecture.course
            and one.created
            >= lecture.opens  # what was handed over in an earlier lecture is no seat of this one
            and are_alike(one, lecture.request, lecture.configure)
        ]
        taken = [one for one in seats if not is_waiting(one) or one.claim]
        free = [one for one in seats if one not in taken]
        missing = lecture.count - len(taken) - len(free)
        if missing <= 0:
            return [*taken, *free[: max(0, lecture.count - len(taken))]]
        if lecture.problem:
            await self._tell(lecture, "warning", f"No seats are made: {lecture.problem}")
            return seats
        if why := await self._why_not_now(lecture):
            await self._tell(lecture, "warning", why)
            return seats
        return [*seats, *await self._ask_for(lecture, missing)]

    async def _ask_for(self, lecture: Lecture, missing: int) -> list[Instance]:
        folders = await asyncio.to_thread(self._folders, lecture.course)
        until = f"{lecture.closes:%Y-%m-%d %H:%M} UTC"
        await self._tell(lecture, "seats", f"Making {missing} of {lecture.count} seats ready until {until}.")
        asked: list[Instance] = []
        while missing > 0 and self._clock.now() < lecture.closes:
            some = [await self._submit(lecture, folders) for _ in range(min(AT_ONCE, missing))]
            asked += some
            missing -= len(some)
            if any(_has_failed(one) for one in await asyncio.gather(*map(self._chosen, some))):
                break  # the next look tells why, and waits
        return asked

    async def _submit(self, lecture: Lecture, folders: tuple[Folder, ...]) -> Instance:
        return await self._machines.submit(
            nobody_of(lecture.course),
            lecture.request,
            name=f"seat of {lecture.course}",
            configure=lecture.configure,
            seat=lecture.course,
            folders=folders,
        )

    async def _chosen(self, seat: Instance) -> Instance:
        """Return a seat once its offer is chosen, or it has ended, or that takes long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                async for now in self._machines.records.follow(seat.id):
                    seat = now
                    if now.state is not State.REQUESTED:
                        break
        return seat

    async def _why_not_now(self, lecture: Lecture) -> str:
        """Return why no more seats are asked for now, in words; an empty text where they are."""
        found = await self._machines.records.find(owner=nobody_of(lecture.course), states=FINAL)
        failed = [one for one in found if one.created >= lecture.opens and _has_failed(one)]
        if not failed:
            return ""
        if dry := next((one for one in failed if _is_dry(one)), None):
            return f"No more seats until the next lecture, for the budget does not pay for them: {dry.detail}"
        last = max(one.ended_at or one.created for one in failed)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(len(failed) - 1, 8))
        if self._clock.now() < last + timedelta(seconds=pause):
            return f"A seat could not be made; it is tried again, ever more seldom: {failed[-1].detail}"
        return ""

    async def _end_others(self, needed: set[str]) -> None:
        """End the seats that no lecture needs, and free those whose session is no more."""
        over: dict[str, list[Instance]] = {}
        for seat in await self._live():
            if not is_waiting(seat):
                continue
            if seat.claim:
                if await self._is_over(seat.claim):
                    await self._machines.handing.release(seat.id, "who asked for it went away")
            elif seat.id not in needed:
                over.setdefault(seat.seat, []).append(seat)
        for course, seats in over.items():
            charges = [charge for seat in seats for charge in seat.charges]
            for seat in seats:
                await self._end(seat)
            await self._write(
                course, "seats", _farewell(len(seats), charges, self._clock.now(), self._machines.currency())
            )

    async def _end(self, seat: Instance) -> None:
        """End a seat, unless it was claimed just now."""
        with contextlib.suppress(GridcloudError):
            seat = await self._machines.records.get(seat.id)
            if is_waiting(seat) and not seat.claim:
                await self._machines.stop(seat.id, Reason.ASKED, "Nobody took it: its lecture is over.")

    async def _live(self) -> list[Instance]:
        """Return the live seats of ours: of several services that share a store, each has its own."""
        records = self._machines.records
        return [
            one
            for one in await records.live()
            if one.seat and one.state not in (State.STOPPING, State.FAILING) and records.keeps(one)
        ]

    async def _is_over(self, session_id: str) -> bool:
        try:
            return (await self._sessions.get(session_id)).state in SESSION_FINAL
        except NotFound:
            return True

    def _said(self, lecture: Lecture) -> set[str]:
        return self._told.get((lecture.course, lecture.opens), set())

    async def _tell(self, lecture: Lecture, type: str, message: str) -> None:
        """Write an event of a lecture's course, each once in that lecture: what fails is tried again and again."""
        said = self._said(lecture)
        if message not in said:
            said.add(message)
            await self._write(lecture.course, type, message)

    async def _write(self, course: str, type: str, message: str) -> None:
        log.info("course %s: %s", course, message)
        await self._machines.records.store.append(KIND, course, nobody_of(course), [Entry(type, message, {})])


def _has_failed(seat: Instance) -> bool:
    return seat.state in (State.FAILED, State.FAILING) or (seat.state in FINAL and seat.reason in UNASKED)


def _is_dry(seat: Instance) -> bool:
    return seat.reason is Reason.BUDGET or any(offer.refusal == BUDGET for offer in seat.refused)


def _farewell(count: int, charges: list[Charge], now: datetime, currency: str) -> str:
    price = describe_cost(charges, now, currency)
    many = "1 seat that nobody took is" if count == 1 else f"{count} seats that nobody took are"
    return f"The lecture is over: {many} ended" + (f"; waiting cost {price}." if price else ".")
