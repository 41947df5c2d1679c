"""``gridcloud grid {ledger,report}``: what institutions gave each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import error_console, print_table
from gridcloud.errors import InvalidRequest

if TYPE_CHECKING:
    from gridcloud.grid.reports import Hours, Line, Record, Report, Sums

__all__ = ["VERBS", "ledger", "report"]

Since = Annotated[
    str, typer.Option("--from", metavar="MONTH", help="From this month on, e.g. 2026-03 (UTC).")
]
Until = Annotated[str, typer.Option("--until", metavar="MONTH", help="Up to this month, which is included.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Comma-separated values, for a spreadsheet.")]


@framed
async def ledger(
    frame: Frame,
    since: Since = "",
    until: Until = "",
    partner: Annotated[
        str, typer.Option("--with", metavar="MEMBER", help="With this institution only.")
    ] = "",
    as_csv: AsCsv = False,
) -> None:
    """List what was lent and borrowed, lease by lease, and what the other side says to it."""
    async with await frame.connect() as client:
        found = await client.grid.ledger(since=since, until=until, partner=partner)
        standing = (await client.grid.status()).standing
    if frame.json:
        frame.show({"records": [one.model_dump(mode="json") for one in found]})
    elif as_csv:
        from gridcloud.grid.reports import RECORD_COLUMNS, record_cells, write_csv

        print(write_csv(RECORD_COLUMNS, map(record_cells, found)), end="")
    else:
        _print_records(found, standing.institution if standing else "")


@framed
async def report(
    frame: Frame,
    since: Since = "",
    until: Until = "",
    as_csv: AsCsv = False,
    ods: Annotated[
        Path | None, typer.Option("--ods", metavar="FILE", help="Write it as an OpenDocument spreadsheet.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="FOLDER", help="Draw months.svg and partners.svg there.")
    ] = None,
) -> None:
    """Sum up what was given and taken, by month and partner: agreed, disputed, and not answered yet."""
    async with await frame.connect() as client:
        found = await client.grid.report(since=since, until=until)
        records = await client.grid.ledger(since=since, until=until) if ods is not None else []
    tell = error_console().print
    if ods is not None:
        _write_ods(ods, found, records)
        tell(f"Written: {ods}")
    if plots is not None:
        for path in _draw(plots, found):
            tell(f"Written: {path}")
    if frame.json:
        frame.show(found)
    elif as_csv:
        from gridcloud.grid.reports import COLUMNS, report_cells, write_csv

        print(write_csv(COLUMNS, [row for line in found.lines for row in report_cells(line)]), end="")
    elif ods is None and plots is None:
        _print_report(found)


VERBS: dict[str, Callable[..., Any]] = {"ledger": ledger, "report": report}


def _print_report(found: Report) -> None:
    rows: list[tuple[object, ...]] = []
    faint: list[int] = []
    for line in found.lines:
        for number, (standing, sums) in enumerate(_standings(line)):
            if standing != "agreed":
                faint.append(len(rows))
            place = ("", "", "") if number else (line.month, line.name, line.institution)
            rows.append((*place, standing, *_amounts(sums.given), *_amounts(sums.taken)))
    headings = ("MONTH", "PARTNER", "ID", "STANDING")
    amounts = ("CPU-HOURS", "GPU", "GB")
    print_table(
        (*headings, *(f"{way} {one}" for way in ("GIVEN", "TAKEN") for one in amounts)),
        rows,
        dim=faint,
        whole=["ID"],
    )
    given, taken = found.total.agreed.given, found.total.agreed.taken
    print(f"\nAgreed in all: given {_words(given)}; taken {_words(taken)}.")
    for name, sums in _standings(found.total)[1:]:
        print(f"{name.capitalize()}: {sums.entries} entries, which count for nobody.")
    names = {line.institution: line.name for line in found.partners}
    if found.favours:
        print()
        ordered = sorted(found.favours.items(), key=lambda one: (-one[1], one[0]))
        print_table(
            ("WE OWE (CORE-HOURS)", "TO", "ID"),
            [(f"{favour:,.1f}", names.get(who, ""), who) for who, favour in ordered],
        )


def _print_records(found: Sequence[Record], own: str) -> None:
    rows = [
        (
            f"{one.began:%Y-%m-%d %H:%M}",
            f"{one.ended:%Y-%m-%d %H:%M}",
            "given to" if one.lender == own else "taken from",
            (one.borrower_name or one.borrower) if one.lender == own else (one.lender_name or one.lender),
            one.user,
            *_amounts(one.amount),
            f"{one.standing}: {one.dispute}" if one.dispute else one.standing.value,
            one.lease,
        )
        for one in found
    ]
    headings = (
        "FROM (UTC)",
        "UNTIL",
        "",
        "INSTITUTION",
        "USER",
        "CPU-HOURS",
        "GPU",
        "GB",
        "STANDING",
        "LEASE",
    )
    print_table(headings, rows, whole=["LEASE"])


def _standings(line: Line) -> list[tuple[str, Sums]]:
    """Return the sums that have entries, what is agreed always and first."""
    return [
        (standing.value, sums)
        for standing, sums in line.by_standing().items()
        if sums.entries or standing.value == "agreed"
    ]


def _amounts(hours: Hours) -> tuple[str, str, str]:
    cpu, gpu, gb = (f"{part:,.2f}" if part else "" for part in hours.parts())
    return cpu, gpu, gb


def _words(hours: Hours) -> str:
    units = ("CPU-hours", "GPU-hours", "GB-hours")
    parts = [f"{part:,.2f} {unit}" for part, unit in zip(hours.parts(), units, strict=True) if part]
    return ", ".join(parts) or "nothing"


def _write_ods(path: Path, found: Report, records: Sequence[Record]) -> None:
    from gridcloud.grid.reports import COLUMNS, RECORD_COLUMNS, record_cells, report_cells
    from gridcloud.grid.spreadsheets import Table, write_spreadsheet

    names = {line.institution: line.name for line in found.partners}
    tables: dict[str, Table] = {
        "Months": (COLUMNS, [row for line in found.lines for row in report_cells(line)]),
        "Partners": (COLUMNS, [row for line in found.partners for row in report_cells(line)]),
        "Favours": (
            ("institution", "name", "owed_core_hours"),
            [
                (who, names.get(who, ""), Decimal(str(favour)))
                for who, favour in sorted(found.favours.items())
            ],
        ),
        "Ledger": (RECORD_COLUMNS, [record_cells(one) for one in records]),
    }
    try:
        path.write_bytes(write_spreadsheet(tables))
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}.") from None


def _draw(folder: Path, found: Report) -> list[Path]:
    from gridcloud.grid.plots import draw_report

    try:
        folder.mkdir(parents=True, exist_ok=True)
        return draw_report(found, folder)
    except OSError as error:
        raise InvalidRequest(f"{folder} cannot be written: {error.strerror}.") from None
