"""``gridcloud notebook …``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import plain, print_table
from gridcloud.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from gridcloud.jobs.execution_run import Failure
    from gridcloud.jobs.notebooks import Notebook

__all__ = ["app", "read_parameters", "write_output"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Notebooks here: give them parameters, run them, look at them.",
)

File = Annotated[Path, typer.Argument(metavar="NOTEBOOK", help="The notebook.")]
Parameters = Annotated[
    Path | None, typer.Argument(metavar="[PARAMETERS]", help="A file of YAML or JSON: names and values.")
]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter", "-p", metavar="NAME=VALUE", help="A parameter; VALUE is YAML: 5, [1, 2], text."
    ),
]
Environment = Annotated[
    bool, typer.Option("--environment", "-e", help="Values ENV_NAME stand for the variable NAME.")
]
Every = Annotated[
    bool,
    typer.Option("--every", help="Give values to each assignment of a parameter, not to the first only."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where to write it; - for standard output."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write over what is there.")]


@app.command("parameters")
@framed
def parameters(frame: Frame, notebook: File) -> None:
    """List what a notebook can be given: of its tagged cell, or whatever it assigns."""
    from gridcloud.jobs.execution import read_notebook
    from gridcloud.jobs.notebooks import find_parameters

    found = find_parameters(read_notebook(notebook))
    if frame.json:
        shown = [{"name": one.name, "value": one.value, "cell": one.cell, "line": one.line} for one in found]
        frame.show({"parameters": shown})
        return
    print_table(
        ["NAME", "VALUE", "CELL", "LINE"], [(one.name, one.value, one.cell + 1, one.line) for one in found]
    )


@app.command("parameterize")
@framed
def parameterize(
    frame: Frame,
    notebook: File,
    parameters: Parameters = None,
    given: Given = None,
    output: Output = None,
    environment: Environment = False,
    every: Every = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a notebook with other values for its parameters; nothing of it is run."""
    from gridcloud.jobs.execution import read_notebook
    from gridcloud.jobs.notebooks import parameterize

    values = read_parameters(parameters, given or (), environment=environment)
    made = parameterize(read_notebook(notebook), values, which="all" if every else "first")
    write_output(made, output, overwrite=overwrite)


@app.command("run")
@framed
async def run(
    frame: Frame,
    notebook: File,
    parameters: Parameters = None,
    given: Given = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where it is kept while it runs.")
    ] = None,
    environment: Environment = False,
    every: Every = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run into the same output ended.")
    ] = False,
    overwrite: Overwrite = False,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="TIME", help="For each cell: 90s, 10m, 2h.")
    ] = "",
    hold: Annotated[
        str, typer.Option("--hold", metavar="TIME", help="Keep the kernel for --resume when a cell fails.")
    ] = "",
    kernel: Annotated[
        str, typer.Option("--kernel", metavar="NAME", help="Another kernel than its own.")
    ] = "",
) -> int:
    """Run a notebook here, its outputs into a file as they come. Exit code 70: a cell failed; 71: its kernel."""
    from gridcloud.jobs.execution import Execution, execute, exit_status, quicken_start

    if output is None:
        raise InvalidRequest("A run needs a file for its outputs.", remedy="Add: --output FILE")
    asked = Execution(
        notebook=notebook,
        output=output,
        parameters=read_parameters(parameters, given or (), environment=environment),
        which="all" if every else "first",
        resume=resume,
        overwrite=overwrite,
        timeout=_seconds("--timeout", timeout) or None,
        hold=_seconds("--hold", hold),
        kernel=kernel,
    )
    quicken_start()
    failure, _ = await execute(asked)
    _tell(frame, output, failure)
    return exit_status(failure)


@app.command("view")
@framed
def view(
    frame: Frame,
    notebook: File,
    output: Output = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Let run what is in it: scripts, widgets. Only for your own.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a notebook as a page of HTML in which nothing runs."""
    from gridcloud.jobs.execution import quicken_start, read_notebook

    quicken_start()
    from gridcloud.jobs.viewing import render_page

    write_output(
        render_page(read_notebook(notebook), title=notebook.stem, trusted=trust), output, overwrite=overwrite
    )


def read_parameters(file: Path | None, given: Sequence[str], *, environment: bool) -> dict[str, Any]:
    """Return the values of a file, and those given by name over them. Raises NotFound and InvalidRequest."""
    import yaml

    from gridcloud.jobs.notebooks import expand_environment

    values: dict[str, Any] = {}
    try:
        if file is not None:
            found = yaml.safe_load(file.read_text(encoding="utf-8"))
            if not isinstance(found, dict | None):
                raise InvalidRequest(f"{file} holds no parameters.", remedy="Write one a line: NAME: VALUE")
            values.update(found or {})
        for one in given:
            name, separator, text = one.partition("=")
            if not separator or not name:
                raise InvalidRequest(f"{one[:100]!r} is no parameter.", remedy="Write NAME=VALUE.")
            values[name] = yaml.safe_load(text)
    except OSError as error:
        raise NotFound(f"The parameters {file} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The parameters are no YAML: {error}") from error
    if wrong := [name for name in values if not isinstance(name, str)]:
        raise InvalidRequest(f"A parameter's name is text, and not {wrong[0]!r}.")
    expanded: dict[str, Any] = expand_environment(values) if environment else values
    return expanded


def write_output(made: Notebook | str, output: Path | None, *, overwrite: bool) -> None:
    """Write a notebook or a page to a file or standard output. Raises InvalidRequest when the file is there."""
    import json
    import os

    text = made if isinstance(made, str) else json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    data = text.encode(errors="backslashreplace")
    if output is None or str(output) == "-":
        sys.stdout.buffer.write(data)
        return
    if not overwrite and os.path.lexists(output):
        raise InvalidRequest(f"{output} is there already.", remedy="Choose another file, or add --overwrite.")
    part = output.with_name(f".{output.name[:200]}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
        os.replace(part, output)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _seconds(option: str, text: str) -> int:
    from gridcloud.settings.values import parse_duration

    try:
        return parse_duration(text) if text else 0
    except ValueError as error:
        raise InvalidRequest(f"{option}: {error}.") from error


def _tell(frame: Frame, output: Path, failure: Failure | None) -> None:
    from dataclasses import asdict

    if frame.json:
        frame.show({"notebook": str(output), "failure": asdict(failure) if failure else None})
    elif failure is not None:
        if failure.trace:
            print("\n".join(map(plain, failure.trace.splitlines())), file=sys.stderr)
        words = f"error: cell {failure.cell + 1} of {output}: {failure.name}: {failure.value}"
        print(plain(words), file=sys.stderr)
