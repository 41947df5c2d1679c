"""The program of a notebook's job: one notebook, its parameters, one output that is kept as it grows.

    python -m gridcloud.jobs.execution NOTEBOOK -o OUT [--parameters FILE.json] [--resume] [--timeout S]
    [--kernel NAME] [--hold S] [--every] [--overwrite]

The output is a whole notebook at every moment. It ends with

    0     all cells were done
    2     not run: the notebook, its parameters or the kernel are wrong
    70    a cell raised an error
    71    the kernel died, of memory where that is known
    74    the output could not be written
    124   a cell took longer than --timeout
    128+N ended by signal N, which ended the kernel

Where it is neither 0 nor a signal, the last line of standard error is one JSON document: ``notebook`` (the
output), ``cause``, ``cell`` (from 0), ``name``, ``value`` and ``trace``; the output's metadata hold the same,
under ``gridcloud.run.failure``. What is run again with ``--resume`` is told in `gridcloud.jobs.resuming`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gridcloud.errors import GridcloudError, InvalidRequest, NotFound, StorageFull
from gridcloud.jobs.notebooks import Notebook, Which, parameterize

if TYPE_CHECKING:
    from gridcloud.jobs.execution_run import Failure
    from gridcloud.jobs.kernels import Kernels
    from gridcloud.jobs.resuming import Plan

__all__ = ["Execution", "Status", "execute", "exit_status", "main", "quicken_start", "read_notebook"]

LARGEST = 512 << 20
"""Bytes of a notebook or of its parameters that are read."""


class Status(IntEnum):
    """What the program ends with; 75 is the frame's own, for a job that was begun already."""

    DONE = 0
    REFUSED = 2
    RAISED = 70
    DIED = 71
    UNWRITTEN = 74
    TIMED_OUT = 124


@dataclass(frozen=True, slots=True)
class Execution:
    """What is to be run, and how."""

    notebook: Path
    output: Path
    parameters: Mapping[str, Any]
    which: Which = "first"
    resume: bool = False
    overwrite: bool = False
    timeout: float | None = None
    """Seconds for each cell."""
    hold: float = 0.0
    """Seconds that the kernel is kept after a cell failed."""
    kernel: str = ""


async def execute(asked: Execution, kernels: Kernels | None = None) -> tuple[Failure | None, str]:
    """Run a notebook; return what failed, or None, and what --resume found. Raises as
    `execution_run.run_notebook`.
    """
    from gridcloud.jobs.execution_run import Held, run_notebook
    from gridcloud.jobs.kernels_held import announce_kernel, take_kernel

    source = read_notebook(asked.notebook)
    made = parameterize(source, asked.parameters, which=asked.which) if asked.parameters else source
    plan = _plan(asked, source, made)
    if plan.done:
        return None, plan.why
    living, why = None, plan.why
    if plan.failed:
        living = await take_kernel(asked.output)
        if living:
            why = f"Its kernel still lives: the run goes on at cell {plan.failed + 1}."
    about = {"notebook": str(asked.notebook), "parameters": dict(asked.parameters)}
    held = (
        Held(asked.hold, partial(announce_kernel, output=asked.output))
        if asked.hold > 0 and not living
        else None
    )
    if why:
        print(why, file=sys.stderr)
    failure = await run_notebook(
        plan,
        asked.output,
        kernels=kernels,
        kernel=asked.kernel,
        timeout=asked.timeout,
        about=about,
        held=held,
        living=living,
    )
    return failure, why


def quicken_start() -> None:
    """Import what reads notebooks without a grammar of international addresses, which a notebook has no use
    for.

    It is built when it is imported, for a second, where jsonschema finds the package. For a program that runs
    a notebook and ends: in the whole process, addresses of that kind are not checked any more.
    """
    grammar = "rfc3987_syntax"
    if "nbformat" not in sys.modules and grammar not in sys.modules:
        sys.modules[grammar] = None  # type: ignore[assignment]
        try:
            import nbformat  # noqa: F401
        finally:
            del sys.modules[grammar]


def read_notebook(path: Path) -> Notebook:
    """Return the notebook in a file. Raises NotFound when it cannot be read, InvalidRequest when it is no
    notebook.
    """
    document = _read_json(path, "notebook")
    if not isinstance(document, dict):
        raise InvalidRequest(f"{path} is no notebook.")
    return document


