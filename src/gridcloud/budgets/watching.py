"""Look at all budgets every minute: warn those who use one that nears its end, then end what it pays for.

A warning is told once per period, and the end is told ``grace`` ahead: at the present rate it comes when the budget is
used up, so that it is not passed. Where it was used up without a warning (somebody lowered it), the grace is given all
the same. What was told is kept in the store, so that a restart neither repeats it nor forgets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from gridcloud.budgets.judging import describe_amount, lapsed, limits
from gridcloud.budgets.model import Account, Pot, Usage
from gridcloud.budgets.periods import Span
from gridcloud.budgets.treasury import Treasury
from gridcloud.clock import Clock
from gridcloud.errors import Conflict, GridcloudError, NotFound
from gridcloud.instances.model import Reason, State
from gridcloud.instances.runner import Runner
from gridcloud.store import Entry

__all__ = ["INTERVAL", "KIND", "Payees", "Told", "Watching", "percent"]

log = logging.getLogger(__name__)

INTERVAL = 60.0
"""Seconds between two looks."""

KIND = "budget"
"""Kind of the records of what was told."""


class Told(BaseModel):
    """What was told of a pot in one period."""

    model_config = ConfigDict(frozen=True)

    name: str
    user: str = ""
    since: datetime
    warned: datetime | None = None
    users: tuple[str, ...] = ()
    """Who was warned."""
    ending: datetime | None = None
    """When the end was announced."""
    why: str = ""
    """What was said then."""
    ended: bool = False


class Payees(Protocol):
    """Things beside instances that budgets pay for."""

    async def accounts(self) -> Sequence[Account]:
        """Return the accounts of all that have not ended."""

    async def warn(self, id: str, message: str) -> None:
        """Tell the owner of one. Raises NotFound."""

    async def end(self, id: str, message: str) -> None:
        """Have one end, for its budget is used up. Raises NotFound."""


class Watching:
    """The loop over all that the budgets pay for: instances, and ``others`` beside them."""

    def __init__(
        self, treasury: Treasury, instances: Runner, clock: Clock, others: Sequence[Payees] = ()
    ) -> None:
        self._treasury = treasury
        self._instances = instances
        self._others = others
        self._store = instances.records.store
        self._clock = clock
        self._announced: set[tuple[str, str]] = set()
        self._looking = asyncio.Lock()
        self._saving: set[str] = set()
        """Instances on which a command is run before their end."""
        self._starting: set[str] = set()
        """Instances that nobody works on yet."""

    async def run(self) -> None:
        """Look every minute, until cancelled."""
        while True:
            try:
                await self.look()
            except GridcloudError as error:
                log.warning("watching budgets: %s", error)
            except Exception:  # a fault of ours must leave no budget without anybody who looks after it
                log.exception("watching budgets failed; it is tried again")
            await self._clock.sleep(INTERVAL)

    async def look(self) -> None:
        """Warn and end what is to be warned and ended now."""
        if not self._treasury.configured:
            return
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        await self._treasury.refresh()
        live = await self._instances.records.live()
        self._saving = {instance.id for instance in live if instance.before_end}
        self._starting = {instance.id for instance in live if instance.state is not State.READY}
        for instance in live:
            # Whoever was cancelled while an instance was stored has told nobody of it.
            self._treasury.note(instance)
        for others in self._others:
            for account in await others.accounts():
                self._treasury.take(account, None)
        paying = {
            pot
            for account in self._treasury.ledger.live()
            for pot in self._treasury.paying(account.owner, account.project)
        }
        for pot in sorted(paying, key=lambda pot: (pot.budget.name, pot.user)):
            span = pot.budget.period.at(self._clock.now())
            usage = self._treasury.usage(pot, span)
            if not usage.live:
                continue
            try:
                await self._look_at(pot, span, usage)
            except GridcloudError as error:  # the others are looked at all the same
                log.warning("watching the budget %s: %s", pot.title, error)
            except Exception:  # a fault of ours at one of them, too
                log.exception("watching the budget %s failed; it is tried again", pot.title)

    async def told(self, pot: Pot, span: Span) -> Told:
        """Return what was told of a pot in a period."""
        nothing = Told(name=pot.budget.name, user=pot.user, since=span.since)
        try:
            record = await self._store.get(KIND, _key(pot))
        except NotFound:
            return nothing
        try:
            told = Told.model_validate(record.body)
        except ValidationError as error:  # written by another version
            log.warning("budget %s: what was told of it cannot be read: %s", pot.title, error)
            return nothing
        return told if told.since == span.since else nothing

    async def _look_at(self, pot: Pot, span: Span, usage: Usage) -> None:
        now = self._clock.now()
        if now < span.since:
            return
        before = told = await self.told(pot, span)
        if now >= span.until:
            concerned, why = self._lapsed(pot, now), f"The budget {pot.title} ended at {_moment(span.until)}"
            due = bool(concerned)
        else:
            # What is saved before the end costs, too.
            last = (
                self._instances.timing.before_end if any(one.id in self._saving for one in usage.live) else 0
            )
            concerned, why = self._concerned(pot, usage, pot.budget.grace + INTERVAL + last)
            due = bool(self._concerned(pot, usage, INTERVAL + last)[0])
        if (
            due
        ):  # what takes longer to start than it was to live was promised less than it costs: it has no grace
            await self._end_all(pot, [one for one in concerned if one in self._starting])
            concerned = [one for one in concerned if one not in self._starting]
        if not concerned:
            told = told.model_copy(update={"ending": None, "why": "", "ended": False})
            told = await self._warn_once(pot, span, usage, told)
        else:
            told = await self._announce(pot, concerned, told, why)
            owners = (owner for one, owner in self._owners(usage).items() if one in concerned)
            told = told.model_copy(update={"users": tuple(dict.fromkeys((*told.users, *owners)))})
            if due and told.ending and now >= told.ending + timedelta(seconds=pot.budget.grace):
                await self._end_all(pot, concerned)
                told = told.model_copy(update={"ended": True})
        if told != before:
            await self._keep(pot, told, before)

    async def _warn_once(self, pot: Pot, span: Span, usage: Usage, told: Told) -> Told:
        """Warn each who uses it when so much is used, and those who begin to later."""
        part = Decimal(str(pot.budget.warn_at))
        for limit, unit, of in limits(pot.budget, self._treasury.currency):
            if not of(usage.spent) or of(usage.spent) < limit * part:
                continue
            owners = self._owners(usage)
            fresh = sorted(set(owners.values()) - set(told.users))
            if fresh:
                message = (
                    f"{percent(of(usage.spent), limit)} of the budget {pot.title} are used: "
                    f"{describe_amount(of(usage.spent))} of {describe_amount(limit, unit)} "
                    f"until {_moment(span.until)}."
                )
                await self._warn_all([one for one, owner in owners.items() if owner in fresh], message)
            warned = told.warned or self._clock.now()
            return told.model_copy(update={"warned": warned, "users": (*told.users, *fresh)})
        return told.model_copy(update={"warned": None, "users": ()})  # it was raised meanwhile

    def _owners(self, usage: Usage) -> dict[str, str]:
        """Return whose the instances are that a pot pays for now, by id."""
        live = {one.id for one in usage.live}
        return {one.id: one.owner for one in self._treasury.ledger.live() if one.id in live}

    async def _announce(self, pot: Pot, concerned: Sequence[str], told: Told, why: str) -> Told:
        """Warn all of the end, each once."""
        if told.ending is None:
            now = self._clock.now()
            until = now + timedelta(seconds=pot.budget.grace)
            why = f"{why}: what it pays for is ended at {_moment(until)}."
            told = told.model_copy(update={"warned": told.warned or now, "ending": now, "why": why})
        fresh = [one for one in concerned if (one, told.why) not in self._announced]
        await self._warn_all(fresh, told.why)
        self._announced |= {(one, told.why) for one in fresh}
        return told

    async def _end_all(self, pot: Pot, concerned: Sequence[str]) -> None:
        message = f"The budget {pot.title} is used up."
        for id_ in concerned:
            for end in (self._end_instance, *(others.end for others in self._others)):
                with contextlib.suppress(NotFound):
                    await end(id_, message)
                    break

    async def _end_instance(self, instance_id: str, message: str) -> None:
        await self._instances.stop(instance_id, Reason.BUDGET, message)

    async def _warn_all(self, ids: Sequence[str], message: str) -> None:
        for id_ in ids:
            for warn in (self._instances.warn, *(others.warn for others in self._others)):
                with contextlib.suppress(NotFound):
                    await warn(id_, message)
                    break

    def _lapsed(self, pot: Pot, now: datetime) -> list[str]:
        """Return what runs though all that was to pay for it is over, this budget last."""
        return [
            account.id
            for account in self._treasury.ledger.live()
            if account.lasts and lapsed(self._treasury.paying(account.owner, account.project), now) == pot
        ]

    def _concerned(self, pot: Pot, usage: Usage, seconds: float) -> tuple[list[str], str]:
        """Return what takes of a limit that will be reached in so many seconds at the present rate, or is, and why."""
        for limit, unit, of in limits(pot.budget, self._treasury.currency):
            rate = sum((of(one.rate) for one in usage.live), Decimal(0))
            taking = [one.id for one in usage.live if of(one.rate)]
            if of(usage.committed) <= limit:
                continue  # whatever it pays for ends in time by itself, or its period does
            if taking and of(usage.spent) + rate * Decimal(seconds) / 3600 >= limit:
                used = f"{describe_amount(of(usage.spent))} of {describe_amount(limit, unit)}"
                return taking, f"The budget {pot.title} is nearly used up, {used}"
        return [], ""

    async def _keep(self, pot: Pot, told: Told, before: Told) -> None:
        body: dict[str, Any] = told.model_dump(mode="json")
        state = "ended" if told.ended else "ending" if told.ending else "warned" if told.warned else "open"
        story = "open" if before.ending and not told.ending else state
        text = told.why if story == "ending" else _STORIES[story].format(pot.title)
        news = told.model_copy(update={"users": before.users}) != before
        entries = [Entry(story, text, {"budget": pot.budget.name, "user": pot.user})] if news else []
        try:
            record = await self._store.get(KIND, _key(pot))
        except NotFound:
            await self._store.insert(KIND, _key(pot), pot.user, state, body, entries)
            return
        try:
            await self._store.update(record, state=state, body=body, events=entries)
        except Conflict:
            log.warning("budget %s: its record was changed meanwhile; it is told again", pot.title)


_STORIES = {
    "open": "The budget {} has room again.",
    "warned": "Those who use the budget {} were warned.",
    "ended": "What the budget {} paid for was ended.",
}


def percent(spent: Decimal, limit: Decimal) -> str:
    """Return how much of a limit is used, in whole percent, rounded down."""
    return f"{int(100 * spent / limit) if limit else 100} %"


def _key(pot: Pot) -> str:
    """Return a pot's id in the store: users' names may be longer than ids."""
    mark = hashlib.sha256(pot.user.encode()).hexdigest()[:16] if pot.user else ""
    return f"{pot.budget.name}:{mark}" if mark else pot.budget.name


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
