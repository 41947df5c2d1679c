"""``gridcloud job …``: jobs and sweeps of them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gridcloud.cli import job_results, job_submit
from gridcloud.cli.completion import jobs
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import ago, count, error_console, plain, print_table
from gridcloud.cli.steps import Steps, print_story
from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.jobs.model import FINAL, Job, State
from gridcloud.service.job_documents import JobLine, JobShown
from gridcloud.settings import format_size

__all__ = ["app"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Jobs and sweeps of them, on what runs jobs."
)
app.registered_commands += job_submit.app.registered_commands

Id = Annotated[
    str, typer.Argument(metavar="JOB", help="The id of a job, or of an array.", autocompletion=jobs)
]


@app.command("list")
@framed
async def list_(
    frame: Frame,
    array: Annotated[
        str | None, typer.Argument(metavar="[ARRAY]", help="The jobs of this array.", autocompletion=jobs)
    ] = None,
    all: Annotated[bool, typer.Option("--all", "-a", help="Those that have ended, too.")] = False,
    state: Annotated[str, typer.Option("--state", metavar="STATE", help="Those in this state only.")] = "",
) -> None:
    """List your jobs and arrays; an administrator sees everybody's."""
    if state and state not in set(State):
        raise InvalidRequest(f"{state!r} is no state.", remedy=f"States are {', '.join(State)}.")
    async with await frame.connect() as client:
        found = await client.jobs.list(all=all or bool(state), array=array or "")
    found = [one for one in found if not state or one.state == state]
    if frame.json:
        frame.show({"jobs": [one.model_dump(mode="json") for one in found]})
        return
    rows = [
        (one.id, one.name or _spell(one.parameters), _state(one), one.scheduler, one.owner, ago(one.created))
        for one in found
    ]
    dim = [number for number, one in enumerate(found) if one.ended is not None]
    headings = ("ID", "NAME", "STATE", "ON", "OWNER", "CREATED")
    print_table(headings, rows, dim=dim, whole=("ID",))


@app.command("show")
@framed
async def show(frame: Frame, id: Id) -> None:
    """Show all about one job or array."""
    async with await frame.connect() as client:
        shown = await client.jobs.get(id)
    if frame.json:
        frame.show(shown)
        return
    for name, value in _describe(shown):
        if value:
            print(plain(f"{name:<12}{value}"))


@app.command("logs")
@framed
async def logs(
    frame: Frame,
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it has ended.")] = False,
    errors: Annotated[bool, typer.Option("--errors", "-e", help="Its standard error.")] = False,
    tail: Annotated[int, typer.Option("--tail", min=0, metavar="BYTES", help="The end of it only.")] = 0,
) -> None:
    """Print what a job said."""
    stream = "err" if errors else "out"
    async with await frame.connect() as client:
        offset = -tail
        if follow:
            async for text in client.jobs.follow_log(id, stream=stream, offset=offset):
                sys.stdout.write(text)
                sys.stdout.flush()
            return
        while True:
            part = await client.jobs.log(id, stream=stream, offset=offset)
            if not part.text:
                return
            sys.stdout.write(part.text)
            offset = part.offset


@app.command("events")
@framed
async def events(
    frame: Frame,
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it has ended.")] = False,
) -> None:
    """Tell the story of a job or an array. With --json one document a line."""
    async with await frame.connect() as client:
        shown = await client.jobs.get(id)
        await print_story(frame, client.jobs.events(shown.id, follow=follow))


@app.command("wait")
@framed
async def wait(frame: Frame, id: Id) -> int:
    """Wait until a job, or all of an array, has ended. Exits as the job did; for an array with 1 where any failed."""
    async with await frame.connect() as client:
        with Steps(frame, f"Waiting for {plain(id)}") as steps:
            shown = await client.jobs.wait(id, steps.event)
    return job_submit.conclude(frame, shown)


@app.command("cancel")
@framed
async def cancel(
    frame: Frame,
    ids: Annotated[
        list[str], typer.Argument(metavar="JOB…", help="Ids of jobs or arrays.", autocompletion=jobs)
    ],
) -> None:
    """End jobs or arrays; what has ended already stays as it is."""
    async with await frame.connect() as client:
        for one in ids:
            done = await client.jobs.cancel(one)
            if frame.json:
                frame.show({"id": one, "cancelled": done})
            else:
                error_console().print(plain(f"{one}: {count(done, 'job')} to end."))


