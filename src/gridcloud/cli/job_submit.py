"""``gridcloud job submit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.places import read_environment
from gridcloud.cli.printing import error_console, plain
from gridcloud.cli.steps import Steps
from gridcloud.errors import InvalidRequest
from gridcloud.instances.model import Request
from gridcloud.jobs.descriptions import RUNNERS, read_job_file
from gridcloud.jobs.model import Retries, State
from gridcloud.jobs.sweeps import read_value
from gridcloud.service.job_documents import JobShown

__all__ = ["app", "conclude"]

app = typer.Typer(add_completion=False)

PANEL = "Sweeps"


Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[-- CMD… | SCRIPT …]", help="A command, a script or a notebook, with its words."),
]
JobFile = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="A job file (YAML); options go before it.")
]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait until it has ended; exit as it did.")]
Over = Annotated[
    list[str] | None,
    typer.Option(
        "--over", metavar="AXIS", help="energy=1..5:0.5, sample=a,b, @table.csv, …", rich_help_panel=PANEL
    ),
]
Where = Annotated[
    str,
    typer.Option("--where", help="Which of the sweep are run, e.g. 'energy > 2'.", rich_help_panel=PANEL),
]
Samples = Annotated[
    int | None,
    typer.Option("--samples", min=1, help="Jobs, where values are drawn.", rich_help_panel=PANEL),
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="The same seed draws the same.", rich_help_panel=PANEL)
]
Latin = Annotated[bool, typer.Option("--latin", help="Draw by Latin hypercube.", rich_help_panel=PANEL)]
Parameter = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="The same for all jobs."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="PATH[=NAME]", help="A file or folder to hand over."),
]
Output = Annotated[
    list[str] | None,
    typer.Option("--output", "-o", metavar="PATTERN", help="Files to be kept, e.g. 'plots/*.png'."),
]
Environment = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="K=V|K", help="Set a variable there; K alone: as it is here."),
]
Name = Annotated[str, typer.Option("--name", help="What you call it.")]
After = Annotated[
    list[str] | None,
    typer.Option("--after", metavar="[WHEN:]ID", help="Begin after this one; WHEN: ok, failed or ended."),
]
Retry = Annotated[
    list[str] | None,
    typer.Option("--retry", metavar="CAUSE=N", help="Try again so often: exit, memory, time, machine, …"),
]
Rerunnable = Annotated[
    bool, typer.Option("--rerunnable", help="It may be begun again where it was begun already.")
]
Reuse = Annotated[
    bool, typer.Option("--reuse", help="Take the results of the same job, where it was done before.")
]
Within = Annotated[
    str,
    typer.Option(
        "--within",
        metavar="TIME",
        help="The cheapest scheduler that begins it so soon, e.g. 10m; else the soonest.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="A notebook that is tried again goes on at the cell that failed.")
]


@app.command("submit", context_settings={"allow_interspersed_args": False})
@framed
async def submit(
    frame: Frame,
    request: Request,
    command: Words = None,
    file: JobFile = None,
    wait: Wait = False,
    over: Over = None,
    where: Where = "",
    samples: Samples = None,
    seed: Seed = None,
    latin: Latin = False,
    parameter: Parameter = None,
    input: Inputs = None,
    output: Output = None,
    env: Environment = None,
    name: Name = "",
    after: After = None,
    retry: Retry = None,
    rerunnable: Rerunnable = False,
    reuse: Reuse = False,
    resume: Resume = False,
    within: Within = "",
) -> int:
    """Have a command, script or notebook run, once or over a sweep, on what runs jobs. Prints its id.

    {name} in a word of the command stands for the parameter of that name.
    """
    described = _read(file) if file is not None else {}
    folder = file.absolute().parent if file is not None else Path.cwd()
    given: dict[str, Any] = {
        **_what(command or []),
        "over": over,
        "where": where,
        "samples": samples,
        "seed": seed,
        "latin": latin,
        "inputs": input,
        "outputs": output,
        "name": name,
        "after": after,
        "rerunnable": rerunnable,
        "reuse": reuse,
        "resume": resume,
        "within": within,
    }
    described |= {key: value for key, value in given.items() if value not in (None, [], "", False)}
    for key, more in (("parameters", _pairs(parameter or ())), ("environment", read_environment(env or ()))):
        described[key] = {**described.get(key, {}), **more}
    if retry:
        described["retries"] = _retries(retry)
    asked = request.model_dump(mode="json", exclude_unset=True)
    described["request"] = {**described.get("request", {}), **asked}
    return await _submit(frame, described, folder, wait)


async def _submit(frame: Frame, described: dict[str, Any], folder: Path, wait: bool) -> int:
    async with await frame.connect(alone=not wait) as client:
        shown = await client.jobs.submit(described, folder=folder)
        if not wait:
            if frame.json:
                frame.show(shown)
            else:
                print(shown.id)
            return 0
        with Steps(frame, f"Waiting for {shown.id}") as steps:
            steps.tell(shown.id)
            shown = await client.jobs.wait(shown.id, steps.event)
        if not frame.json and shown.job is not None and shown.job.handle:
            for stream, target in (("out", sys.stdout), ("err", sys.stderr)):
                async for text in client.jobs.follow_log(shown.id, stream=stream):
                    target.write(text)
    return conclude(frame, shown)


def conclude(frame: Frame, shown: JobShown) -> int:
    """Say how it ended, and return the exit code for that."""
    if frame.json:
        frame.show(shown)
    if shown.array is not None:
        told = ", ".join(f"{number} {state}" for state, number in shown.counts.items())
        if not frame.json:
            error_console().print(plain(f"{shown.id}: {told}."))
        return 0 if shown.array.well else 1
    job = shown.job
    assert job is not None  # noqa: S101 - one of both is there
    if job.state in (State.DONE, State.SKIPPED) and not job.exit:
        return 0 if job.state is State.DONE or job.reused else 1
    if not frame.json:
        error_console().print(plain(f"{job.id} is {job.state}: {job.detail}"))
    return job.exit or 1


def _what(words: list[str]) -> dict[str, Any]:
    """A command, or the script or notebook that its first word names."""
    if not words:
        return {}
    first = Path(words[0])
    if first.is_file() and first.suffix == ".ipynb":
        if len(words) > 1:
            raise InvalidRequest("A notebook takes no words.", remedy="Give it parameters: -p NAME=VALUE.")
        return {"notebook": words[0]}
    if first.is_file() and (first.suffix.lower() in RUNNERS or "/" in words[0]) and not first.is_absolute():
        return {"script": words[0], "arguments": words[1:]}
    return {"command": words}


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_job_file(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The job file {file} cannot be read: {error}.") from error


def _pairs(texts: list[str] | tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise InvalidRequest(f"{text!r:.100} is no parameter.", remedy="Write NAME=VALUE.")
        found[name] = read_value(value)
    return found


def _retries(texts: list[str]) -> dict[str, int]:
    found = {}
    for text in texts:
        cause, _, number = text.partition("=")
        if cause not in Retries.model_fields or not number.isdecimal():
            known = ", ".join(Retries.model_fields)
            raise InvalidRequest(f"{text!r:.100} is no cause with a number.", remedy=f"Causes are {known}.")
        found[cause] = int(number)
    return found
