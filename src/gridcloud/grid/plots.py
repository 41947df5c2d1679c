"""A report as pictures: what was given and taken by month, and by partner."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gridcloud.errors import DriverUnavailable
from gridcloud.grid.reports import AMOUNTS, Line, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_report", "label_of"]

SHOWN = 20
"""Partners in a picture; the others are summed up as one."""
LONGEST = 32
"""Characters of a partner's name in a picture."""
TITLES = dict(zip(AMOUNTS, ("CPU-hours", "GPU-hours", "GB-hours of memory"), strict=True))


def draw_report(report: Report, folder: Path) -> list[Path]:
    """Write ``months.svg`` and ``partners.svg`` into a folder that is there, and return their paths.

    Only what both sides agreed on is in them. Raises DriverUnavailable where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DriverUnavailable(
            "Plots need matplotlib, which is not installed.",
            remedy="pip install 'gridcloud[reports]', or leave --plots out.",
        ) from error
    amounts = [
        amount
        for amount in AMOUNTS
        if amount == AMOUNTS[0] or any(_hours(report.total, way, amount) for way in ("given", "taken"))
    ]
    title = f"{_shorten(report.name) or report.institution[:8]}, {_period(report)}"
    months = Figure(figsize=(7, 0.8 + 2.4 * len(amounts)), layout="constrained")
    partners = [line for line in report.partners if line.agreed.entries]
    bars = min(len(partners), SHOWN + 1)
    height = 0.8 + len(amounts) * (1.0 + 0.35 * max(1, bars))
    by_partner = Figure(figsize=(7, height), layout="constrained")
    for number, amount in enumerate(amounts, 1):
        _draw_months(months.add_subplot(len(amounts), 1, number), report.months, amount)
        _draw_partners(by_partner.add_subplot(len(amounts), 1, number), partners, amount)
    written = []
    for name, figure in (("months.svg", months), ("partners.svg", by_partner)):
        figure.suptitle(f"Given and taken: {title}", parse_math=False)
        written.append(_save(figure, folder / name))
    return written


def label_of(line: Line, others: Sequence[Line]) -> str:
    """Return what a partner is called beside others: its name, with the beginning of its id where it is not alone.

    Names are chosen by those who bear them, so that one may be another's.
    """
    name = _shorten(line.name)
    alone = sum(_shorten(one.name).casefold() == name.casefold() for one in others) < 2
    return name if name and alone else f"{name} ({line.institution[:8]})".strip()


def _draw_months(axes: Axes, lines: Sequence[Line], amount: str) -> None:
    places = range(len(lines))
    for shift, way in ((-0.2, "given"), (0.2, "taken")):
        heights = [float(_hours(line, way, amount)) for line in lines]
        axes.bar([place + shift for place in places], heights, width=0.4, label=way)
    axes.set_xticks(list(places), [line.month for line in lines], rotation=45 if len(lines) > 8 else 0)
    axes.set_ylabel(TITLES[amount])
    axes.legend()


def _draw_partners(axes: Axes, partners: Sequence[Line], amount: str) -> None:
    shown = list(partners[:SHOWN])
    labels = [label_of(line, partners) for line in shown]
    rest = partners[SHOWN:]
    given = [float(_hours(line, "given", amount)) for line in shown]
    taken = [float(_hours(line, "taken", amount)) for line in shown]
    if rest:
        labels.append(f"{len(rest)} others")
        given.append(float(sum(_hours(line, "given", amount) for line in rest)))
        taken.append(float(sum(_hours(line, "taken", amount) for line in rest)))
    places = range(len(labels))
    axes.barh([place - 0.2 for place in places], given, height=0.4, label="given")
    axes.barh([place + 0.2 for place in places], taken, height=0.4, label="taken")
    axes.set_yticks(list(places), labels, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel(TITLES[amount])
    axes.legend()


def _hours(line: Line, way: str, amount: str) -> Decimal:
    sums: Any = getattr(line.agreed, way)
    found: Decimal = getattr(sums, amount)
    return found


def _period(report: Report) -> str:
    months = [line.month for line in report.months]
    first, last = (
        report.since or (months[0] if months else ""),
        report.until or (months[-1] if months else ""),
    )
    return first if first == last else f"{first} to {last}"


def _shorten(name: str) -> str:
    plain = " ".join("".join(one if one.isprintable() else " " for one in name).split())
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…"


def _save(figure: Figure, path: Path) -> Path:
    from matplotlib import rc_context

    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "gridcloud", "svg.fonttype": "path"}):
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that no font here has
        figure.savefig(path, format="svg", metadata={"Date": None})
    return path
