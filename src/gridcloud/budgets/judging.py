"""Which budgets pay for something, and whether one more start would pass any of them: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from gridcloud.budgets.model import Ask, Budget, Figures, People, Pot, Usage
from gridcloud.budgets.periods import Span

__all__ = ["SHORTEST", "describe_amount", "expected", "lapsed", "limits", "may_charge", "pots_of", "refusal"]

SHORTEST = 3600
"""Seconds that one without a time limit is taken to last at least, however near its period's end is."""

HOUR = Decimal(3_600_000_000)
"""Microseconds."""


def pots_of(budgets: Iterable[Budget], owner: str, project: str, people: People) -> list[Pot]:
    """Return what pays for an owner's instance that is charged to a project; to no project when it is empty.

    A project that has a budget pays in place of the user's and the groups' own. One that has none is only a word.
    A budget that names nobody counts everything, unless each has it: then it is for those whom no other names by user.
    """
    listed = list(budgets)
    of_project = bool(project) and any(budget.project == project for budget in listed)
    personal = any(owner in budget.users for budget in listed if not budget.project)
    found = []
    for budget in listed:
        if budget.exempt_administrators and owner in people.administrators:
            continue
        if budget.project:
            concerned = of_project and budget.project == project
        elif budget.users or budget.groups:
            concerned = not of_project and budget.has_member(owner, people)
        else:
            concerned = not budget.each or (not of_project and not personal)
        if concerned:
            found.append(Pot(budget, owner if budget.each else ""))
    return found


def may_charge(budgets: Iterable[Budget], owner: str, project: str, people: People) -> str:
    """Return why a user may not charge a project; an empty text where they may, or where no project has a budget."""
    of_projects = [budget for budget in budgets if budget.project]
    if not project or not of_projects or people.courses.get(owner) == project:
        return ""
    if any(budget.project == project and budget.has_member(owner, people) for budget in of_projects):
        return ""
    theirs = sorted({budget.project for budget in of_projects if budget.has_member(owner, people)})
    known = "they may charge none; leave --project out, or have an administrator name them in its budget"
    if theirs:
        known = f"they may charge {', '.join(theirs)}; name one of these, or none"
    return f"{owner} may not charge the project {project!r}: {known}"


def expected(
    now: datetime, span: Span, price: Decimal, gpus: int, seconds: int, expires: datetime | None = None
) -> Figures:
    """Return what a machine will take of a period from now on, until it ends or the period does.

    ``expires`` is its end, where that is known; otherwise it lasts ``seconds`` from now. One without an end is taken
    to last until the period's, but at least `SHORTEST`.
    """
    if expires is not None:
        until = min(expires, span.until)
    elif seconds:
        until = min(now + timedelta(seconds=seconds), span.until)
    else:
        until = max(span.until, now + timedelta(seconds=SHORTEST))
    lasting = max(0, (until - max(now, span.since)) // timedelta(microseconds=1))
    return Figures(price * lasting / HOUR, Decimal(gpus * lasting) / HOUR)


def refusal(
    budgets: Sequence[Budget],
    ask: Ask,
    now: datetime,
    people: People,
    usage: Callable[[Pot, Span], Usage],
    currency: str,
) -> str:
    """Return why a start may not be, with the figures; an empty text where no budget forbids it.

    ``usage`` tells how a pot stands in a span, without what is asked for.
    """
    if why := may_charge(budgets, ask.owner, ask.project, people):
        return why
    pots = pots_of(budgets, ask.owner, ask.project, people)
    if pot := lapsed(pots, now):
        return f"The budget {pot.title} ended at {_moment(pot.budget.period.at(now).until)}"
    if pot := _to_come(pots, now):
        return f"The budget {pot.title} begins at {_moment(pot.budget.period.at(now).since)}"
    for pot in pots:
        span = pot.budget.period.at(now)
        if not span.since <= now < span.until:
            continue
        if pot.budget.money is not None and not ask.priced:
            return (
                f"Its price is not known, and the budget {pot.title} counts money: "
                "an administrator sets 'prices' or 'price' of the provider"
            )
        wanted = expected(now, span, ask.price, ask.gpus, ask.seconds)
        used = usage(pot, span)
        for limit, unit, of in limits(pot.budget, currency):
            asked, spent, promised = of(wanted), of(used.spent), of(used.running)
            if asked and spent + promised + asked > limit:
                return _words(pot, span, limit, unit, spent, promised, asked) + _remedy(ask)
    return ""


def lapsed(pots: Iterable[Pot], now: datetime) -> Pot | None:
    """Return the last of the budgets that named an owner, or those of a project, when all of them are over.

    A default and a budget for all together name nobody: when such a term is over, nobody is held to it.
    """
    for of_project in (True, False):
        named = [
            (pot, span := pot.budget.period.at(now), span.until <= now)
            for pot in pots
            if bool(pot.budget.project) is of_project and pot.budget.names_somebody
        ]
        if not any(span.since <= now < span.until for _, span, _ in named) and (
            over := [(span.until, pot) for pot, span, is_over in named if is_over]
        ):
            return max(over, key=lambda one: one[0])[1]
    return None


def limits(budget: Budget, currency: str) -> list[tuple[Decimal, str, Callable[[Figures], Decimal]]]:
    """Return each limit of a budget, its unit, and what of figures counts against it."""
    found: list[tuple[Decimal, str, Callable[[Figures], Decimal]]] = []
    if budget.money is not None:
        found.append((budget.money, currency, lambda figures: figures.money))
    if budget.gpu_hours is not None:
        found.append((budget.gpu_hours, "GPU-hours", lambda figures: figures.gpu_hours))
    return found


def describe_amount(amount: Decimal, unit: str = "") -> str:
    """Return an amount for people, with two digits after the point: ``12.50 EUR``."""
    text = f"{amount:.2f}" if not amount or abs(amount) >= Decimal("0.01") else "under 0.01"
    return f"{text} {unit}".strip()


def _to_come(pots: Iterable[Pot], now: datetime) -> Pot | None:
    """Return the first budget of a project that has none yet; a user's term to come says nothing of today."""
    spans = [(pot.budget.period.at(now), pot) for pot in pots if pot.budget.project]
    if not spans or any(span.since <= now < span.until for span, _ in spans):
        return None
    return min(spans, key=lambda one: one[0].since)[1]


def _words(
    pot: Pot, span: Span, limit: Decimal, unit: str, spent: Decimal, promised: Decimal, asked: Decimal
) -> str:
    return (
        f"The budget {pot.title} is {describe_amount(limit, unit)} until {_moment(span.until)}: "
        f"{describe_amount(spent)} spent, {describe_amount(promised)} committed to what runs, "
        f"{describe_amount(asked)} asked, {describe_amount(spent + promised + asked)} in all"
    )


def _remedy(ask: Ask) -> str:
    if ask.remedy:
        return f"; {ask.remedy}"
    return "; ask for less time" if ask.seconds else "; give it a time limit (--time)"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
