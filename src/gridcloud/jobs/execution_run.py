"""One run of a notebook: its cells in a kernel, its outputs into a file as they come, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import nbformat

from gridcloud.errors import GridcloudError, InvalidRequest
from gridcloud.jobs.execution_outputs import Keeper, OutputKeepingClient, shorten
from gridcloud.jobs.kernels import ColdKernels, Kernel, Kernels, choose_kernel
from gridcloud.jobs.notebooks import Notebook
from gridcloud.jobs.resuming import RUN, Plan

__all__ = ["Cause", "Failure", "Held", "run_notebook"]

_format: Any = nbformat  # its functions have no types

GRACE = 5.0
"""Seconds that a cell which is interrupted may take to end, so that its trace says where it was."""
VALUE, TRACE = 2_000, 16_000
"""Characters of an error's value and of its trace that are told."""
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Cause(StrEnum):
    """Why a notebook was not done."""

    RAISED = "raised"
    """A cell raised an error."""
    DIED = "died"
    """The kernel's process ended."""
    MEMORY = "memory"
    """The kernel's process was ended because there was no memory left."""
    TIMEOUT = "timeout"
    """A cell took longer than it was given."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What ended a notebook before its end."""

    cause: Cause
    cell: int
    """From 0, of all cells."""
    name: str
    """The error's class, such as `ValueError`."""
    value: str
    trace: str
    """Plain text, the latest call last, at most 16,000 characters."""


@dataclass(frozen=True, slots=True)
class Held:
    """That the kernel is kept after a cell failed: for so many seconds, or as long as somebody goes on in
    it.
    """

    seconds: float
    announce: Callable[[Kernel], contextlib.AbstractContextManager[Callable[[], bool]]]
    """Called with the kernel, gives a context within which others find it, and what says whether one has
    taken it.
    """


async def run_notebook(
    notebook: Notebook | Plan,
    path: Path,
    *,
    kernels: Kernels | None = None,
    kernel: str = "",
    timeout: float | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
    held: Held | None = None,
    living: Kernel | None = None,
) -> Failure | None:
    """Run a notebook into the file ``path`` and return what failed, or None when all its cells were done.

    ``timeout`` is for each cell, in seconds. The kernel works in ``folder``, which is the current one when
    not given. ``about`` is kept with the story of the run in the metadata. ``living`` is a kernel that has
    run the cells before the plan's failed one. When cancelled, the kernel is ended and the file says so.

    Raises NotFound when there is no such kernel, InvalidRequest when it is no notebook, StorageFull and
    OSError when the file cannot be written."""
    plan = notebook if isinstance(notebook, Plan) else Plan(notebook)
    run = _Run(plan, path, timeout, about or {})
    try:
        name = choose_kernel(plan.notebook, kernel)
        run.begin(living is not None)
        source = kernels or ColdKernels()
        where = (folder or Path.cwd()).absolute()
        started = living or await source.start(name, folder=where, environment=environment or {})
    except asyncio.CancelledError:
        run.end("cancelled")
        raise
    except GridcloudError as error:
        run.end("failed", Failure(Cause.DIED, 0, type(error).__name__, str(error), ""))
        raise
    return await run.cells(started, held)


