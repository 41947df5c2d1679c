"""Budgets, what they pay for, and how they stand: frozen records. Money in the configured currency, times in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.budgets.periods import Period, Span
from gridcloud.instances.model import FINAL, Charge, Instance, State
from gridcloud.settings.budgets import ANYBODY, BudgetSettings
from gridcloud.store import Record

__all__ = [
    "KINDS",
    "LASTING",
    "Account",
    "Ask",
    "Budget",
    "Entry",
    "Figures",
    "People",
    "Pot",
    "Running",
    "Standing",
    "Usage",
    "read_budgets",
]


LASTING = frozenset({State.CREATING, State.STARTING, State.CONFIGURING, State.READY, "scaling"})
"""States of what has machines that go on: of instances, and, by the same words and one more, of clusters."""

KINDS = ("instance", "cluster")
"""Kinds of records that have charges."""


@dataclass(frozen=True, slots=True)
class Figures:
    """An amount of money and of GPU-hours."""

    money: Decimal = Decimal(0)
    gpu_hours: Decimal = Decimal(0)

    def __add__(self, other: Figures) -> Figures:
        return Figures(self.money + other.money, self.gpu_hours + other.gpu_hours)


@dataclass(frozen=True, slots=True)
class People:
    """Who is an administrator, and who belongs to which groups, as far as they are more than a name."""

    administrators: frozenset[str] = frozenset()
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The groups of each user."""
    courses: Mapping[str, str] = field(default_factory=dict)
    """The project of each course, by the owner of what is kept ready for it: they may charge it."""

    def groups_of(self, user: str) -> frozenset[str]:
        """Return the groups that a user belongs to."""
        return self.groups.get(user, frozenset())


@dataclass(frozen=True, slots=True)
class Account:
    """What the ledger knows of an instance, or of a cluster."""

    id: str
    owner: str
    name: str
    project: str
    charges: tuple[Charge, ...]
    live: bool
    lasts: bool
    """Whether it has a machine that is not on its way out."""
    time: int
    """Seconds it was asked for; 0: no end."""
    expires: datetime | None
    version: int = 0
    """That of the record: what is older is not taken up."""

    @classmethod
    def of(cls, instance: Instance) -> Account:
        """Return the account of an instance as it is now."""
        return cls(
            instance.id,
            instance.owner,
            instance.name,
            instance.request.project,
            instance.charges,
            instance.state not in FINAL,
            instance.state in LASTING,
            instance.request.time,
            instance.expires,
            instance.version,
        )

    @classmethod
    def read(cls, record: Record) -> Account:
        """Return the account of a record of any of `KINDS`: many are read when a service begins."""
        body = record.body
        request = body.get("request", {})
        expires = body.get("expires")
        return cls(
            record.id,
            record.owner,
            body.get("name", ""),
            request.get("project", ""),
            tuple(Charge.model_validate(one) for one in body.get("charges", ())),
            record.state not in FINAL,
            record.state in LASTING,
            request.get("time", 0),
            datetime.fromisoformat(expires) if expires else None,
            record.version,
        )


@dataclass(frozen=True, slots=True)
class Ask:
    """What a start would take."""

    owner: str
    project: str
    price: Decimal
    """Per hour."""
    priced: bool
    gpus: int
    seconds: int
    """How long it is asked for; 0: no end."""
    remedy: str = ""
    """What whoever asks may do instead; empty: ask for less time."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much somebody may spend in a period. See `gridcloud.settings.BudgetSettings` for each field."""

    name: str
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    project: str = ""
    each: bool = False
    money: Decimal | None = None
    gpu_hours: Decimal | None = None
    period: Period = field(default_factory=Period)
    warn_at: float = 0.8
    grace: int = 600
    exempt_administrators: bool = False

    @property
    def is_default(self) -> bool:
        """Whether it is what everybody has who has no budget of their own."""
        return self.each and not self.names_somebody

    @property
    def names_somebody(self) -> bool:
        """Whether it is for certain users, groups or a project, not for all."""
        return bool(self.users or self.groups or self.project)

    def has_member(self, user: str, people: People) -> bool:
        """Whether a user is one of those it names."""
        return user in self.users or ANYBODY in self.users or bool(self.groups & people.groups_of(user))


@dataclass(frozen=True, slots=True)
class Pot:
    """A budget, or one user's part of a budget that each has: what is counted against one limit."""

    budget: Budget
    user: str = ""

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.budget.name} of {self.user}" if self.user else self.budget.name


@dataclass(frozen=True, slots=True)
class Running:
    """An instance that has a machine now, and what it takes per hour."""

    id: str
    rate: Figures
    priced: bool = True


@dataclass(frozen=True, slots=True)
class Usage:
    """What was taken of a pot, and what is promised to what runs."""

    spent: Figures = Figures()
    running: Figures = Figures()
    """What running ones will take until they end, or until the period does."""
    live: tuple[Running, ...] = ()
    """What it pays for now."""
    unpriced: int = 0
    """How many machines have no known price: they are not in the money."""

    @property
    def committed(self) -> Figures:
        """What is spent or promised."""
        return self.spent + self.running


class Entry(BaseModel):
    """One line of the ledger: one machine that was asked of a provider, within the span that was asked about."""

    model_config = ConfigDict(frozen=True)

    instance: str
    name: str = ""
    owner: str
    project: str = ""
    provider: str
    shape: str = ""
    since: datetime
    until: datetime | None = Field(default=None, description="None: it still costs")
    hours: Decimal
    price: Decimal | None = Field(default=None, description="per hour; None: not known")
    money: Decimal | None = Field(default=None, description="None: not known")
    gpus: int = 0
    gpu_hours: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a pot stands in its period."""

    pot: Pot
    span: Span
    usage: Usage


def read_budgets(entries: Mapping[str, BudgetSettings]) -> list[Budget]:
    """Return the configured budgets."""
    return [
        Budget(
            name,
            frozenset(one.user),
            frozenset(one.group),
            one.project,
            one.each,
            one.money,
            one.gpu_hours,
            Period(one.period, one.time_zone),
            one.warn_at,
            one.grace,
            one.exempt_administrators,
        )
        for name, one in entries.items()
    ]
