"""Carry every instance through its life: the only place that calls providers.

One task per instance does the duty of its state and stores what happened; ready ones are watched in bulk. Any step
may be the last one before a crash: the next run does the same duty again, and providers are asked by idempotent ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gridcloud.clock import Clock
from gridcloud.errors import (
    ConfigurationFailed,
    Conflict,
    GridcloudError,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Rejected,
    TimedOut,
    Transient,
    Unavailable,
    Untrusted,
)
from gridcloud.finishing import finish, whole
from gridcloud.instances.choice import Choice, Judge, describe_request, offer_of
from gridcloud.instances.configuring import Configure, configure_machine
from gridcloud.instances.costs import close_charges, describe_cost
from gridcloud.instances.farewell import Parting, say_farewell
from gridcloud.instances.handing import HandOver, is_waiting
from gridcloud.instances.lifecycle import DUTIES, Duty, Event, ending, step
from gridcloud.instances.links import Links
from gridcloud.instances.matching import unnamed, unserved
from gridcloud.instances.model import (
    FINAL,
    Folder,
    Instance,
    Observation,
    Offer,
    Phase,
    Reason,
    Request,
    Spec,
    State,
)
from gridcloud.instances.providers import Providers
from gridcloud.instances.timing import Timing
from gridcloud.instances.watch import Watch
from gridcloud.store import Store
from gridcloud.store.lives import Lives, Overtaken

__all__ = ["Configure", "Judge", "Runner", "Timing"]

log = logging.getLogger(__name__)

JudgeLonger = Callable[[Instance, datetime], Awaitable[str]]
"""Returns why an instance may not last until then, in words and figures; an empty text where it may."""


class Runner:
    """Owns all instances of a store."""

    def __init__(
        self,
        store: Store,
        providers: Providers,
        links: Links,
        clock: Clock,
        configure: Configure,
        timing: Timing,
        judge: Judge | None = None,
        currency: Callable[[], str] = str,
        judge_longer: JudgeLonger | None = None,
    ) -> None:
        """``judge`` is asked before an offer is taken, ``judge_longer`` before an expiry is moved; ``currency`` names
        that of all prices."""
        self.records = Lives(store, "instance", Instance, step, FINAL)
        self.providers = providers
        self.links = links
        self.clock = clock
        self.timing = timing
        self.currency = currency
        self._configure = configure
        self._judge_longer = judge_longer
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._first: set[str] = set()
        """Instances for which no provider was asked yet, by us or by whoever was here before."""
        self._overtaken: dict[str, Overtaken] = {}
        self.partings: list[Parting] = []
        """Who saves what is theirs before an instance ends."""
        self.choice = Choice(self.records, providers, clock, judge)
        self.handing = HandOver(
            self.records, providers, clock, links.drop, self.choice.judging, judge_longer, currency
        )
        self.watch = Watch(self.records, providers, links, clock, lambda: self.timing, self.stop, self._lose)
        self._loop: asyncio.Task[None] | None = None
        self._duties: dict[Duty, Callable[[Instance], Coroutine[Any, Any, None]]] = {
            Duty.CHOOSE: self._choose,
            Duty.CREATE: self._create,
            Duty.AWAIT: self._await,
            Duty.CONFIGURE: self._configure_duty,
            Duty.DESTROY: self._destroy,
        }

    async def start(self) -> None:
        """Take up every instance that has not ended, and begin to watch."""
        for instance in await self.records.take_up():
            if DUTIES[instance.state] is not Duty.WATCH:
                self._carry(instance.id)
        self._loop = asyncio.create_task(self.watch.run(), name="instances: watch")

    async def close(self) -> None:
        """Let go of everything. Instances live on; the next run takes them up."""
        tasks = [task for task in (*self._tasks.values(), self._loop) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        await self.links.close()
        await self.providers.close()

    @whole
    async def submit(
        self,
        owner: str,
        request: Request,
        *,
        name: str = "",
        configure: Sequence[dict[str, Any]] = (),
        instance_id: str = "",
        before_end: Sequence[str] = (),
        avoid: Sequence[Offer] = (),
        only: Offer | None = None,
        guest: bool = False,
        seat: str = "",
        scheduler: str = "",
        folders: Sequence[Folder] = (),
    ) -> Instance:
        """Store the wish for an instance and start to fulfil it; return at once.

        ``before_end``: the words of a command that is run on it before it ends. ``avoid``: offers to take last.
        ``only``: the machine that it is made of, at this price, or not at all. ``guest``: of another institution.
        ``seat``: made ahead for a member of this course. ``scheduler``: got for the jobs of this one. ``folders``: of
        this computer, that it is to have.
        ``instance_id`` makes it idempotent: from `Clock.new_id("i")`, stored by the caller before. Raises Conflict
        when there is one of this id.
        """
        if not owner:
            raise InvalidRequest("An instance needs an owner.")
        instance = Instance(
            id=instance_id or self.clock.new_id("i"),
            owner=owner,
            name=name,
            request=request,
            configure=tuple(configure),
            before_end=tuple(before_end),
            avoid=tuple(avoid),
            only=only,
            guest=guest,
            seat=seat,
            scheduler=scheduler,
            folders=tuple(folder for folder in folders if not folder.problem),
            created=self.clock.now(),
        )
        data = {"request": request.model_dump(mode="json", exclude_defaults=True)}
        instance = await self.records.insert(
            instance, "requested", f"Asked for {describe_request(request)}.", data
        )
        self._carry(instance.id)
        return instance

    @whole
    async def stop(self, instance_id: str, reason: Reason | None = None, detail: str = "") -> Instance:
        """Have an instance end; return at once. Stopping one that has ended changes nothing. Raises NotFound."""
        while True:
            instance = await self.records.get(instance_id)
            if instance.state in FINAL or instance.state in (State.STOPPING, State.FAILING):
                return instance
            why = reason or ending(instance.state)
            changes: dict[str, Any] = {
                "reason": why,
                "detail": detail or _ENDINGS.get(why, ""),
            }
            try:
                stopped = await self.records.happen(
                    instance, Event.STOP, changes["detail"], **self._ended(instance, changes)
                )
            except Conflict:
                continue
            if stopped is not None:
                self._turn(stopped)
                return stopped

    async def heed(self) -> None:
        """End what others who share the store have stopped."""
        for instance in await self.records.heeded((State.STOPPING, State.FAILING)):
            self._turn(instance)

    def _turn(self, instance: Instance) -> None:
        """Go over to the duty of an instance's new state, where it is ours to look after."""
        if self.records.keeps(instance):
            self._overtaken.setdefault(instance.id, Overtaken()).by(instance.version)
            self._carry(instance.id)

    async def give_up(self, instance: Instance, detail: str) -> None:
        """Take what is left of an ending instance for gone, unseen: for a provider that will never be asked again."""
        changes = self._ended(instance, {"detail": detail})
        charges = close_charges(instance.charges, self.clock.now())
        removed = await self.records.happen(
            instance, Event.REMOVED, detail, handle=None, address=None, charges=charges, **changes
        )
        if removed is not None and instance.id in self._overtaken:
            self._overtaken[instance.id].by(removed.version)

    async def extend(self, instance_id: str, expires: datetime) -> Instance:
        """Move the expiry of a ready instance. Raises InvalidRequest for a time that has passed or an instance that
        is not ready, QuotaExceeded where a budget does not pay for it."""
        if expires <= self.clock.now():
            raise InvalidRequest(f"{expires:%Y-%m-%d %H:%M:%S %Z} has passed.", remedy="Name a time to come.")
        expires = expires.astimezone(UTC)
        async with self.choice.judging:
            await self._move_expiry(instance_id, expires)
        self.watch.idleness.renew(instance_id)
        await self.watch.arming.arm(instance_id)
        return await self.records.get(instance_id)

    async def renew(self, instance_id: str) -> Instance:
        """Have the idle time of a ready instance begin anew. Raises InvalidRequest for one that is not ready."""
        while True:
            instance = await self.records.get(instance_id)
            if instance.state is not State.READY:
                raise InvalidRequest(f"Instance {instance_id} is {instance.state}.")
            with contextlib.suppress(Conflict):
                message = "It was said to be in use."
                self.watch.idleness.renew(instance_id)
                return await self.records.save(instance, "extended", message, notice="", idle_since=None)

    async def _move_expiry(self, instance_id: str, expires: datetime) -> None:
        while True:
            instance = await self.records.get(instance_id)
            self.records.check_ours(instance)
            if instance.state in FINAL or instance.state in (State.STOPPING, State.FAILING):
                raise InvalidRequest(
                    f"Instance {instance_id} has ended ({instance.reason or instance.state})."
                )
            if instance.state is not State.READY:
                raise InvalidRequest(
                    f"Instance {instance_id} is {instance.state}: its time begins when it is ready.",
                    remedy="Extend it then.",
                )
            if self._judge_longer is not None and (why := await self._judge_longer(instance, expires)):
                raise QuotaExceeded(why)
            with contextlib.suppress(Conflict):
                message = f"Ends {expires:%Y-%m-%d %H:%M:%S} UTC now."
                await self.records.save(
                    instance, "extended", message, expires=expires, warned=False, notice="", idle_since=None
                )
                return

    async def warn(self, instance_id: str, message: str) -> None:
        """Warn the user of a live instance: an event, and what a session's pages show until it is extended."""
        while True:
            instance = await self.records.get(instance_id)
            if instance.state in FINAL or instance.notice == message:
                return
            with contextlib.suppress(Conflict):
                await self.records.save(instance, "warning", message, notice=message)
                return

    async def wait(self, instance_id: str) -> Instance:
        """Return the instance once it is ready or has ended; raise what kept it from being ready."""
        async for instance in self.records.follow(instance_id):
            if instance.state is State.READY:
                return instance
            if instance.state in FINAL:
                raise self.failure(instance)
        raise NotFound(f"There is no instance {instance_id!r}.")

    def failure(self, instance: Instance) -> GridcloudError:
        """Return the error that tells why an instance ended."""
        if instance.reason is Reason.NO_OFFER:
            error = unserved(instance.request, instance.refused)
            error.message = instance.detail or error.message
            return error
        if instance.reason is Reason.CONFIGURATION:
            return ConfigurationFailed(instance.detail)
        return NotFound(f"Instance {instance.id} has ended ({instance.reason}): {instance.detail}")

    # One life ------------------------------------------------------------------------------------------------

    def _carry(self, instance_id: str) -> None:
        task = self._tasks.get(instance_id)
        if task is None or task.done():
            self._tasks[instance_id] = asyncio.create_task(
                self._life(instance_id), name=f"instance {instance_id}"
            )

    async def _life(self, instance_id: str) -> None:
        overtaken = self._overtaken.setdefault(instance_id, Overtaken())
        try:
            while True:
                instance = await self.records.get(instance_id)
                duty = DUTIES.get(instance.state)
                if duty is None or duty is Duty.WATCH:
                    return
                await self._perform(duty, instance, overtaken)
        except asyncio.CancelledError:
            raise
        except Exception:  # a fault of ours must not leave a machine without anybody who looks after it
            log.exception("instance %s: the runner failed; it is taken up again", instance_id)
            await self.clock.sleep(1)  # `close` ends this as well: it is still in the table
            self._tasks.pop(instance_id, None)
            self._carry(instance_id)
        finally:
            if self._tasks.get(instance_id) is asyncio.current_task():
                self._first.discard(instance_id)
                self._tasks.pop(instance_id, None)
                self._overtaken.pop(instance_id, None)

    async def _perform(self, duty: Duty, instance: Instance, overtaken: Overtaken) -> None:
        """Do one duty; leave it at once when the instance is changed by somebody else, unless it makes something."""
        work = asyncio.ensure_future(self._duties[duty](instance))
        if duty is Duty.CREATE:
            # What a cancelled call may still make would be found by nobody: it is always waited for.
            await finish(work)
            return
        wake = asyncio.ensure_future(overtaken.wait(instance.version))
        try:
            await asyncio.wait({work, wake}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wake.cancel()
            if not work.done():
                work.cancel()
            await asyncio.gather(work, wake, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def _choose(self, instance: Instance) -> None:
        if not instance.charges and not instance.refused:
            self._first.add(instance.id)
        await self.choice.choose(instance)

    async def _create(self, instance: Instance) -> None:
        offer = offer_of(instance)
        spec = Spec(
            id=instance.id,
            owner=instance.owner,
            name=instance.name,
            request=instance.request,
            offer=offer,
            first=instance.id in self._first,
            guest=instance.guest,
            seat=is_waiting(instance),
            folders=instance.folders,
        )
        self._first.discard(instance.id)
        try:
            driver = await self.providers.holder(offer.provider)
            async with asyncio.timeout(self.timing.create):
                handle = await driver.create(spec)
        except TimeoutError:
            await self.choice.refuse(instance, TimedOut(f"It was not made within {self.timing.create:g} s."))
        except GridcloudError as error:
            # Who says that there is no room has made nothing; any other answer may come after the deed.
            await self.choice.refuse(instance, error, made=not isinstance(error, Unavailable))
        else:
            deadline = self.clock.now() + timedelta(seconds=self.timing.boot)
            message = f"{offer.provider} is making it."
            made = await self.records.happen(instance, Event.MADE, message, handle=handle, deadline=deadline)
            if made is None:
                await self._keep_handle(instance.id, {"handle": handle})

    async def _keep_handle(self, instance_id: str, changes: dict[str, Any]) -> None:
        """Note the handle on an instance that was stopped while it was being made."""
        with contextlib.suppress(Conflict):
            instance = await self.records.get(instance_id)
            if instance.handle is None and instance.state not in FINAL:
                await self.records.save(instance, "", "", **changes)

    async def _await(self, instance: Instance) -> None:
        told = ""
        while True:
            try:
                seen = await self.watch.observe(instance)
            except Transient as error:
                seen = Observation(phase=Phase.PENDING, detail=str(error))
            if seen is None:  # it may boot all the same: its time is judged by what is said of it then
                await self.clock.sleep(self.timing.poll)
                continue
            if seen.phase in (Phase.GONE, Phase.FAILED):
                await self.choice.refuse(
                    instance, Transient(seen.detail or "It ended while it was starting.")
                )
                return
            waiting = seen.detail
            if seen.phase is Phase.RUNNING and seen.address is not None:
                try:
                    await self.links.get(instance.id, seen.address)
                except Untrusted as error:
                    await self.choice.refuse(instance, error)
                    return
                except GridcloudError as error:
                    seen = seen.model_copy(update={"detail": str(error)})
                    # What mends it would alarm somebody whose machine is only booting; it is told at the deadline.
                    waiting = f"It runs, and may still be starting: {error.message}"
                else:
                    await self.records.happen(
                        instance, Event.RUNNING, "It runs and answers.", address=seen.address
                    )
                    return
            if instance.deadline is not None and self.clock.now() >= instance.deadline:
                await self.choice.refuse(
                    instance,
                    TimedOut(f"It could not be reached within {self.timing.boot:g} s. {seen.detail}"),
                )
                return
            if waiting and waiting != told:
                told = waiting
                await self.records.tell(instance, "waiting", told)
            await self.clock.sleep(self.timing.poll)

    async def _ready(self, instance: Instance) -> None:
        now = self.clock.now()
        seconds = instance.request.time or self.timing.longest_life
        expires = now + timedelta(seconds=seconds) if seconds else None
        ready = await self.records.happen(
            instance,
            Event.CONFIGURED,
            "Ready" + (f" until {expires:%Y-%m-%d %H:%M:%S} UTC." if expires else "."),
            ready_at=now,
            expires=expires,
            deadline=None,
        )
        if ready is not None:
            await self.watch.arming.arm(ready.id)

    async def _destroy(self, instance: Instance) -> None:
        seconds = self.timing.before_end
        if instance.deadline is not None:
            seconds = min(seconds, max(0.0, (instance.deadline - self.clock.now()).total_seconds()))
        await say_farewell(self.records, self.links, instance, seconds, self.partings)
        await self.links.drop(instance.id)
        if instance.offer is not None:
            await self._destroy_for_sure(instance, instance.offer)
        charges = close_charges(instance.charges, self.clock.now())
        if instance.state is State.DISCARDING:
            message, changes = "Nothing is left of it there; trying the next offer.", {}
        else:
            price = describe_cost(charges, self.clock.now(), self.currency())
            message = "Nothing is left of it." + (f" It cost {price}." if price else "")
            changes = self._ended(instance, {})
        await self.records.happen(
            instance, Event.REMOVED, message, handle=None, address=None, charges=charges, **changes
        )

    async def _destroy_for_sure(self, instance: Instance, offer: Offer) -> None:
        attempt = 0
        while True:
            try:
                driver = await self.providers.holder(offer.provider)
                async with asyncio.timeout(self.timing.create):
                    await driver.destroy(instance.id, instance.handle)
                return
            except (GridcloudError, TimeoutError) as error:
                attempt += 1
                pause = self._pause(attempt)
                if attempt in (1, 5) or attempt % 20 == 0:
                    why = unnamed(offer.provider, error).rstrip(".") or "no answer"
                    text = f"Could not remove it from {offer.provider} yet ({why}); trying again."
                    await self.records.tell(instance, "retrying", text)
                await self.clock.sleep(pause)

    def _pause(self, attempt: int) -> float:
        limit: float = min(self.timing.longest_pause, self.timing.first_pause * 2.0 ** min(attempt - 1, 16))
        return limit * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, guards nothing

    def _ended(self, instance: Instance, changes: dict[str, Any]) -> dict[str, Any]:
        if instance.state in (State.REQUESTED, State.STOPPING, State.FAILING):
            return {**changes, "ended_at": self.clock.now()}
        return changes

    async def _lose(self, instance: Instance, detail: str) -> None:
        lost = await self.records.happen(instance, Event.GONE, detail, reason=Reason.LOST, detail=detail)
        if lost is not None:
            self._carry(instance.id)

    async def _configure_duty(self, instance: Instance) -> None:
        if not instance.configure:
            await self._ready(instance)
            return
        try:
            await configure_machine(self.records, self.links, self._configure, instance)
        except Transient as error:
            await self.choice.refuse(instance, error)
        except Rejected as error:
            await self.records.happen(
                instance,
                Event.BROKEN,
                str(error),
                {"error": error.problem()},
                reason=Reason.CONFIGURATION,
                detail=str(error),
            )
        else:
            await self._ready(instance)


_ENDINGS = {
    Reason.ASKED: "Stopped as asked.",
    Reason.CANCELLED: "Cancelled before it was ready.",
    Reason.EXPIRED: "Its time is over.",
    Reason.IDLE: "It was not used.",
    Reason.BUDGET: "Its budget is used up.",
}
