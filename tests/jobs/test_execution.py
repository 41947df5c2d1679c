"""Notebooks that are run: with real kernels, most of them forked by a pool, for that is quick."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.jobs.execution import Execution, execute, read_notebook
from gridcloud.jobs.execution_run import Cause, Failure
from gridcloud.jobs.kernels_pool import KernelPool

PATIENCE = 100
PROGRAM = [sys.executable, "-m", "gridcloud.jobs.execution"]


@pytest.fixture
async def pool() -> AsyncIterator[KernelPool]:
    """Kernels made in advance, one at a time."""
    async with KernelPool(1) as made:
        yield made


def write(path: Path, *sources: str, tags: dict[int, str] | None = None, kernel: str = "python3") -> Path:
    """Write a notebook of these cells."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    for number, tag in (tags or {}).items():
        cells[number]["metadata"]["tags"] = [tag]
    spec = {"name": kernel, "display_name": kernel}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), path)
    return path


def told(output: Path) -> dict[str, Any]:
    """What an output says of its run; it is a valid notebook."""
    document = read_notebook(output)
    nbformat.validate(nbformat.from_dict(document))
    record: dict[str, Any] = document["metadata"]["gridcloud"]["run"]
    return record


def printed(output: Path, cell: int) -> str:
    """What a cell printed."""
    outputs = read_notebook(output)["cells"][cell]["outputs"]
    return "".join(one.get("text", "") for one in outputs)


async def run(notebook: Path, output: Path, pool: KernelPool, **more: Any) -> Failure | None:
    """Run a notebook."""
    failure, _ = await execute(Execution(notebook, output, more.pop("parameters", {}), **more), pool)
    return failure


@pytest.mark.timeout(PATIENCE)
async def test_outputs_are_kept_as_they_come(tmp_path: Path, pool: KernelPool) -> None:
    go = tmp_path / "go"
    waiting = f"""import os, time
print('first', x, flush=True)
while not os.path.exists({str(go)!r}):
    time.sleep(0.01)"""
    notebook = write(tmp_path / "a 'b'.ipynb", "x = 1", waiting, "print('%')\n6 * 7")
    output = tmp_path / "out.ipynb"
    task = asyncio.create_task(run(notebook, output, pool, parameters={"x": 5}))
    while not output.exists() or "first" not in printed(output, 1):
        await asyncio.sleep(0.01)
        assert not task.done(), task.result()
    record = told(output)
    assert (record["state"], record["next"], record["parameters"]) == ("running", 1, {"x": 5})
    go.touch()
    assert await task is None
    assert told(output)["state"] == "done"
    assert printed(output, 1) == "first 5\n"
    assert read_notebook(output)["cells"][2]["outputs"][-1]["data"]["text/plain"] == "42"
    assert sorted(os.listdir(tmp_path)) == ["a 'b'.ipynb", "go", "out.ipynb"]


@pytest.mark.timeout(PATIENCE)
async def test_resumed_without_its_kernel(tmp_path: Path, pool: KernelPool) -> None:
    count = f"open({str(tmp_path / 'count')!r}, 'a').write"
    broken = (
        "x = 1",
        f"_ = {count}('slow ')\nprint('kept')",
        f"_ = {count}('state ')\ny = x",
        "1 / (y - 7)",
        "print(y)",
    )
    tags = {1: "skip-on-resume"}
    output = tmp_path / "out.ipynb"
    failure = await run(write(tmp_path / "n.ipynb", *broken, tags=tags), output, pool, parameters={"x": 7})
    assert failure is not None
    assert (failure.cause, failure.cell, failure.name) == (Cause.RAISED, 3, "ZeroDivisionError")
    assert failure.value == "division by zero"
    assert "----> 1 1 / (y - 7)" in failure.trace
    assert "\x1b" not in failure.trace
    record = told(output)
    assert (record["state"], record["next"], record["failure"]["cell"]) == ("failed", 3, 3)

    mended = write(tmp_path / "n.ipynb", *broken[:3], "print('mended')", broken[4], tags=tags)
    assert await run(mended, output, pool, parameters={"x": 7}, resume=True) is None
    assert (tmp_path / "count").read_text() == "slow state state "
    assert [printed(output, cell) for cell in (1, 3, 4)] == ["kept\n", "mended\n", "7\n"]
    assert "failure" not in told(output)
    begun = told(output)["begun"]
    assert await run(mended, output, pool, parameters={"x": 7}, resume=True) is None
    assert told(output)["begun"] == begun  # there was nothing to do