def _plan(asked: Execution, source: Notebook, made: Notebook) -> Plan:
    """What is to be run, after what the output holds. Raises InvalidRequest when that is somebody's own."""
    from gridcloud.jobs.resuming import Plan, plan_resumption, run_record

    if asked.overwrite or not os.path.lexists(asked.output):
        return plan_resumption(made, None) if asked.resume else Plan(made)
    if os.path.exists(asked.output) and os.path.samefile(asked.notebook, asked.output):
        # In place: what it says of a run may be of one before it was handed in. Believed where that does no harm.
        record = run_record(source)
        ours = record.get("parameters") == dict(asked.parameters) and record.get("state") != "done"
        return plan_resumption(made, source) if asked.resume and ours else Plan(made)
    before = read_notebook(asked.output)
    if asked.resume:
        return plan_resumption(made, before)
    if not run_record(before):
        raise InvalidRequest(
            f"{asked.output} is there, and is no output of a run.",
            remedy="Choose another, or add --overwrite.",
        )
    return Plan(made)


def exit_status(failure: Failure | None) -> Status:
    """Return what a program ends with after a run."""
    if failure is None:
        return Status.DONE
    return {"raised": Status.RAISED, "timeout": Status.TIMED_OUT}.get(str(failure.cause), Status.DIED)


def main(words: Sequence[str] | None = None) -> int:
    """Run what the words say."""
    given = _parser().parse_args(words)
    quicken_start()
    try:
        parameters = _read_json(given.parameters, "parameters") if given.parameters else {}
        if not isinstance(parameters, dict):
            raise InvalidRequest(
                f"{given.parameters} holds no parameters: give an object of names and values."
            )
        asked = Execution(
            notebook=given.notebook,
            output=given.output,
            parameters=parameters,
            which="all" if given.every else "first",
            resume=given.resume,
            overwrite=given.overwrite,
            timeout=given.timeout,
            hold=given.hold,
            kernel=given.kernel,
        )
        return asyncio.run(_until_signal(asked))
    except StorageFull as error:
        return _tell(given.output, Status.UNWRITTEN, "unwritten", error)
    except GridcloudError as error:
        return _tell(given.output, Status.REFUSED, "refused", error)
    except OSError as error:
        return _tell(given.output, Status.UNWRITTEN, "unwritten", error)


async def _until_signal(asked: Execution) -> int:
    came: list[int] = []
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(execute(asked))

    def take(number: int) -> None:
        if not came:
            task.cancel()
        came.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, take, int(number))
    try:
        failure, _ = await task
    except asyncio.CancelledError:
        if not came:
            raise
        return 128 + came[0]
    if failure is not None:
        _write_last({"notebook": str(asked.output), **asdict(failure)})
    return exit_status(failure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gridcloud.jobs.execution",
        description="Run a notebook into a file that is kept as it grows.",
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--parameters", type=Path, metavar="FILE.json", help="an object of names and values")
    parser.add_argument(
        "--every", action="store_true", help="give values to each assignment, not to the first only"
    )
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run into OUT ended")
    parser.add_argument("--overwrite", action="store_true", help="write over OUT, whatever it is")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds for each cell")
    parser.add_argument(
        "--hold",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds to keep the kernel for --resume when a cell fails",
    )
    parser.add_argument("--kernel", default="", metavar="NAME", help="another kernel than the notebook names")
    return parser


def _read_json(path: Path, what: str) -> Any:
    try:
        if path.stat().st_size > LARGEST:
            raise InvalidRequest(f"{path} has more than {LARGEST >> 20} MiB.")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise NotFound(f"The {what} {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is no JSON: {error}") from error


def _tell(output: Path, status: Status, cause: str, error: Exception) -> int:
    told = {
        "notebook": str(output),
        "cause": cause,
        "cell": None,
        "name": type(error).__name__,
        "value": str(error),
    }
    _write_last({**told, "trace": ""})
    return status


def _write_last(document: Mapping[str, Any]) -> None:
    sys.stdout.flush()
    print(json.dumps(document), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
