"""Kernels that are ready before they are asked for: nothing of one is in the next, and none is left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest

from gridcloud.errors import GridcloudError, NotFound
from gridcloud.jobs.kernels import Kernel, choose_kernel, describe_ending
from gridcloud.jobs.kernels_pool import KernelPool


async def said(kernel: Kernel, code: str) -> str:
    """What code prints in a kernel."""
    heard: list[str] = []

    def take(message: dict[str, Any]) -> None:
        heard.append(message["content"].get("text", ""))

    reply = await kernel.client.execute_interactive(code, output_hook=take, timeout=60)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(heard).strip()


LOOK = """
import os, random, sys, numpy
print(os.getpid(), os.getcwd(), os.environ.get("GIVEN"), os.environ.get("LEFT"), "name" in dir(),
      hasattr(sys, "left"), random.random(), numpy.random.random(), len(os.listdir("/proc/self/fd")), sep="|")
name = sys.left = os.environ["LEFT"] = "left"
os.chdir("/")
"""


@pytest.mark.timeout(100)
async def test_nothing_leaks(tmp_path: Path) -> None:
    seen = []
    async with KernelPool(2, modules=("numpy",)) as pool:
        for number in range(3):
            kernel = await pool.start("python3", folder=tmp_path, environment={"GIVEN": f"{number}"})
            words = (await said(kernel, LOOK)).split("|")
            assert words[1:6] == [str(tmp_path), str(number), "None", "False", "False"]
            seen.append(words)
            await kernel.end()
            assert not await kernel.is_alive()
            assert kernel.ending() == "ended with exit status 0"
        assert len({words[0] for words in seen}) == 3
        assert len({words[6] for words in seen}) == 3
        assert len({words[7] for words in seen}) == 3, "NumPy's numbers are the same in each"
        assert len({words[8] for words in seen}) == 1, "kernels have files open that are not theirs"
        server = psutil.Process(pool.pid)
        kernels = server.children()
    assert not server.is_running()
    assert not [one for one in kernels if one.is_running()]


OPEN = """
import atexit, concurrent.futures, os, sys, tempfile, threading, time, types
left = open("left.txt", "w"); left.write("left open")
sys.modules["kept"] = kept = types.ModuleType("kept")
kept.file = open("module.txt", "w"); kept.file.write("of a module")
raw = open("raw.bin", "wb"); raw.write(b"raw")
atexit.register(lambda: open("atexit.txt", "w").write("at exit"))
folder, file = tempfile.TemporaryDirectory(dir="."), tempfile.NamedTemporaryFile(dir=".")
pool = concurrent.futures.ThreadPoolExecutor(1)
pool.submit(lambda: (time.sleep(0.2), open("thread.txt", "w").write("of a thread")))
"""


@pytest.mark.timeout(100)
async def test_what_is_left_open_is_closed(tmp_path: Path) -> None:
    """As it is when a kernel of Jupyter's own ends."""
    async with KernelPool(1) as pool:
        kernel = await pool.start("python3", folder=tmp_path, environment={})
        await said(kernel, OPEN)
        await kernel.end()
        assert kernel.ending() == "ended with exit status 0"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "left.txt": "left open",
        "module.txt": "of a module",
        "raw.bin": "raw",
        "atexit.txt": "at exit",
        "thread.txt": "of a thread",
    }


@pytest.mark.timeout(100)
async def test_kernels_end_with_who_made_them(tmp_path: Path) -> None:
    async with KernelPool(1) as pool:
        kernel = await pool.start("python3", folder=tmp_path, environment={})
        process = psutil.Process(int(await said(kernel, "import os; print(os.getpid())")))
        psutil.Process(pool.pid).kill()
        while await kernel.is_alive():  # noqa: ASYNC110 - until it is told
            await asyncio.sleep(0.01)
        process.wait(20)
        with pytest.raises(GridcloudError, match="has ended"):
            await pool.start("python3", folder=tmp_path, environment={})


@pytest.mark.timeout(100)
async def test_a_module_that_is_not_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with KernelPool(1, modules=("no_such_module",)) as pool:
        kernel = await pool.start("python3", folder=tmp_path, environment={})
        with pytest.raises(GridcloudError, match="cannot be worked in"):
            await pool.start("python3", folder=tmp_path / "missing", environment={})
        assert (
            await said(kernel, "import sys; print('' in sys.path, sys.argv[0])") == "True ipykernel_launcher"
        )
        await kernel.end()
    assert "no_such_module cannot be imported for notebooks" in capfd.readouterr().err


def test_which_kernel() -> None:
    def notebook(**metadata: Any) -> dict[str, Any]:
        return {"nbformat": 4, "metadata": metadata, "cells": []}

    assert choose_kernel(notebook()) == "python3"
    assert choose_kernel(notebook(kernelspec={"name": "python3"})) == "python3"
    assert choose_kernel(notebook(kernelspec={"name": "mine"}), "python3") == "python3"
    with pytest.raises(NotFound, match="No kernel 'mine' is installed here") as refused:
        choose_kernel(notebook(kernelspec={"name": "mine", "language": "python"}))
    assert "python3" in refused.value.remedy
    with pytest.raises(NotFound, match="No kernel 'cobol'"):
        choose_kernel(notebook(language_info={"name": "cobol"}))
    assert describe_ending(-9) == "ended by signal 9 (SIGKILL)"