@pytest.mark.timeout(PATIENCE)
async def test_in_place(tmp_path: Path, pool: KernelPool) -> None:
    """As a job runs its own copy."""
    count = f"open({str(tmp_path / 'count')!r}, 'a').write"
    notebook = write(
        tmp_path / "n.ipynb", "x = 1", f"_ = {count}('.')", "1 / (x - 7)", tags={1: "skip-on-resume"}
    )
    for number, expected in ((7, "ZeroDivisionError"), (7, "ZeroDivisionError"), (8, "")):
        failure = await run(notebook, notebook, pool, parameters={"x": number}, resume=True)
        assert (failure.name if failure else "") == expected
    assert (tmp_path / "count").read_text() == ".."  # other parameters are another run
    assert told(notebook)["parameters"] == {"x": 8}


@pytest.mark.timeout(PATIENCE)
async def test_resumed_in_its_kernel(tmp_path: Path, pool: KernelPool) -> None:
    first = "import os\nstate = os.getpid()\nprint(state)"
    output = tmp_path / "out.ipynb"
    write(tmp_path / "n.ipynb", first, "state + undefined")
    holding = asyncio.create_task(run(tmp_path / "n.ipynb", output, pool, hold=300.0))
    while not output.exists() or told(output)["state"] != "failed":
        await asyncio.sleep(0.01)
        assert not holding.done(), holding.result()
    write(tmp_path / "n.ipynb", first, "still = 1\n1 / 0")
    failure = None
    while failure is None or failure.name == "NameError":  # until the one that holds it can be found
        failure = await run(tmp_path / "n.ipynb", output, pool, resume=True)
    assert failure.name == "ZeroDivisionError"
    assert not holding.done()  # what failed again is held on
    write(tmp_path / "n.ipynb", first, "print(state, still)")
    assert await run(tmp_path / "n.ipynb", output, pool, resume=True) is None
    assert printed(output, 1).split() == [printed(output, 0).strip(), "1"]
    held = await holding
    assert held is not None
    assert held.name == "NameError"
    assert told(output)["state"] == "done"  # who held the kernel wrote nothing after


@pytest.mark.timeout(PATIENCE)
async def test_ends_that_are_not_the_notebooks_own(tmp_path: Path, pool: KernelPool) -> None:
    output = tmp_path / "out.ipynb"
    dead = await run(write(tmp_path / "n.ipynb", "print(1)", "import os; os._exit(3)", "2"), output, pool)
    assert dead is not None
    assert (dead.cause, dead.cell) == (Cause.DIED, 1)
    assert "ended with exit status 3" in dead.value
    assert printed(output, 0) == "1\n"

    kill = "import os, subprocess\nsubprocess.Popen(['sleep', '300'])\nos.kill(os.getpid(), 9)"
    killed = await run(write(tmp_path / "n.ipynb", kill), output, pool)
    assert killed is not None
    assert "signal 9 (SIGKILL)" in killed.value
    assert "memory runs out" in killed.value

    endless = await run(write(tmp_path / "n.ipynb", "while True:\n    pass"), output, pool, timeout=0.3)
    assert endless is not None
    assert (endless.cause, endless.value) == (Cause.TIMEOUT, "The cell took longer than 0.3 s.")
    assert "while True" in endless.trace


@pytest.mark.timeout(PATIENCE)
async def test_outputs_have_bounds(tmp_path: Path, pool: KernelPool) -> None:
    output = tmp_path / "out.ipynb"
    lines = "for number in range(12_000):\n    print('line ' * 20, number)"
    bars = "import sys\nfor n in range(200):\n    sys.stdout.write(f'\\r{n} of 200')\nprint()"
    large = "from IPython.display import display\ndisplay({'image/svg+xml': 'x' * 9_000_000}, raw=True)"
    many = "for n in range(1200):\n    display(n)"
    assert await run(write(tmp_path / "n.ipynb", lines, bars, large, many), output, pool) is None
    text = printed(output, 0)
    assert len(text) < 1_100_000
    assert text.startswith("line " * 20 + " 0\n")
    assert text.endswith("line " * 20 + " 11999\n")
    assert "characters left out" in text
    assert printed(output, 1) == "199 of 200\n"
    [picture] = read_notebook(output)["cells"][2]["outputs"]
    assert picture["data"] == {"text/plain": "[image/svg+xml of 9,000,000 characters left out]"}
    several = read_notebook(output)["cells"][3]["outputs"]
    assert several[-1]["text"] == "[200 more outputs left out]\n"
    told(output)


