"""Who works at a hub, by its pages' own API: orders come as lines of JSON, what happens goes out as such lines.

``python -m tests.grid.visitor DATA`` within the hub's network, DATA being the folder of its gridcloud. Orders are the
methods of `_Visit`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import aiohttp

from gridcloud.cli.demo import example_folder
from gridcloud.cli.demo_hub import HubClient
from gridcloud.cli.demo_notebook import Kernel, Notebook, NotebookServer, read_result
from gridcloud.errors import GridcloudError
from gridcloud.spawner.hub_files import HubFiles
from tests.agents.sites import ROOT
from tests.grid.countries import Institution

__all__ = ["Visitor"]


def say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


class _Visit:
    """One person with one session."""

    def __init__(self, client: HubClient) -> None:
        self._client = client
        self._server = NotebookServer(client.session, client.server_url)
        self._cell: asyncio.Task[str] | None = None

    async def start(self, options: dict[str, Any]) -> None:
        """Start a session, telling each step that the page shows."""
        await self._client.spawn(options, lambda line: say(told=line))

    async def notebook(self, output: str) -> dict[str, Any]:
        """Run the foam notebook in a folder of its own, which stays; return its result."""
        example = example_folder()
        folder = await self._server.make_folder()
        for name in ("foam.py", "foam.ipynb"):
            await self._server.upload(f"{folder}/{name}", example / name)
        notebook = Notebook.read(example / "foam.ipynb")
        async with await self._server.start_kernel(f"{folder}/foam.ipynb") as kernel:
            for cell in notebook.code_cells():
                await notebook.execute(kernel, cell)
                say(told=f"ran: {cell.title}")
        place = Path(output)
        place.mkdir(parents=True, exist_ok=True)
        notebook.save(place / "foam.ipynb")
        await self._server.download(f"{folder}/foam.png", place / "foam.png")
        return read_result(notebook)

    async def code(self, text: str) -> str:
        """Run code in a kernel in the session's home; return what it printed."""
        said: list[str] = []
        kernel: Kernel
        async with await self._server.start_kernel("home.ipynb") as kernel:
            await kernel.execute(text, lambda message: said.append(_text(message)))
        return "".join(said)

    async def begin(self, text: str) -> str:
        """Begin code that goes on; return what it printed first."""
        printed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def take(message: dict[str, Any]) -> None:
            if not printed.done() and (words := _text(message)):
                printed.set_result(words)

        async def execute() -> str:
            try:
                async with await self._server.start_kernel("long.ipynb") as kernel:
                    await kernel.execute(text, take)
            except (GridcloudError, aiohttp.ClientError) as error:
                return f"broken off: {error}"
            return "it came to its end"

        self._cell = asyncio.create_task(execute())
        await asyncio.wait({self._cell, printed}, return_when=asyncio.FIRST_COMPLETED)
        return printed.result() if printed.done() else await self._cell

    async def ended(self) -> str:
        """Return how the code that was begun ended."""
        assert self._cell is not None
        async with asyncio.timeout(90):
            return await self._cell

    async def stopped(self) -> bool:
        """Tell whether the hub knows that the session is gone."""
        return not await self._client.running()

    async def stop(self) -> None:
        """Stop the session; return once nothing is left of it."""
        await self._client.stop()


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if message["msg_type"] == "error":
        return f"{content['ename']}: {content['evalue']}\n"
    return str(content["text"]) if message["msg_type"] == "stream" else ""


class Visitor:
    """The program that is such a person, at an institution's hub; a context that ends it."""

    def __init__(self, at: Institution, tell: Callable[[str], None]) -> None:
        """``tell`` hears what the person sees."""
        self._tell = tell
        self._process = subprocess.Popen(
            [
                *("nsenter", "--net", "--target", str(at.network)),
                *(sys.executable, "-m", "tests.grid.visitor", str(at.data)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=at.environment,
            cwd=ROOT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def order(self, **order: Any) -> Any:
        """Have something done; return what comes of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            answer = json.loads(line)
            if "told" in answer:
                self._tell(answer["told"])
                continue
            assert "failed" not in answer, answer["failed"]
            return answer["done"]
        raise AssertionError(f"the visitor ended before {order} was done")


async def visit(data: Path) -> None:
    files = HubFiles(data)
    ports = files.ports()
    api = f"http://127.0.0.1:{ports.hub}/hub/api"
    async with HubClient(f"http://127.0.0.1:{ports.public}/", api, files.secret("api-token")) as client:
        person = _Visit(client)
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            try:
                done = await getattr(person, order.pop("do"))(**order)
            except GridcloudError as error:
                say(failed=str(error))
            else:
                say(done=done)


if __name__ == "__main__":
    asyncio.run(visit(Path(sys.argv[1])))
