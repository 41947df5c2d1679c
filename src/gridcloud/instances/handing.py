"""Hand an instance that was made ahead for a course's lecture (a seat) to the member whose session asks for one.

A seat is claimed first, by one compare-and-set write that names the session, and handed over once it is ready. Any step
may be the last one before a crash: who carries the session on finds its claim, and does the rest again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from gridcloud.clock import Clock
from gridcloud.errors import Conflict, QuotaExceeded, Transient
from gridcloud.instances.costs import describe_cost
from gridcloud.instances.driver import Handing
from gridcloud.instances.model import FINAL, NOBODY, Instance, Phase, Request, State
from gridcloud.instances.providers import Providers
from gridcloud.store.lives import Lives

__all__ = ["HandOver", "is_waiting", "nobody_of"]

LEAVING = (State.STOPPING, State.FAILING, *FINAL)


def nobody_of(course: str) -> str:
    """Return the owner of a course's seats until they are handed over."""
    return NOBODY + course


def is_waiting(instance: Instance) -> bool:
    """Tell whether an instance is a seat that belongs to nobody yet, claimed or not."""
    return bool(instance.seat) and instance.owner == nobody_of(instance.seat)


class HandOver:
    """What it takes to hand seats over."""

    def __init__(
        self,
        records: Lives[Instance],
        providers: Providers,
        clock: Clock,
        drop: Callable[[str], Awaitable[None]],
        judging: asyncio.Lock,
        judge_longer: Callable[[Instance, datetime], Awaitable[str]] | None,
        currency: Callable[[], str],
    ) -> None:
        """``drop`` lets go of the connection to an instance, ``judge_longer`` tells why an instance may not last until
        then; ``judging`` is held from that question until what it allowed is stored."""
        self._records = records
        self._providers = providers
        self._clock = clock
        self._drop = drop
        self._judging = judging
        self._judge_longer = judge_longer
        self._currency = currency

    async def claimed(self, session_id: str) -> Instance | None:
        """Return the live seat that a session has claimed, or was handed."""
        return next((one for one in await self._records.live() if one.claim == session_id), None)

    async def claim(self, seats: Sequence[Instance], session_id: str) -> Instance | None:
        """Claim the first of these seats that nobody else is quicker to claim; None where there is none."""
        for seat in seats:
            while is_waiting(seat) and not seat.claim and seat.state not in LEAVING:
                with contextlib.suppress(Conflict):
                    return await self._records.save(seat, "", "", claim=session_id)
                seat = await self._records.get(seat.id)  # it was claimed, or went on in being made
        return None

    async def release(self, instance_id: str, why: str) -> None:
        """Let a claimed seat wait for somebody else. One that was handed over is left as it is."""
        while True:
            seat = await self._records.get(instance_id)
            if not is_waiting(seat) or not seat.claim or seat.state in FINAL:
                return
            with contextlib.suppress(Conflict):
                await self._records.save(seat, "released", f"It waits for somebody else: {why}", claim="")
                return

    async def give(
        self,
        instance_id: str,
        owner: str,
        name: str,
        request: Request,
        seconds: int,
        patience: float,
        before_end: Sequence[str] = (),
    ) -> Instance:
        """Hand a claimed, ready seat to its owner, who has it for ``seconds`` from now; 0: without end. ``before_end``:
        the command that is run on it then, before its end.

        Raises QuotaExceeded where no budget pays for that time, Rejected or Transient where its provider does not hand
        it over, or it has ended.
        """
        seat = await self._records.get(instance_id)
        if seat.offer is None or seat.handle is None or seat.state is not State.READY:
            raise Transient(f"Seat {instance_id} is not ready any more.")
        driver = await self._providers.holder(seat.offer.provider)
        if not isinstance(driver, Handing):
            raise Transient(f"{seat.offer.provider} hands nothing over any more.")
        now = self._clock.now()
        expires = now + timedelta(seconds=seconds) if seconds else None
        theirs = seat.model_copy(update={"owner": owner, "request": request})
        async with asyncio.timeout(patience):
            handle = await driver.hand_over(instance_id, seat.handle, owner)
            seen = (await driver.observe({instance_id: handle}))[instance_id]
        if seen.phase is not Phase.RUNNING or seen.address is None:
            raise Transient(f"Seat {instance_id} cannot be reached: {seen.detail}")
        async with self._judging:
            judge = self._judge_longer if expires is not None else None
            if judge is not None and expires is not None and (why := await judge(theirs, expires)):
                raise QuotaExceeded(why)
            changes = {"owner": owner, "name": name, "request": request, "before_end": tuple(before_end)}
            changes |= {"expires": expires, "handle": handle, "address": seen.address}
            given = await self._store(instance_id, changes)
        await self._drop(instance_id)  # whoever logged in there before was nobody
        return given

    async def _store(self, instance_id: str, changes: dict[str, Any]) -> Instance:
        while True:
            seat = await self._records.get(instance_id)
            if seat.state is not State.READY:
                raise Transient(f"Seat {instance_id} has ended.")
            now = self._clock.now()
            waited = timedelta(seconds=round((now - seat.created).total_seconds()))
            price = describe_cost(seat.charges, now, self._currency())
            message = f"Handed to {changes['owner']}: it had waited for {waited}" + (
                f", which cost {price}." if price else "."
            )
            with contextlib.suppress(Conflict):
                return await self._records.save(
                    seat,
                    "handed",
                    message,
                    {"course": seat.seat, "session": seat.claim},
                    **changes,
                    warned=False,
                    notice="",
                    idle_since=None,
                )
