"""A lender's rules as a whole: its policy, limits per institution and group, and room that is kept for its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import Field

from gridcloud.federation.model import Document, Title
from gridcloud.federation.policy import Policy, Question
from gridcloud.federation.wishes import NOTHING, Capacity, Wish

__all__ = ["Held", "Limit", "Rules", "judge"]


class Limit(Document):
    """The most that is lent at one time; what is not given is not limited."""

    institution: Title = ""
    """Whom it is for; empty: every institution, each by itself."""
    group: Title = ""
    """The group of the borrower's users that it counts; empty: all of them."""
    millicores: int | None = Field(default=None, ge=0)
    memory: int | None = Field(default=None, ge=0)
    """MiB."""
    gpus: int | None = Field(default=None, ge=0)
    leases: int | None = Field(default=None, ge=0)
    seconds: int | None = Field(default=None, gt=0)
    """The longest lease."""

    def counts(self, institution: str, wish: Wish) -> bool:
        """Whether a wish of an institution falls under it."""
        return self.institution in ("", institution) and (not self.group or self.group in wish.groups)


class Held(NamedTuple):
    """What an institution has of the lender now."""

    institution: str
    wish: Wish
    capacity: Capacity
    """Of its machine: who wishes for nearly nothing would else have any number of the smallest that there are."""


@dataclass(frozen=True, slots=True)
class Rules:
    """All that decides what a lender gives."""

    policy: Policy
    limits: tuple[Limit, ...] = ()
    reserve: Capacity = NOTHING
    """Kept free: the lender's own users come first."""


def judge(rules: Rules, asked: Question, lent: Iterable[Held], free: Capacity, capacity: Capacity) -> str:
    """Return why a machine is refused, or an empty text where it is granted.

    ``lent`` is what is lent now; ``free`` is what neither own users nor leases hold; ``capacity`` is what the machine
    has: the policy decides on what was wished, limits and room on that.
    """
    if part := rules.policy.refusal(asked):
        return f"the policy does not allow it: {part}"
    lent = tuple(lent)
    for limit in rules.limits:
        if limit.counts(asked.institution, asked.wish) and (what := _passed(limit, asked, lent, capacity)):
            return what
    if not capacity.fits(free - rules.reserve):
        return "there is no room now"
    return ""


def _passed(limit: Limit, asked: Question, lent: Iterable[Held], capacity: Capacity) -> str:
    held = [
        one
        for one in lent
        if one.institution == asked.institution and limit.counts(one.institution, one.wish)
    ]
    total = sum((one.capacity for one in held), capacity)
    whom = f"{asked.institution}, group {limit.group}" if limit.group else asked.institution
    figures = (
        ("thousandths of a core", limit.millicores, total.millicores),
        ("MiB of memory", limit.memory, total.memory),
        ("GPUs", limit.gpus, total.gpus),
        ("leases", limit.leases, len(held) + 1),
        ("seconds for one lease", limit.seconds, asked.wish.seconds),
    )
    for unit, most, wanted in figures:
        if most is not None and wanted > most:
            return f"the limit of {whom} is {most} {unit}, and with this it would be {wanted}"
    return ""