@app.command("retry")
@framed
async def retry(frame: Frame, id: Id) -> None:
    """Ask again for a job that failed or was cancelled; of an array, for those that did. Prints the new id."""
    async with await frame.connect(alone=True) as client:
        shown = await client.jobs.retry(id)
    if frame.json:
        frame.show(shown)
    else:
        print(shown.id)


@app.command("clean")
@framed
async def clean(
    frame: Frame,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB…]", help="Ids of jobs or arrays.", autocompletion=jobs)
    ] = None,
    all: Annotated[bool, typer.Option("--all", "-a", help="All of yours that have ended.")] = False,
) -> None:
    """Remove the folders and logs of what has ended. Records, results and kept outputs stay."""
    if not ids and not all:
        raise InvalidRequest("Say which jobs to clean up after.", remedy="Name them, or give --all.")
    async with await frame.connect() as client:
        done = 0
        ended = [one.id for one in await client.jobs.list(all=True) if one.ended is not None]
        for one in ids or ended:
            done += await client.jobs.clean(one)
    if frame.json:
        frame.show({"cleaned": done})
    else:
        error_console().print(f"Removed {count(done, 'folder')}.")


app.registered_commands += job_results.app.registered_commands


@app.command("schedulers")
@framed
async def schedulers(
    frame: Frame,
    check: Annotated[bool, typer.Option("--check", help="Try each of them; administrators only.")] = False,
) -> int:
    """List what runs jobs. Exits 1 where something is wrong."""
    async with await frame.connect() as client:
        found = (await client.jobs.schedulers()).schedulers
        tried = {one.name: await client.jobs.check(one.name) for one in found if check and not one.problem}
    if frame.json:
        findings = [
            {"scheduler": name, **one.model_dump(mode="json")} for name in tried for one in tried[name]
        ]
        frame.show({"schedulers": [one.model_dump(mode="json") for one in found], "findings": findings})
    else:
        print_table(
            ("NAME", "DRIVER", "LOCATION", "PROBLEM"), [list(one.model_dump().values()) for one in found]
        )
        for name, all_of_it in tried.items():
            for finding in all_of_it:
                print(plain(f"{'ok   ' if finding.ok else 'wrong'}  {name}: {finding.message}"))
    wrong = any(one.problem for one in found) or any(
        not one.ok for found_ in tried.values() for one in found_
    )
    return int(wrong)


def _state(one: JobLine) -> str:
    if one.counts:
        return ", ".join(f"{count} {state}" for state, count in one.counts.items())
    return f"{one.state} ({one.cause})" if one.cause else one.state


def _spell(parameters: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in parameters.items())


def _describe(shown: JobShown) -> list[tuple[str, str]]:
    if shown.array is not None:
        array = shown.array
        counts = ", ".join(f"{number} {state}" for state, number in shown.counts.items())
        return [
            ("id", array.id),
            ("name", array.order.name),
            ("owner", array.owner),
            ("state", str(array.state)),
            ("jobs", f"{len(array.order.rows)}: {counts}"),
            ("ended", f"{array.ended:%Y-%m-%d %H:%M:%S} UTC" if array.ended else ""),
        ]
    if shown.job is None:
        raise NotFound("Nothing was shown.")
    return _describe_job(shown.job, shown)


def _describe_job(job: Job, shown: JobShown) -> list[tuple[str, str]]:
    order, usage = shown.order, job.usage
    used = ""
    if usage is not None:
        asked = format_size(order.request.memory)
        memory = f", {format_size(usage.memory)} of {asked} memory" if usage.memory else ""
        used = f"{usage.wall:.1f} s, {usage.cpu:.1f} s of CPU{memory}"
    why = f" ({job.cause})" if job.cause else ""
    return [
        ("id", job.id),
        ("name", order.name),
        ("owner", job.owner),
        ("state", f"{job.state}{why}"),
        ("detail", job.detail),
        ("on", job.scheduler),
        ("exit", "" if job.exit is None else str(job.exit)),
        ("attempt", str(job.attempt) if job.attempt > 1 else ""),
        ("parameters", _spell({**order.work.parameters, **job.parameters})),
        ("results", _spell(job.results)),
        ("kept", " ".join(job.kept)),
        ("used", used),
        ("folder", shown.folder if job.state in FINAL or shown.folder else ""),
        ("begun", f"{job.begun:%Y-%m-%d %H:%M:%S} UTC" if job.begun else ""),
        ("ended", f"{job.ended:%Y-%m-%d %H:%M:%S} UTC" if job.ended else ""),
    ]
