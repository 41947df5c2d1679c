"""The end of a borrowed machine as the end of its instance: its owner is warned and what is there saved before it.

A lease ends at the latest when its time is over, and by its deadline where its lender wants it back. The instance is
given an expiry before that which leaves time for what is run before an end, and a deadline by which that is given up;
whoever extends it is held to it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container
from typing import Any

from gridcloud.clock import Clock
from gridcloud.errors import Conflict, NotFound
from gridcloud.federation.borrowing import BorrowedState
from gridcloud.federation.encoding import milliseconds, moment
from gridcloud.federation.leases import Terms
from gridcloud.grid.borrowed import Borrowing
from gridcloud.instances.model import Instance, Reason, State
from gridcloud.instances.runner import Runner

__all__ = ["Ends"]

NOTICE = 2000
"""Milliseconds that it may take to notice that a time is over, and to give a machine back."""
SLACK = 1000
"""Milliseconds that an expiry may be too late before it is moved."""


class Ends:
    """Moves expiries of instances on borrowed machines."""

    def __init__(
        self,
        runner: Runner,
        clock: Clock,
        terms: Callable[[], Terms],
        name_of: Callable[[str], str],
        partners: Callable[[], Container[str]],
    ) -> None:
        """``name_of`` returns what an institution is called, ``partners`` who is a member now."""
        self._partners = partners
        self._runner = runner
        self._clock = clock
        self._terms = terms
        self._name_of = name_of

    async def see_to(self, one: Borrowing) -> None:
        """Have the instance of a lease that may be used end before the lease does."""
        try:
            instance = await self._runner.records.get(one.need)
        except NotFound:
            return
        if instance.state is not State.READY:
            return
        if instance.reclaimed and instance.expires is not None and self._clock.now() >= instance.expires:
            # Who watches all instances comes by every few seconds, of which there may be too few.
            await self._runner.stop(instance.id, Reason.EXPIRED, instance.notice)
            return
        lease = one.lease
        last = lease.began + 1000 * min(lease.accept.wish.seconds, lease.accept.offer.seconds)
        warned = lease.state is BorrowedState.WARNED
        if warned:
            last = min(last, lease.deadline)
        parted = lease.lender not in self._partners()
        if parted:  # it renews nothing any more
            last = min(last, lease.until)
        last -= self._terms().tolerance
        if instance.expires is not None and milliseconds(instance.expires) <= last + SLACK:
            return
        now = milliseconds(self._clock.now())
        expires = moment(max(now, last - self._parting(instance, last - now, urgent=warned or parted)))
        name = self._name_of(lease.lender)
        if parted:
            message = f"{name} is a partner no longer: this ends at {expires:%H:%M:%S} UTC. Save your work."
            changes: dict[str, Any] = {"notice": message, "warned": True, "reclaimed": True}
        elif warned:
            why = f" ({lease.why})" if lease.why else ""
            message = (
                f"{name} takes its machine back{why}: this ends at {expires:%H:%M:%S} UTC. Save your work."
            )
            changes = {"notice": message, "warned": True, "reclaimed": True}
        else:
            message = f"{name} lends it until {expires:%Y-%m-%d %H:%M:%S} UTC: it ends then."
            changes = {"warned": False}
        changes["deadline"] = moment(last)
        with contextlib.suppress(Conflict):  # somebody changed it meanwhile: it is looked at again
            await self._runner.records.save(
                instance, "reclaimed" if warned or parted else "bounded", message, expires=expires, **changes
            )

    def _parting(self, instance: Instance, left: int, *, urgent: bool) -> int:
        """Return how many of the milliseconds that are left the end of an instance takes: those that its command before
        the end may take, and some to notice that its time is over.

        Where that is all there is, a command that is cut off saves nothing, and who was warned has the rest.
        """
        wanted = NOTICE + round(1000 * self._runner.timing.before_end if instance.before_end else 0)
        return min(wanted, max(0, left) * 2 // 3 if urgent else max(0, left) // 3)
