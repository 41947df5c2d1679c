"""``gridcloud budget …``: who may spend how much, and what everything cost."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated

import typer

from gridcloud.budgets.judging import describe_amount
from gridcloud.budgets.model import Entry
from gridcloud.cli.completion import budgets
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import plain, print_table
from gridcloud.errors import InvalidRequest
from gridcloud.service.budget_documents import Budget, Budgets, Ledger

__all__ = ["app"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Who may spend how much, and what everything cost."
)

User = Annotated[str | None, typer.Option("--user", metavar="USER", help="Those of this user.")]


@app.command("list")
@framed
async def list_(frame: Frame, user: User = None) -> None:
    """List the budgets that concern you and how they stand; an administrator sees all."""
    async with await frame.connect() as client:
        found = await client.budgets(user=user)
    if frame.json:
        frame.show(found)
        return
    _print(found.budgets)


@app.command("show")
@framed
async def show(
    frame: Frame,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The budget's name.", autocompletion=budgets)],
    user: User = None,
) -> None:
    """Show how a budget stands, by provider and by instance."""
    async with await frame.connect() as client:
        found = await client.budget(name, user=user)
    if frame.json:
        frame.show(found)
        return
    for number, budget in enumerate(found.budgets):
        if number:
            print()
        _print_closely(budget, found)


@app.command("ledger")
@framed
async def ledger(
    frame: Frame,
    since: Annotated[
        str | None, typer.Option("--from", metavar="DATE", help="From this day or time on, in UTC.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="DATE", help="Up to the end of this day, or to a time, in UTC."),
    ] = None,
    user: User = None,
    project: Annotated[
        str | None, typer.Option("--project", metavar="PROJECT", help="Those charged to this project.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="NAME", help="Those of this provider.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values, for a spreadsheet.")] = False,
) -> None:
    """Show what every machine cost, refused attempts and ended instances included; an administrator sees all."""
    async with await frame.connect() as client:
        found = await client.ledger(
            since=_moment("--from", since),
            until=_moment("--until", until, after=True),
            user=user,
            project=project,
            provider=provider,
        )
    if frame.json:
        frame.show(found)
    elif as_csv:
        _write_csv(found.entries)
    else:
        _print_ledger(found)


def _print(budgets: Sequence[Budget]) -> None:
    rows: list[tuple[object, ...]] = []
    over: list[int] = []
    for budget in budgets:
        for number, limit in enumerate(budget.limits):
            if not budget.current:
                over.append(len(rows))
            rows.append(
                (
                    budget.name if not number else "",
                    budget.whose if not number else "",
                    budget.period if not number else "",
                    describe_amount(limit.limit, limit.unit),
                    describe_amount(limit.spent),
                    describe_amount(limit.running),
                    describe_amount(limit.left),
                    f"{limit.percent:.0f} %",
                    _state(budget) if not number else "",
                )
            )
    headings = ("NAME", "WHOSE", "PERIOD", "LIMIT", "SPENT", "COMMITTED", "LEFT", "USED", "")
    print_table(headings, rows, dim=over)


def _print_closely(budget: Budget, found: Budgets) -> None:
    print(plain(f"{budget.name}: {budget.whose}"))
    print(f"  period     {budget.period}, {budget.since:%Y-%m-%d %H:%M} to {budget.until:%Y-%m-%d %H:%M} UTC")
    for limit in budget.limits:
        print(f"  limit      {describe_amount(limit.limit, limit.unit)}")
        print(f"  spent      {describe_amount(limit.spent, limit.unit)}, {limit.percent:.1f} %")
        print(f"  committed  {describe_amount(limit.running, limit.unit)} to {budget.running} running")
        print(f"  left       {describe_amount(limit.left, limit.unit)}")
    if state := _state(budget):
        print(f"  state      {state}")
    if budget.providers:
        print()
        rows = [
            (part.provider, describe_amount(part.money, found.currency), describe_amount(part.gpu_hours))
            for part in budget.providers
        ]
        print_table(("PROVIDER", "MONEY", "GPU-HOURS"), rows)
    if budget.instances:
        print()
        _print_entries(budget.instances)


def _print_ledger(found: Ledger) -> None:
    _print_entries(found.entries)
    total = f"{describe_amount(found.money, found.currency)}, {describe_amount(found.gpu_hours)} GPU-hours"
    unknown = f", and {found.unpriced} without a known price" if found.unpriced else ""
    print(f"\nIn all {total}{unknown}.")


def _print_entries(entries: Sequence[Entry]) -> None:
    rows = [
        (
            f"{entry.since:%Y-%m-%d %H:%M}",
            entry.instance,
            entry.owner,
            entry.project,
            entry.provider,
            entry.shape,
            describe_amount(entry.hours),
            "?" if entry.price is None else f"{entry.price.normalize():f}",
            "?" if entry.money is None else describe_amount(entry.money),
            describe_amount(entry.gpu_hours),
            "running" if entry.until is None else "",
        )
        for entry in entries
    ]
    headings = ("SINCE", "INSTANCE", "OWNER", "PROJECT", "PROVIDER", "SHAPE", "HOURS", "PER HOUR", "MONEY")
    print_table((*headings, "GPU-HOURS", ""), rows)


def _write_csv(entries: Sequence[Entry]) -> None:
    columns = list(Entry.model_fields)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for entry in entries:
        writer.writerow([_cell(getattr(entry, column)) for column in columns])


def _cell(value: object) -> str:
    """Return a value for a spreadsheet, in which no stranger's text becomes a formula."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    if isinstance(value, Decimal):
        return f"{value:f}"
    text = plain(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _state(budget: Budget) -> str:
    if not budget.current:
        return "not now"
    if budget.ending is not None:
        return f"ending since {budget.ending:%Y-%m-%d %H:%M} UTC"
    unpriced = f"{budget.unpriced} without a known price" if budget.unpriced else ""
    return ", ".join(filter(None, ["warned" if budget.warned else "", unpriced]))


def _moment(option: str, text: str | None, *, after: bool = False) -> datetime | None:
    """Return the moment that an option means; a day is its beginning, or its end with ``after``."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"{option}: {text!r} is no date.", remedy="Write 2026-09-30 or 2026-09-30T12:00Z."
        ) from None
    if after and len(text) <= len("2026-09-30"):
        moment += timedelta(days=1)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
