"""Text for people: tables on standard output, everything else on standard error; strangers' words made harmless."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ago", "count", "error_console", "output_console", "plain", "print_table", "until"]

_WIDE = 240
"""Columns where nobody looks: a script that greps a table finds whole words in it."""


def plain(text: object) -> str:
    """Return a text without what would steer a terminal: control and direction-changing characters."""
    kept = (character if _is_harmless(character) else "\N{REPLACEMENT CHARACTER}" for character in str(text))
    return "".join(kept).replace("\t", "    ")


def output_console() -> Console:
    """Return the console of standard output."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else _WIDE
    return Console(width=wide, highlight=False, soft_wrap=False, markup=False, emoji=False)


def error_console() -> Console:
    """Return the console of standard error."""
    from rich.console import Console

    wide = None if sys.stderr.isatty() or os.environ.get("COLUMNS") else _WIDE
    return Console(stderr=True, width=wide, highlight=False, markup=False, emoji=False)


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    dim: Iterable[int] = (),
    whole: Iterable[str] = (),
) -> None:
    """Print rows below headings; those numbered in ``dim`` are shown as less important.

    Columns with the headings ``whole`` are not broken, however narrow the terminal: what is in them is copied.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    unbroken = set(whole)
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in unbroken)
    faint = set(dim)
    for number, row in enumerate(rows):
        table.add_row(*(plain(cell) for cell in row), style="dim" if number in faint else None)
    console = output_console()
    with console.capture() as captured:  # Rich would end the program by itself when nobody reads
        console.print(table)
    sys.stdout.write(captured.get())


def ago(moment: datetime | None) -> str:
    """Return how long ago something was, in one unit."""
    return "" if moment is None else f"{_span((datetime.now(UTC) - moment).total_seconds())} ago"


def count(number: int, noun: str) -> str:
    """Return how many there are of something, whose plural ends in s: ``1 pool``, ``2 pools``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def until(moment: datetime | None) -> str:
    """Return how long it is until something, in one unit."""
    if moment is None:
        return "never"
    seconds = (moment - datetime.now(UTC)).total_seconds()
    return "now" if seconds <= 0 else f"in {_span(seconds)}"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _is_harmless(character: str) -> bool:
    if character in "\t\n":
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
