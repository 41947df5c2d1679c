"""Budgets as they are configured: who may spend how much in which period."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gridcloud.settings.document import Document
from gridcloud.settings.values import Duration

__all__ = [
    "ANYBODY",
    "BUDGET_NAME",
    "PERIODS",
    "BudgetSettings",
    "TimeZone",
    "Words",
    "name_budgets",
    "parse_term",
]

BUDGET_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"

PERIODS = ("day", "week", "month", "quarter", "year")
"""Those that begin anew; weeks on Mondays."""

FIRST_YEAR, LAST_YEAR = 1970, 9000
"""Of terms: what any time zone can still reckon with."""

ANYBODY = "*"
"""Stands for every user where a project says who may charge it."""


def parse_term(text: str) -> tuple[date, date] | None:
    """Return the first and the last day of ``2026-09-01..2027-01-31``, None for the name of a period.

    Raises ValueError for anything else.
    """
    if text in PERIODS:
        return None
    match = re.fullmatch(r"\s*(\d{4}-\d\d-\d\d)\s*\.\.\s*(\d{4}-\d\d-\d\d)\s*", text)
    if not match:
        raise ValueError(
            f"{text!r} is no period; write {', '.join(PERIODS)}, or the first and last day of a term such as "
            "2026-09-01..2027-01-31"
        )
    first, last = (date.fromisoformat(part) for part in match.groups())
    if first.year < FIRST_YEAR or last.year > LAST_YEAR:
        raise ValueError(f"the term {text!r} is not between the years {FIRST_YEAR} and {LAST_YEAR}")
    if last < first:
        raise ValueError(f"the term {text!r} ends before it begins")
    return first, last


def _is_period(text: str) -> str:
    parse_term(text)
    return text


def _is_zone(text: str) -> str:
    try:
        if text != "UTC":  # which needs no table of zones
            ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{text!r} is no time zone such as Europe/Oslo or UTC") from None
    return text


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Word = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[tuple[Word, ...], BeforeValidator(_as_list)]
TimeZone = Annotated[str, AfterValidator(_is_zone)]


class BudgetSettings(BaseModel):
    """How much somebody may spend. One that names no user, group or project is for all together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: Words = Field(
        default=(),
        description="users that it is for, one or a list; of a project: who may charge it, * anybody",
    )
    group: Words = Field(
        default=(), description="groups that it is for, one or a list; of a project: who may charge it"
    )
    project: str = Field(
        default="", max_length=200, description="project that it is for: what requests with --project charge"
    )
    each: bool = Field(
        default=False,
        description="every user has this much of their own; naming nobody, it is the default of all without one",
    )
    money: Decimal | None = Field(
        default=None, ge=0, le=10**12, description="money per period, in the currency set"
    )
    gpu_hours: Decimal | None = Field(
        default=None, ge=0, le=10**12, description="GPU-hours per period: two GPUs for an hour are two"
    )
    period: Annotated[str, AfterValidator(_is_period)] = Field(
        default="month",
        description="day, week, month, quarter or year; or a term: its first and last day, 2026-09-01..2027-01-31",
    )
    time_zone: TimeZone = Field(
        default="UTC", description="time zone in which periods begin at midnight, e.g. Europe/Oslo"
    )
    warn_at: float = Field(
        default=0.8, gt=0, le=1, description="part of it at whose use those who use it are warned"
    )
    grace: Duration = Field(
        default=600, description="time between the last warning and the end of what it pays for"
    )
    exempt_administrators: bool = Field(
        default=False, description="administrators neither count against it nor are held to it"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.money is None and self.gpu_hours is None:
            raise ValueError("a budget needs money, gpu_hours or both")
        if self.project and not self.user and not self.group:
            raise ValueError(
                "a project's budget names who may charge it: user or group, 'user: \"*\"' for anybody"
            )
        if not self.project and ANYBODY in self.user:
            raise ValueError("'*' is for projects; a budget for all names nobody, with 'each: true' for each")
        return self


def name_budgets(document: Document) -> None:
    """Turn a list of budgets into a mapping by name; one without a name takes that of whom it is for."""
    entries = document.values.get("budgets")
    if not isinstance(entries, list):
        return
    named: dict[str, Any] = {}
    for number, entry in enumerate(entries):
        key = ("budgets", number)
        if not isinstance(entry, dict):
            document.fault(key, "expected keys with values, such as 'user: ada' and 'money: 100'")
            continue
        rest = {name: value for name, value in entry.items() if name != "name"}
        name = entry.get("name") or _whose(rest)
        if not isinstance(name, str) or not re.fullmatch(BUDGET_NAME, name):
            document.fault(
                key, "give it a name: 1 to 63 of a-z, 0-9, '.', '_' and '-', a letter or digit first"
            )
        elif name in named:
            document.fault(key, f"there are two budgets {name!r}; give each a name of its own")
        else:
            named[name] = rest
            document.places |= {
                ("budgets", name, *place[2:]): where
                for place, where in document.places.items()
                if place[:2] == key and len(place) > 2
            }
            document.places["budgets", name] = next(
                (document.places[(*key, first)] for first in entry if (*key, first) in document.places),
                document.place(key),
            )
    document.values["budgets"] = named


def _whose(entry: dict[str, Any]) -> Any:
    for field in ("project", "group", "user"):
        value = entry.get(field)
        if value:
            return value[0] if isinstance(value, list) else value
    return "everyone" if entry.get("each") else "all"
