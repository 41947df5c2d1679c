"""A trivial notebook run by us, by papermill and by nbclient; and a thousand given parameters, by us and by
papermill.

    python -m benchmarks.notebooks [--rounds 7] [--row 20] [--many 1000] [--json FILE]

The notebook has three cells that do next to nothing: what a run takes is overhead. All read it, give it a
parameter where they can (nbclient cannot), run it, and write it with its outputs.

- ``…_command_seconds``: as a command, with its start: what one run costs on a cluster's node.
- ``…_cold_seconds``: within a program that has imported all, the kernel started for the run.
- ``warm_seconds``: so, with a kernel of a `KernelPool` that was ready.
- ``warm_in_a_row_seconds``: so, of a number of runs with no pause between, in which the pool makes as many
  kernels anew.

The median of each counts, all taking turns. Goals: warm at least 5x less than the quicker of the two peers,
in a row as well; giving parameters at least as quick as papermill. Needs papermill: ``pip install
papermill``.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nbformat

from benchmarks.report import run
from gridcloud.jobs.execution import Execution, execute, read_notebook
from gridcloud.jobs.kernels import ColdKernels, Kernels
from gridcloud.jobs.kernels_pool import KernelPool
from gridcloud.jobs.notebooks import parameterize

PEER = "from nbclient.cli import main; main()"
"""The program `jupyter execute`."""
CELLS = 20
"""Cells of the notebooks that are given parameters."""


def measure(rounds: int, row: int, many: int) -> dict[str, Any]:
    """Return the seconds of each, and the ratios."""
    try:
        import papermill  # noqa: F401
    except ImportError:
        raise SystemExit("papermill, the peer, is not installed: pip install papermill") from None
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        seconds = asyncio.run(_runs(rounds, row))
        ours, peer = _parameterized(many)
    quicker = min(seconds["papermill_cold_seconds"], seconds["nbclient_cold_seconds"])
    return {
        **seconds,
        "warm_less_overhead": quicker / seconds["warm_seconds"],
        "warm_in_a_row_less_overhead": quicker / seconds["warm_in_a_row_seconds"],
        "cold_less_overhead": quicker / seconds["ours_cold_seconds"],
        "command_less_overhead": seconds["papermill_command_seconds"] / seconds["ours_command_seconds"],
        "notebooks_given_parameters": many,
        "ours_parameters_seconds": ours,
        "papermill_parameters_seconds": peer,
        "parameters_quicker": peer / ours,
        "goals": {
            "warm_less_overhead": "at least 5",
            "warm_in_a_row_less_overhead": "at least 5",
            "parameters_quicker": "at least 1",
        },
    }


async def _runs(rounds: int, row: int) -> dict[str, float]:
    """The median seconds of each way to run the notebook."""
    source = _write("trivial.ipynb", ["x = 1", "y = x + 1", "print(y)"])
    seconds: dict[str, list[float]] = {}
    async with KernelPool(2) as pool:

        async def ready() -> None:
            while pool.ready < 2:  # noqa: ASYNC110 - what is waited for is not what is measured
                await asyncio.sleep(0.02)

        ways: dict[str, Callable[[], Awaitable[None]]] = {
            "papermill_command_seconds": lambda: _command(
                sys.executable, "-m", "papermill", "-p", "x", "5", source, "out.ipynb"
            ),
            "nbclient_command_seconds": lambda: _command(sys.executable, "-c", PEER, "--output=out", source),
            "ours_command_seconds": lambda: _command(
                sys.executable,
                "-m",
                "gridcloud.jobs.execution",
                source,
                "-o",
                "out.ipynb",
                "--parameters",
                "p.json",
            ),
            "papermill_cold_seconds": lambda: asyncio.to_thread(_papermill, source),
            "nbclient_cold_seconds": lambda: asyncio.to_thread(_nbclient, source),
            "ours_cold_seconds": lambda: _ours(source, ColdKernels()),
            "warm_seconds": lambda: _ours(source, pool),
        }
        Path("p.json").write_text('{"x": 5}')
        for number in range(rounds + 1):
            for name, way in ways.items():
                await ready()
                begin = time.perf_counter()
                await way()
                if number:  # the first brings what is imported into memory
                    seconds.setdefault(name, []).append(time.perf_counter() - begin)
                _check(2 if name.startswith("nbclient") else 6)
        await ready()
        begin = time.perf_counter()
        for _ in range(row):
            await _ours(source, pool)
        spent = (time.perf_counter() - begin) / row
    return {name: statistics.median(found) for name, found in seconds.items()} | {
        "warm_in_a_row_seconds": spent
    }


async def _ours(source: str, kernels: Kernels) -> None:
    failure, _ = await execute(Execution(Path(source), Path("out.ipynb"), {"x": 5}, overwrite=True), kernels)
    if failure is not None:
        raise SystemExit(f"the notebook failed: {failure}")


def _papermill(source: str) -> None:
    import papermill

    papermill.execute_notebook(source, "out.ipynb", {"x": 5}, progress_bar=False)


def _nbclient(source: str) -> None:
    from nbclient import NotebookClient

    notebook = nbformat.read(source, as_version=4)
    NotebookClient(notebook).execute()
    nbformat.write(notebook, "out.ipynb")


async def _command(*words: str) -> None:
    Path("out.ipynb").unlink(missing_ok=True)
    program = await asyncio.create_subprocess_exec(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, said = await program.communicate()
    if program.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{said.decode()}")


def _parameterized(many: int) -> tuple[float, float]:
    """The seconds that it takes to give parameters to so many notebooks, read and written: ours, and
    papermill's.
    """
    from papermill.iorw import load_notebook_node, write_ipynb
    from papermill.parameterize import parameterize_notebook

    names = [
        _write(f"{number}.ipynb", ["x = 1\ny = 'a'", *["print(x, y)\n" * 5] * CELLS])
        for number in range(many)
    ]
    begin = time.perf_counter()
    for name in names:
        made = parameterize(read_notebook(Path(name)), {"x": 5, "y": "b"})
        Path(name).with_suffix(".ours").write_text(json.dumps(made, indent=1, ensure_ascii=False))
    ours = time.perf_counter() - begin
    begin = time.perf_counter()
    for name in names:
        theirs = parameterize_notebook(load_notebook_node(name), {"x": 5, "y": "b"})
        write_ipynb(theirs, name)
    return ours, time.perf_counter() - begin


def _write(name: str, sources: list[str]) -> str:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0]["metadata"]["tags"] = ["parameters"]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), name)
    return name


def _check(expected: int) -> None:
    cells = read_notebook(Path("out.ipynb"))["cells"]
    text = "".join(
        one["text"] if isinstance(one["text"], str) else "".join(one["text"]) for one in cells[-1]["outputs"]
    )
    if text.strip() != str(expected):
        raise SystemExit(f"the notebook printed {text!r} and not {expected}")


if __name__ == "__main__":
    run(__doc__, measure, rounds=7, row=20, many=1000)