class _Run:
    def __init__(self, plan: Plan, path: Path, timeout: float | None, about: Mapping[str, Any]) -> None:
        self._plan = plan
        self._timeout = timeout
        self._begun = False
        try:
            given = copy.deepcopy(plan.notebook)
            self._notebook: Any = _format.from_dict(_with_joined_lines(given))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InvalidRequest(f"This is no notebook: {type(error).__name__}: {error}") from error
        self._record: dict[str, Any] = {**about, "state": "running", "next": 0}
        kept = self._notebook["metadata"].setdefault("gridcloud", {})
        kept[RUN] = self._record
        self._keeper = Keeper(self._notebook, path)
        self._first = 0

    def begin(self, living: bool) -> None:
        """Write the file as it begins: what is to be run has no outputs, unless it had them in an earlier
        run.
        """
        self._first = self._plan.failed if living else 0
        self._record["begun"] = _now()
        self._record["next"] = self._plan.failed
        for number, cell in enumerate(self._notebook.cells):
            if cell.cell_type == "code" and number >= self._plan.failed:
                cell.outputs, cell.execution_count = [], None
        self._begun = True
        self._keeper.write()

    def end(self, state: str, failure: Failure | None = None) -> None:
        """Write the file as it ended."""
        if not self._begun:
            return
        self._record.update(state=state, ended=_now())
        if failure is not None:
            self._record["failure"] = asdict(failure)
        self._keeper.write(lasting=True)

    async def cells(self, kernel: Kernel, held: Held | None) -> Failure | None:
        """Run the cells, end the kernel and write the file."""
        client = OutputKeepingClient(self._notebook, kernel, self._keeper)
        keeping = asyncio.create_task(self._keeper.keep())
        state, failure, now = "cancelled", None, True
        try:
            failure = await self._each(client, kernel)
            state, now = ("failed", True) if failure else ("done", False)
            if failure and held and await kernel.is_alive():
                self.end("failed", failure)
                self._begun = False  # from now on the file may be that of who goes on
                with held.announce(kernel) as is_taken:
                    await _until_gone(kernel, held.seconds, is_taken)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await client.stop_watching()
            try:
                await kernel.end(now=now)
            finally:
                self.end(state, failure)
        return failure

    async def _each(self, client: OutputKeepingClient, kernel: Kernel) -> Failure | None:
        count = self._first and max(
            (one.get("execution_count") or 0) for one in self._notebook.cells[: self._first]
        )
        for number, cell in enumerate(self._notebook.cells):
            if number < self._first or number in self._plan.kept or cell.cell_type != "code":
                continue
            if not cell.source.strip():
                continue
            count += 1
            failure = await self._one(client, kernel, number, count)
            if failure is not None:
                return failure
            self._record["next"] = max(number + 1, self._plan.failed)
            self._keeper.note_change()
        self._record["next"] = len(self._notebook.cells)
        client.set_widgets_metadata()
        return None

    async def _one(
        self, client: OutputKeepingClient, kernel: Kernel, number: int, count: int
    ) -> Failure | None:
        """Run a cell and return what failed."""
        from nbclient.exceptions import CellExecutionError, DeadKernelError

        self._record["next"] = number
        self._keeper.note_change()
        cell, killed = self._notebook.cells[number], _memory_kills()
        task = asyncio.create_task(client.async_execute_cell(cell, number, execution_count=count))
        late = False
        try:
            await asyncio.wait({task}, timeout=self._timeout)
            if not task.done():
                late = True
                await kernel.interrupt()
                await asyncio.wait({task}, timeout=GRACE)
        finally:
            if not task.done():
                await _cancel(task)
        try:
            task.result()
        except CellExecutionError:
            if not late:
                return _raised(number, cell)
        except DeadKernelError as error:
            if not late:
                return await _death(number, kernel, error, _memory_kills() > killed)
        except asyncio.CancelledError:
            pass
        if not late:
            return None
        trace = _raised(number, cell).trace
        return Failure(
            Cause.TIMEOUT, number, "TimeoutError", f"The cell took longer than {self._timeout:g} s.", trace
        )


async def _death(number: int, kernel: Kernel, error: Exception, memory: bool) -> Failure:
    how = kernel.ending() or "ended"
    if memory:
        said = f"The kernel's process {how}: the memory that this run may use was full."
    else:
        said = f"The kernel's process {how} while the cell ran."
    if "signal 9" in how and not memory:
        said += " That is how it ends when memory runs out, or when somebody kills it."
    return Failure(Cause.MEMORY if memory else Cause.DIED, number, type(error).__name__, said, "")


def _raised(number: int, cell: Any) -> Failure:
    """What a cell's last error output says; nothing is known where it has none."""
    for output in reversed(cell.outputs):
        if output.output_type == "error":
            trace = ANSI.sub("", "\n".join(output.traceback))
            return Failure(
                Cause.RAISED, number, output.ename, shorten(output.evalue, VALUE), shorten(trace, TRACE)
            )
    return Failure(Cause.RAISED, number, "Error", "", "")


async def _until_gone(kernel: Kernel, seconds: float, is_taken: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    # Nothing tells us that somebody has left a kernel.
    while await kernel.is_alive() and (time.monotonic() < until or is_taken()):  # noqa: ASYNC110
        await asyncio.sleep(0.2)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


def _memory_kills() -> int:
    """How many processes of this control group were ended for memory so far; 0 where nobody counts."""
    try:
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, kinds, group = line.split(":", 2)
            if not kinds:
                file = Path(f"/sys/fs/cgroup{group}/memory.events")
            elif "memory" in kinds.split(","):
                file = Path(f"/sys/fs/cgroup/memory{group}/memory.oom_control")
            else:
                continue
            for entry in file.read_text(encoding="ascii").splitlines():
                word, _, number = entry.partition(" ")
                if word == "oom_kill":
                    return int(number)
    except (OSError, ValueError):
        pass
    return 0


def _with_joined_lines(notebook: Notebook) -> Notebook:
    """The notebook with each text that is a list of lines as one, as nbclient wants it."""
    if notebook.get("nbformat") != 4 or not isinstance(notebook.get("cells"), list):
        raise InvalidRequest(
            "This is no notebook of format 4.",
            remedy="Convert it: jupyter nbconvert --to notebook --nbformat 4.",
        )
    notebook.setdefault("metadata", {})
    for cell in notebook["cells"]:
        cell.setdefault("metadata", {})
        if isinstance(cell.get("source", ""), list):
            cell["source"] = "".join(cell["source"])
        for output in cell.get("outputs", ()):
            if isinstance(output.get("text"), list):
                output["text"] = "".join(output["text"])
            for kind, value in output.get("data", {}).items():
                if isinstance(value, list) and not kind.endswith("json"):
                    output["data"][kind] = "".join(map(str, value))
        if cell.get("cell_type") == "code":
            cell.setdefault("outputs", [])
            cell.setdefault("execution_count", None)
            cell["metadata"].pop("execution", None)
    return notebook


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
