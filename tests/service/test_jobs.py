"""Jobs as those ask for them who may: over the service and at the command line. Real ones, on this computer."""

from __future__ import annotations

import asyncio
import csv
import getpass
import io
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridcloud.client import AsyncClient
from gridcloud.errors import Forbidden, InvalidRequest, NotFound
from gridcloud.jobs.model import Cause, Order, State, Work
from tests.services import Service, open_service

pytestmark = pytest.mark.timeout(120)

QUEUE = {"here": {"driver": "local", "cpus": 2, "memory": "2GiB"}}
SMALL = {"cpus": 0.5, "memory": "64MiB"}
SIM = """\
import json, os, sys
values = json.load(open(os.environ["GRIDCLOUD_PARAMETERS"]))
print("energy", values["energy"], sys.argv[1:])
open(f"plot {values['sample']}.txt", "w").write("x")
json.dump({"loss": (values["energy"] - 2) ** 2}, open(os.environ["GRIDCLOUD_RESULT"], "w"))
"""


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path, schedulers=QUEUE) as service:
        yield service


@pytest.fixture
async def client(service: Service) -> AsyncIterator[AsyncClient]:
    async with service.admin() as client:
        yield client


async def test_a_sweep_of_a_script_to_its_table(client: AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text(SIM)
    wish = {
        "script": "sim.py",
        "arguments": ["{energy}"],
        "over": ["energy=1..3", "sample=a,'b c'"],
        "where": "energy < 3",
        "outputs": ["plot*"],
        "request": SMALL,
    }
    shown = await client.jobs.submit(wish, folder=tmp_path)
    async with asyncio.timeout(60):
        shown = await client.jobs.wait(shown.id)
    assert shown.array is not None
    assert shown.array.well
    assert shown.counts == {State.DONE: 4}
    results = await client.jobs.results(shown.id)
    rows = [(one.parameters["energy"], one.parameters["sample"], one.results["loss"]) for one in results]
    assert rows == [(1, "a", 1), (1, "b c", 1), (2, "a", 0), (2, "b c", 0)]
    assert [line.state for line in await client.jobs.list(array=shown.id)] == ["done"] * 4
    assert [line.id for line in await client.jobs.list(all=True)] == [shown.id]
    assert await client.jobs.list() == []
    last = f"{shown.id}-3"
    assert (await client.jobs.log(last)).text == "energy 2 ['2']\n"
    await client.jobs.fetch(last, tmp_path / "got")
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["plot b c.txt"]
    with pytest.raises(InvalidRequest, match="array"):
        await client.jobs.log(shown.id)
    again = await client.jobs.submit(
        {**wish, "reuse": True, "over": ["energy=2", "sample=a"]}, folder=tmp_path
    )
    async with asyncio.timeout(60):
        again = await client.jobs.wait(again.id)
    assert again.counts == {State.SKIPPED: 1}
    [reused] = await client.jobs.results(again.id)
    assert reused.cause is Cause.REUSED
    assert reused.results == {"loss": 0}
    await client.jobs.fetch(reused.id, tmp_path / "reused")
    assert [path.name for path in (tmp_path / "reused").iterdir()] == ["plot a.txt"]
    assert await client.jobs.clean(shown.id) == 4
    with pytest.raises(NotFound):
        await client.jobs.log(last)


async def test_one_that_fails_says_why(client: AsyncClient) -> None:
    wish = {"command": ["sh", "-c", "echo oops >&2; exit 7"], "request": SMALL}
    async with asyncio.timeout(60):
        shown = await client.jobs.wait((await client.jobs.submit(wish)).id)
    assert shown.job is not None
    assert (shown.job.state, shown.job.cause, shown.job.exit) == (State.FAILED, Cause.EXIT, 7)
    assert (await client.jobs.log(shown.id, stream="err")).text == "oops\n"
    retried = await client.jobs.retry(shown.id)
    async with asyncio.timeout(60):
        assert (await client.jobs.wait(retried.id)).job is not None


async def test_a_log_is_followed_to_its_end(client: AsyncClient) -> None:
    wish = {"command": ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.3; done"], "request": SMALL}
    shown = await client.jobs.submit(wish)
    async with asyncio.timeout(60):
        assert "".join([text async for text in client.jobs.follow_log(shown.id)]) == "1\n2\n3\n"


async def test_others_see_nothing_of_it(service: Service, client: AsyncClient) -> None:
    shown = await client.jobs.submit({"command": ["true"], "request": SMALL})
    async with await service.user("eve") as eve:
        for ask in (
            eve.jobs.get,
            eve.jobs.cancel,
            eve.jobs.retry,
            eve.jobs.clean,
            eve.jobs.results,
            eve.jobs.log,
        ):
            with pytest.raises(NotFound):
                await ask(shown.id)
        assert await eve.jobs.list(all=True) == []
        with pytest.raises(Forbidden, match="administrators"):
            await eve.jobs.submit({"command": ["true"], "secrets": {"S": "file:/etc/shadow"}})
        wish = Order.model_validate(
            {"work": Work.model_validate({"run": {"kind": "command", "words": ["id"]}})}
        )
        with pytest.raises(Forbidden):
            await eve.jobs.order(wish, owner=getpass.getuser())
        with pytest.raises(InvalidRequest):
            await service.house.jobs.uploads.take("0" * 64, _bytes(b"other"), 100)
    async with asyncio.timeout(60):
        await client.jobs.wait(shown.id)


async def test_schedulers_are_listed(client: AsyncClient) -> None:
    found = await client.jobs.schedulers()
    assert [one.name for one in found.schedulers] == ["here"]
    assert "local" in found.drivers
    assert all(one.ok for one in await client.jobs.check("here"))


async def test_the_command_line(service: Service, tmp_path: Path) -> None:
    (tmp_path / "sim.py").write_text(SIM)
    common = ["--data", str(tmp_path / "data"), "--config", str(tmp_path / "config.yaml")]

    async def run(*words: str, code: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gridcloud", *common, *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
        )
        out, err = await process.communicate()
        assert process.returncode == code, err.decode()
        return out.decode()

    small = ("--cpus", "0.5", "--memory", "64MiB")
    array = (await run("job", "submit", *small, "--over", "energy=1..2", "-p", "sample=a", "sim.py")).strip()
    await run("job", "wait", array)
    table = list(csv.reader(io.StringIO(await run("job", "results", array, "--csv", "-"))))
    assert table[0] == ["job", "state", "sample", "energy", "loss"]
    assert [row[1:] for row in table[1:]] == [["done", "a", "1", "1"], ["done", "a", "2", "0"]]
    best = json.loads(await run("job", "results", array, "--best", "min:loss", "--json"))
    assert best["results"][0]["id"] == f"{array}-1"
    assert "one\n" in await run(
        "job", "submit", *small, "--wait", "--", "sh", "-c", "echo one; exit 3", code=3
    )
    assert "failed (exit)" in await run("job", "list", "--all")


async def _bytes(data: bytes) -> AsyncIterator[bytes]:
    yield data


def write_notebook(path: Path, *cells: str) -> None:
    made: list[dict[str, object]] = [
        {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": cell}
        for cell in cells
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": kernel, "cells": made}))


async def test_a_notebook_over_a_parameter_and_one_that_raises(client: AsyncClient, tmp_path: Path) -> None:
    write = "import json, os\njson.dump({'square': x * x}, open(os.environ['GRIDCLOUD_RESULT'], 'w'))"
    write_notebook(tmp_path / "n.ipynb", "x = 1", "print('at', x)", "1 / (x - 2)", write)
    shown = await client.jobs.submit({"notebook": "n.ipynb", "over": ["x=2..3"]}, folder=tmp_path)
    async with asyncio.timeout(100):
        shown = await client.jobs.wait(shown.id)
    assert shown.counts == {State.FAILED: 1, State.DONE: 1}
    raised, done = await client.jobs.results(shown.id)
    assert (raised.cause, done.results, done.kept) == (Cause.EXIT, {"square": 9}, ("n.ipynb",))
    failed = (await client.jobs.get(raised.id)).job
    assert failed is not None
    assert failed.detail.startswith("Cell 3: ZeroDivisionError")
    assert raised.kept == ("n.ipynb",)
    await client.jobs.fetch(raised.id, tmp_path / "got")
    assert "at 2" in (tmp_path / "got" / "n.ipynb").read_text()
