"""``gridcloud job results``: one table of parameters and results."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gridcloud.cli.completion import jobs
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import error_console, plain, print_table
from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.service.job_documents import JobResult

__all__ = ["app", "best_of", "table_of"]

app = typer.Typer(add_completion=False)


@app.command("results")
@framed
async def results(
    frame: Frame,
    id: Annotated[
        str, typer.Argument(metavar="JOB", help="The id of a job, or of an array.", autocompletion=jobs)
    ],
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a CSV table; - prints it.")
    ] = None,
    best: Annotated[
        str, typer.Option("--best", metavar="min:NAME|max:NAME", help="Only the job with the best value.")
    ] = "",
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FOLDER", help="Copy kept outputs there, a folder for each job of an array."
        ),
    ] = None,
) -> None:
    """Print parameters and results, a row for each job; fetch the outputs that are kept."""
    async with await frame.connect() as client:
        found = await client.jobs.results(id)
        chosen = [best_of(found, best)] if best else list(found)
        if to is not None:
            array = len(found) > 1 or found[0].id != id
            if array:
                to.mkdir(parents=True, exist_ok=True)
            kept = [one for one in chosen if one.kept]
            if not kept:
                raise NotFound(f"Nothing is kept of {id}.", remedy="Name what it leaves by --output.")
            for one in kept:
                await client.jobs.fetch(one.id, to / one.id.rpartition("-")[2] if array else to)
            error_console().print(plain(f"Wrote {to}."))
    if frame.json:
        frame.show({"results": [one.model_dump(mode="json") for one in chosen]})
        return
    headings, rows = table_of(chosen)
    if table is None:
        print_table(headings, rows)
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(rows)
    if str(table) == "-":
        sys.stdout.write(text.getvalue())
    else:
        table.write_text(text.getvalue(), encoding="utf-8")
        error_console().print(plain(f"Wrote {table}."))


def table_of(results: Sequence[JobResult]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and rows of a table: job, state, each parameter, each result.

    A result of the name of a parameter gets the heading ``result.NAME``.
    """
    parameters = list(dict.fromkeys(name for one in results for name in one.parameters))
    values = list(dict.fromkeys(name for one in results for name in one.results))
    taken = {"job", "state", *parameters}
    headings = [
        "job",
        "state",
        *parameters,
        *(f"result.{name}" if name in taken else name for name in values),
    ]
    rows = [
        [
            one.id,
            f"{one.state} ({one.cause})" if one.cause else str(one.state),
            *(_spell(one.parameters.get(name)) for name in parameters),
            *(_spell(one.results.get(name)) for name in values),
        ]
        for one in results
    ]
    return headings, rows


def best_of(results: Sequence[JobResult], best: str) -> JobResult:
    """Return the job with the least or greatest value of a result. Raises InvalidRequest where none has one."""
    which, _, name = best.partition(":")
    if which not in ("min", "max") or not name:
        raise InvalidRequest(
            f"{best!r:.100} does not say what is best.", remedy="Write min:NAME or max:NAME."
        )
    known = [(_number(one.results.get(name)), one) for one in results]
    ranked = sorted(((value, one) for value, one in known if value is not None), key=lambda pair: pair[0])
    if not ranked:
        has = ", ".join(sorted({key for one in results for key in one.results})) or "no values"
        raise InvalidRequest(
            f"No job has a number {name!r:.100} among its results.", remedy=f"They have {has}."
        )
    return ranked[0 if which == "min" else -1][1]


def _number(value: Any) -> float | None:
    ok = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return float(value) if ok else None


def _spell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