async def test_refused(tmp_path: Path) -> None:
    output = tmp_path / "out.ipynb"
    with pytest.raises(NotFound, match="No kernel 'nobody' is installed here"):
        await execute(Execution(write(tmp_path / "n.ipynb", "1", kernel="nobody"), output, {}))
    notebook = write(tmp_path / "n.ipynb", "x = 1")
    with pytest.raises(InvalidRequest, match="has no parameter 'y'"):
        await execute(Execution(notebook, output, {"y": 1}))
    assert not output.exists()
    write(output, "somebody's own")
    with pytest.raises(InvalidRequest, match="is no output of a run"):
        await execute(Execution(notebook, output, {}))
    (tmp_path / "n.ipynb").write_text("{")
    with pytest.raises(InvalidRequest, match="is no JSON"):
        await execute(Execution(notebook, output, {}, overwrite=True))


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_program_ended_by_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    mark = tmp_path / "pid"
    cell = f"import os, time\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)"
    write(tmp_path / "n.ipynb", "x = 'ä'", cell)
    (tmp_path / "p.json").write_text('{"x": "é"}')
    program = subprocess.Popen(
        [*PROGRAM, "n.ipynb", "-o", "out.ipynb", "--parameters", "p.json"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    while not mark.exists() or not mark.read_text():
        time.sleep(0.02)
        assert program.poll() is None, program.communicate()
    program.send_signal(number)
    program.communicate()
    with contextlib.suppress(psutil.NoSuchProcess):  # without us, a kernel ends within a second
        psutil.Process(int(mark.read_text())).wait(20 if number == signal.SIGKILL else 0)
    record = told(tmp_path / "out.ipynb")
    assert record["parameters"] == {"x": "é"}
    ended = (program.returncode, record["state"])
    if number == signal.SIGTERM:
        assert (*ended, record["next"]) == (128 + number, "cancelled", 1)
    else:
        assert ended == (-number, "running")


@pytest.mark.timeout(PATIENCE)
def test_last_line_of_a_program(tmp_path: Path) -> None:
    write(
        tmp_path / "n.ipynb", "import sys", "print('noise', file=sys.__stderr__)\nraise ValueError('a\\nb')"
    )
    words = [*PROGRAM, "n.ipynb", "-o", "out.ipynb"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 70, ended.stderr
    last = json.loads(ended.stderr.splitlines()[-1])
    trace = last.pop("trace")
    assert last == {
        "notebook": "out.ipynb",
        "cause": "raised",
        "cell": 1,
        "name": "ValueError",
        "value": "a\nb",
    }
    assert trace.endswith("ValueError: a\nb")
    assert told(tmp_path / "out.ipynb")["failure"] == {
        **{key: last[key] for key in last if key != "notebook"},
        "trace": trace,
    }
    refused = subprocess.run(
        [*words, "--kernel", "nobody", "--overwrite"], cwd=tmp_path, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert json.loads(refused.stderr.splitlines()[-1])["name"] == "NotFound"
    nowhere = subprocess.run(
        [*PROGRAM, "n.ipynb", "-o", "missing/out.ipynb"], cwd=tmp_path, capture_output=True, text=True
    )
    assert nowhere.returncode == 74
    assert json.loads(nowhere.stderr.splitlines()[-1])["cause"] == "unwritten"


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize(
    ("kernel", "line", "expected"),
    [("ir", "cat(x)", "it's"), ("julia", "print(x)", "it's"), ("bash", 'echo "$x"', "it's\n")],
)
async def test_other_languages(tmp_path: Path, kernel: str, line: str, expected: str) -> None:
    from jupyter_client.kernelspec import KernelSpecManager

    named = [name for name in KernelSpecManager().find_kernel_specs() if name.partition("-")[0] == kernel]
    if not named:
        pytest.skip(f"no Jupyter kernel {kernel!r} is installed: notebooks of its language are not run")
    notebook = write(
        tmp_path / "n.ipynb", "x=0" if kernel == "bash" else "x <- 0", line, tags={0: "parameters"}
    )
    document = read_notebook(notebook)
    language = {"ir": "R"}.get(kernel, kernel)
    document["metadata"]["kernelspec"] = {"name": named[0], "display_name": kernel, "language": language}
    if kernel == "julia":
        document["cells"][0]["source"] = "x = 0"
    notebook.write_text(json.dumps(document))
    failure, _ = await execute(Execution(notebook, tmp_path / "out.ipynb", {"x": "it's"}))
    assert failure is None
    assert printed(tmp_path / "out.ipynb", 2) == expected
