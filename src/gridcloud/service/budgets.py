"""Budgets and the ledger over HTTP: those that concern oneself, or all for an administrator."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Query

from gridcloud.budgets.judging import limits
from gridcloud.budgets.model import Entry, Standing
from gridcloud.errors import Forbidden, InvalidRequest, NotFound
from gridcloud.service.access import Asking, Caller, TheHouse
from gridcloud.service.budget_documents import Budget, Budgets, Ledger, Limit, Part

__all__ = ["router"]

router = APIRouter(tags=["budgets"])


@router.get("/budgets")
async def find(caller: Asking, house: TheHouse, user: str | None = None) -> Budgets:
    """List how budgets stand: those that concern oneself, or all, or those of a user for an administrator."""
    whose = _whose_to_see(caller, user)
    found = await house.treasury.standings(whose)
    return Budgets(
        budgets=[await _describe(house, caller, one) for one in found], currency=house.treasury.currency
    )


@router.get("/budgets/{name}")
async def show(name: str, caller: Asking, house: TheHouse, user: str | None = None) -> Budgets:
    """Return how one budget stands; one's own part of it by provider and by instance, for an administrator
    everybody's; of one that each has, every user's part."""
    whose = _whose_to_see(caller, user)
    found = [one for one in await house.treasury.standings(whose) if one.pot.budget.name == name]
    if not found:
        raise NotFound(f"There is no budget {name!r}.", remedy="See 'gridcloud budget list'.")
    return Budgets(
        budgets=[await _describe(house, caller, one, closely=True) for one in found],
        currency=house.treasury.currency,
    )


@router.get("/ledger")
async def ledger(
    caller: Asking,
    house: TheHouse,
    since: Annotated[datetime | None, Query()] = None,
    until: Annotated[datetime | None, Query()] = None,
    user: str | None = None,
    project: str | None = None,
    provider: str | None = None,
) -> Ledger:
    """Return what every machine cost within a span: one's own, or everybody's for an administrator."""
    for moment in (since, until):
        if moment is not None and moment.tzinfo is None:
            raise InvalidRequest("A time needs its zone, as in 2026-01-31T12:00:00Z.")
    whose = _whose_to_see(caller, user)

    def wanted(owner: str, charged: str) -> bool:
        return whose in (None, owner) and project in (None, charged)

    await house.treasury.refresh()
    entries = [
        entry
        for entry in house.treasury.ledger.entries(house.clock.now(), since, until, wanted)
        if provider in (None, entry.provider)
    ]
    return Ledger(
        entries=[_rounded(entry) for entry in entries],
        money=_round(sum((entry.money or Decimal(0) for entry in entries), Decimal(0))),
        gpu_hours=_round(sum((entry.gpu_hours for entry in entries), Decimal(0))),
        unpriced=sum(entry.money is None for entry in entries),
        currency=house.treasury.currency,
    )


def _whose_to_see(caller: Caller, user: str | None) -> str | None:
    """Return whose budgets may be seen, None for everybody's. Raises Forbidden."""
    if caller.admin:
        return user
    if user not in (None, caller.user):
        raise Forbidden(f"{caller.user} may not see what {user} spends.", remedy="Ask an administrator.")
    return caller.user


async def _describe(house: TheHouse, caller: Caller, standing: Standing, *, closely: bool = False) -> Budget:
    pot, span, usage = standing.pot, standing.span, standing.usage
    budget, now = pot.budget, house.clock.now()
    told = await house.budgets.told(pot, span)
    document = Budget(
        name=budget.name,
        user=pot.user,
        whose=_whose(standing, caller),
        project=budget.project,
        period=budget.period.text,
        time_zone=budget.period.zone,
        since=span.since,
        until=span.until,
        current=span.since <= now < span.until,
        limits=[
            Limit(
                unit=unit,
                limit=limit,
                spent=_round(of(usage.spent)),
                running=_round(of(usage.running)),
                left=_round(limit - of(usage.committed)),
                percent=round(float(100 * of(usage.spent) / limit), 2) if limit else 100.0,
            )
            for limit, unit, of in limits(budget, house.treasury.currency)
        ],
        running=len(usage.live),
        unpriced=usage.unpriced,
        warned=told.warned,
        ending=told.ending,
    )
    if closely:
        entries = list(
            house.treasury.ledger.entries(
                now,
                span.since,
                span.until,
                lambda owner, project: house.treasury.pays(pot, owner, project),
            )
        )
        seen = [entry for entry in entries if caller.admin or entry.owner == caller.user]
        document.providers = _by_provider(seen)
        document.instances = [_rounded(entry) for entry in seen]
    return document


def _whose(standing: Standing, caller: Caller) -> str:
    """Return for whom a budget is, in words; whom else it names is for administrators."""
    budget, user = standing.pot.budget, standing.pot.user
    if budget.project:
        words = f"project {budget.project}"
    elif budget.users or budget.groups:
        users = sorted(budget.users)
        if not caller.admin and set(users) - {caller.user}:
            users = [f"{len(users)} users"]
        words = ", ".join([*users, *(f"group {group}" for group in sorted(budget.groups))])
    else:
        words = "everybody"
    if budget.each and not user:
        return f"each of {words}"
    return f"{user} of {words}" if user and words != user else words


def _by_provider(entries: list[Entry]) -> list[Part]:
    parts: dict[str, Part] = {}
    for entry in entries:
        part = parts.setdefault(
            entry.provider, Part(provider=entry.provider, money=Decimal(0), gpu_hours=Decimal(0))
        )
        part.money += entry.money or Decimal(0)
        part.gpu_hours += entry.gpu_hours
    for part in parts.values():
        part.money, part.gpu_hours = _round(part.money), _round(part.gpu_hours)
    return sorted(parts.values(), key=lambda part: (-part.money, -part.gpu_hours, part.provider))


def _rounded(entry: Entry) -> Entry:
    return entry.model_copy(
        update={
            "hours": _round(entry.hours),
            "money": None if entry.money is None else _round(entry.money),
            "gpu_hours": _round(entry.gpu_hours),
        }
    )


def _round(amount: Decimal) -> Decimal:
    """Return it with six digits after the point at most."""
    rounded = Decimal(f"{amount:.6f}")
    return rounded.to_integral() if rounded == rounded.to_integral() else Decimal(f"{rounded:f}".rstrip("0"))
