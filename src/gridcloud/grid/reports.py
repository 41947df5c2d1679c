"""What was given to and taken from other institutions, month by month: for people, scripts and spreadsheets.

Sums are exact until they are shown: hours are then rounded to six digits. Months are those of UTC. What both sides
sealed is agreed; what the borrower disputes or has not answered stands beside it and counts for nobody.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.errors import InvalidRequest
from gridcloud.federation.encoding import moment
from gridcloud.federation.favour import Weights, count_favours
from gridcloud.federation.ledger import Amount, Entry, Standing, Total

__all__ = [
    "COLUMNS",
    "RECORD_COLUMNS",
    "Cell",
    "Hours",
    "Line",
    "Record",
    "Report",
    "Sums",
    "check_month",
    "find_records",
    "make_report",
    "record_cells",
    "report_cells",
    "write_csv",
]

Cell: TypeAlias = str | int | Decimal
"""What stands in a cell of a table."""

DIGITS = Decimal("0.000001")
AMOUNTS = ("cpu_hours", "gpu_hours", "gb_hours")
COLUMNS = (
    *("month", "institution", "name", "standing", "entries"),
    *(f"{way}_{amount}" for way in ("given", "taken") for amount in AMOUNTS),
)
"""Of a report as a table: one row for each month, partner and standing."""
RECORD_COLUMNS = (
    *("lease", "part", "lender", "lender_name", "borrower", "borrower_name", "user", "began", "ended"),
    *(*AMOUNTS, "price", "standing", "dispute"),
)

_FORMULA = frozenset("=+-@|%\uff1d\uff0b\uff0d\uff20")
"""What a formula or a command begins with in some spreadsheet, the wide forms of East Asia too."""

_RANK = {Standing.AGREED: 0, Standing.DISPUTED: 1, Standing.OPEN: 2}


class _Shown(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Hours(_Shown):
    """An amount of computing."""

    cpu_hours: Decimal = Decimal(0)
    gpu_hours: Decimal = Decimal(0)
    gb_hours: Decimal = Field(default=Decimal(0), description="of memory; a GB is 10^9 bytes")

    @classmethod
    def of(cls, amount: Amount) -> Hours:
        """Return an exact amount, rounded."""
        cpu, gpu, memory = (hours.quantize(DIGITS) for hours in amount.hours())
        return cls(cpu_hours=cpu, gpu_hours=gpu, gb_hours=memory)

    def parts(self) -> tuple[Decimal, Decimal, Decimal]:
        """Return CPU-, GPU- and GB-hours."""
        return self.cpu_hours, self.gpu_hours, self.gb_hours


class Sums(_Shown):
    """What was given and taken."""

    given: Hours = Hours()
    taken: Hours = Hours()
    entries: int = 0


class Line(_Shown):
    """The sums of a month, of a partner, or of a partner in a month."""

    month: str = Field(default="", description="as 2026-03; empty: all months of the report")
    institution: str = Field(default="", description="the partner's id; empty: all partners")
    name: str = Field(default="", description="what the partner calls itself")
    agreed: Sums = Sums()
    disputed: Sums = Sums()
    open: Sums = Field(default=Sums(), description="not answered by the borrower yet")

    def by_standing(self) -> dict[Standing, Sums]:
        """Return the sums by how the entries stand."""
        return {Standing.AGREED: self.agreed, Standing.DISPUTED: self.disputed, Standing.OPEN: self.open}


class Report(_Shown):
    """What was given and taken in some months."""

    institution: str = Field(description="our id")
    name: str = Field(default="", description="what we are called")
    made: datetime
    since: str = Field(
        default="", description="the first month that was asked for; empty: the first there is"
    )
    until: str = Field(default="", description="the last month that was asked for; empty: the last there is")
    lines: tuple[Line, ...] = Field(description="by month, then by partner")
    months: tuple[Line, ...] = Field(description="of all partners together")
    partners: tuple[Line, ...] = Field(description="of all months together, who gave and took most first")
    total: Line
    favours: dict[str, float] = Field(
        default_factory=dict, description="what we owe to each partner in core-hours, of all times"
    )


class Record(_Shown):
    """An entry of the ledger as people read it."""

    lease: str
    part: int = Field(description="0 for the month in which the lease began, 1 for the next, and so on")
    month: str
    lender: str
    lender_name: str = ""
    borrower: str
    borrower_name: str = ""
    user: str
    began: datetime
    ended: datetime
    amount: Hours
    price: str = Field(
        default="", description="per hour, with its currency, as it was accepted; empty: no money"
    )
    standing: Standing
    dispute: str = ""


def make_report(
    entries: Iterable[Entry],
    own: str,
    names: Mapping[str, str],
    now: datetime,
    *,
    since: str = "",
    until: str = "",
    weights: Weights | None = None,
) -> Report:
    """Return the report on the months from ``since`` to ``until`` (both included, as ``2026-03``; empty: no bound).

    ``names`` of institutions by id, our own too. Entries between others are left out. Raises InvalidRequest for what is
    no month.
    """
    known = _once(entries, own)
    sums: dict[tuple[str, str], dict[Standing, tuple[Total, int]]] = {}
    for entry in _within(known, since, until):
        peer = entry.claim.borrower if entry.claim.lender == own else entry.claim.lender
        for key in {(entry.claim.month, peer), (entry.claim.month, ""), ("", peer), ("", "")}:
            standings = sums.setdefault(key, {})
            total, count = standings.get(entry.standing, (Total(), 0))
            standings[entry.standing] = (_plus(total, entry, own), count + 1)
    lines = {key: _line(key, names, standings) for key, standings in sorted(sums.items())}
    partners = [line for (month, peer), line in lines.items() if peer and not month]
    return Report(
        institution=own,
        name=names.get(own, ""),
        made=now,
        since=since,
        until=until,
        lines=tuple(line for (month, peer), line in lines.items() if month and peer),
        months=tuple(line for (month, peer), line in lines.items() if month and not peer),
        partners=tuple(sorted(partners, key=lambda line: (-_size(line), line.institution))),
        total=lines.get(("", ""), Line()),
        favours={peer: round(favour, 6) for peer, favour in count_favours(known, own, weights).items()},
    )


def find_records(
    entries: Iterable[Entry],
    own: str,
    names: Mapping[str, str],
    *,
    since: str = "",
    until: str = "",
    partner: str = "",
) -> list[Record]:
    """Return our entries of some months, and of one partner where its id is given; the oldest first.

    Raises InvalidRequest for what is no month.
    """
    chosen = [
        one
        for one in _within(_once(entries, own), since, until)
        if partner in ("", one.claim.lender, one.claim.borrower)
    ]
    return [
        Record(
            lease=one.claim.lease,
            part=one.claim.part,
            month=one.claim.month,
            lender=one.claim.lender,
            lender_name=names.get(one.claim.lender, ""),
            borrower=one.claim.borrower,
            borrower_name=names.get(one.claim.borrower, ""),
            user=one.claim.user,
            began=moment(one.claim.began),
            ended=moment(one.claim.ended),
            amount=Hours.of(one.claim.amount),
            price=one.claim.price,
            standing=one.standing,
            dispute=one.dispute,
        )
        for one in sorted(chosen, key=lambda one: (one.claim.began, one.claim.id))
    ]


def report_cells(line: Line) -> list[tuple[Cell, ...]]:
    """Return a line as rows of `COLUMNS`: one for each standing that has entries."""
    return [
        (
            *(line.month, line.institution, line.name, standing.value, sums.entries),
            *sums.given.parts(),
            *sums.taken.parts(),
        )
        for standing, sums in line.by_standing().items()
        if sums.entries
    ]


def record_cells(record: Record) -> tuple[Cell, ...]:
    """Return an entry as a row of `RECORD_COLUMNS`."""
    return (
        *(record.lease, record.part, record.lender, record.lender_name),
        *(record.borrower, record.borrower_name, record.user),
        *(when.isoformat(timespec="milliseconds") for when in (record.began, record.ended)),
        *record.amount.parts(),
        *(record.price, record.standing.value, record.dispute),
    )


def write_csv(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table as CSV (RFC 4180), lines ending with a newline alone.

    A text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for row in rows:
        table.writerow([_harmless(cell) if isinstance(cell, str) else cell for cell in row])
    return text.getvalue()


def check_month(text: str) -> str:
    """Return a month as it was given, or an empty text. Raises InvalidRequest for what is no month."""
    if text and not re.fullmatch(r"[0-9]{4}-(0[1-9]|1[0-2])", text):
        raise InvalidRequest(f"{text!r:.40} is no month.", remedy="Write 2026-03.")
    return text


def _harmless(text: str) -> str:
    return f"'{text}" if text.lstrip()[:1] in _FORMULA else text


def _once(entries: Iterable[Entry], own: str) -> list[Entry]:
    """Return our entries, each once: as agreed where it was ever agreed."""
    found: dict[tuple[str, str, str, int], Entry] = {}
    for one in entries:
        if own in (one.claim.lender, one.claim.borrower):
            before = found.get(one.claim.id)
            if before is None or _RANK[one.standing] < _RANK[before.standing]:
                found[one.claim.id] = one
    return list(found.values())


def _within(entries: Iterable[Entry], since: str, until: str) -> list[Entry]:
    first, last = check_month(since) or "0000-00", check_month(until) or "9999-99"
    return [one for one in entries if first <= one.claim.month <= last]


def _plus(total: Total, entry: Entry, own: str) -> Total:
    amount = entry.claim.amount
    if entry.claim.lender == own:
        return total._replace(given=total.given.plus(amount))
    return total._replace(taken=total.taken.plus(amount))


def _line(
    key: tuple[str, str], names: Mapping[str, str], standings: Mapping[Standing, tuple[Total, int]]
) -> Line:
    sums = {
        standing.value: Sums(given=Hours.of(total.given), taken=Hours.of(total.taken), entries=count)
        for standing, (total, count) in standings.items()
    }
    return Line(month=key[0], institution=key[1], name=names.get(key[1], ""), **sums)


def _size(line: Line) -> Decimal:
    return line.agreed.given.cpu_hours + line.agreed.taken.cpu_hours
