"""``gridcloud demo``: the aluminium-foam example from end to end, without a person."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridcloud.cli.demo_hub import HubClient
from gridcloud.cli.demo_notebook import Kernel, Notebook, NotebookServer, read_result
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import plain, print_table
from gridcloud.cli.steps import Steps
from gridcloud.client import connect_async
from gridcloud.errors import GridcloudError, NotFound
from gridcloud.instances.matching import describe
from gridcloud.instances.model import Instance, Request

if TYPE_CHECKING:
    from gridcloud.spawner.up import Running

__all__ = ["app", "example_folder"]

app = typer.Typer(add_completion=False)

DEFAULTS: dict[str, Any] = {"cpus": 1, "memory": "2GiB"}
PACKAGES = ("numpy", "scipy", "skimage", "sklearn", "matplotlib")
FILES = ("foam.json", "foam.png")

# The demonstration has a hub of its own, whatever the configuration says of the real one.
_PRIVATE = {
    "GRIDCLOUD_HUB__AUTHENTICATOR": "",
    "GRIDCLOUD_HUB__BASE_URL": "/",
    "GRIDCLOUD_HUB__BIND": "127.0.0.1",
    "GRIDCLOUD_HUB__PORT": "0",
    "GRIDCLOUD_HUB__PUBLIC_URL": "",
    "GRIDCLOUD_SERVICE__HOST": "",
    "GRIDCLOUD_STORE__URL": "",
}


@dataclass(slots=True)
class _Times:
    """How long each step took."""

    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.steps.append((name, time.perf_counter() - begin))


@app.command("demo")
@framed
async def demo(
    frame: Frame,
    request: Request,
    output: Annotated[
        Path,
        typer.Option("--output", metavar="FOLDER", help="Where the executed notebook and the figure go."),
    ] = Path("gridcloud-demo"),
) -> None:
    """Start a hub and a session, run the aluminium-foam notebook in it, bring the results here, and stop it all.

    The session has one CPU and 2 GiB unless something else is asked for.
    """
    wanted = {**DEFAULTS, **request.model_dump(mode="json", exclude_unset=True)}
    times = _Times()
    example = example_folder()
    _keep_to_one_signal(frame)
    begin = time.perf_counter()
    with Steps(frame, "Starting the hub") as steps:
        async with _private_hub(frame, steps, times) as (hub, data):
            async with HubClient(hub.url, hub.api_url, hub.api_token) as client:
                instance, notebook = await _use_session(client, data, wanted, example, output, steps, times)
            steps.wait_for("Stopping everything")
    result = read_result(notebook)
    times.steps.append(("everything, with stopping", time.perf_counter() - begin))
    _report(frame, instance, times, result, output)


def example_folder() -> Path:
    """Return the folder of the foam example: in the installed package, or beside it in a checkout."""
    import gridcloud

    package = Path(gridcloud.__file__).parent
    for folder in (package / "examples" / "foam", package.parents[1] / "examples" / "foam"):
        if (folder / "foam.ipynb").is_file():
            return folder
    raise NotFound("The foam example is not installed.", remedy="Install gridcloud anew.")


@asynccontextmanager
async def _private_hub(frame: Frame, steps: Steps, times: _Times) -> AsyncIterator[tuple[Running, Path]]:
    """A hub in a folder of its own, with the user's providers and SSH keys."""
    from gridcloud.spawner.up import running

    os.environ.update(_PRIVATE)
    data = Path(tempfile.mkdtemp(prefix="gridcloud-demo-"))
    try:
        authority = frame.data_folder / "authority"
        authority.mkdir(mode=0o700, exist_ok=True)
        (data / "authority").symlink_to(authority)  # machines know the user's keys, not new ones
        begin = time.perf_counter()
        async with running(frame.settings_file(), data, lambda line: steps.tell(line, style="dim")) as hub:
            times.steps.append(("start the hub", time.perf_counter() - begin))
            yield hub, data
    finally:
        await asyncio.to_thread(shutil.rmtree, data, ignore_errors=True)


async def _use_session(
    client: HubClient,
    data: Path,
    wanted: dict[str, Any],
    example: Path,
    output: Path,
    steps: Steps,
    times: _Times,
) -> tuple[Instance, Notebook]:
    steps.wait_for("Starting a session")
    with times.of("start a session"):
        await client.spawn(wanted, steps.tell)
    try:
        instance = await _instance_of_session(data)
        server = NotebookServer(client.session, client.server_url)
        notebook = await _run_notebook(server, example, output, steps, times)
    finally:
        steps.wait_for("Stopping the session")
        with times.of("stop the session"):
            await client.stop()
    return instance, notebook


async def _run_notebook(
    server: NotebookServer, example: Path, output: Path, steps: Steps, times: _Times
) -> Notebook:
    """Run the notebook in a folder of its own, and bring it and its files back."""
    steps.wait_for("Uploading the notebook")
    with times.of("upload"):
        folder = await server.make_folder()
        for name in ("foam.py", "foam.ipynb"):
            await server.upload(f"{folder}/{name}", example / name)
    steps.wait_for("Starting a kernel")
    with times.of("start a kernel"):
        kernel = await server.start_kernel(f"{folder}/foam.ipynb")
    async with kernel:
        try:
            notebook = await _execute(kernel, example / "foam.ipynb", steps, times)
            steps.wait_for("Bringing the results back")
            with times.of("download"):
                output.mkdir(parents=True, exist_ok=True)
                notebook.save(output / "foam.ipynb")
                for name in FILES:
                    await server.download(f"{folder}/{name}", output / name)
        finally:
            with contextlib.suppress(GridcloudError):
                await kernel.remove_folder()
    return notebook


async def _execute(kernel: Kernel, path: Path, steps: Steps, times: _Times) -> Notebook:
    notebook = Notebook.read(path)
    missing = await kernel.missing_packages(PACKAGES)
    if missing:
        raise GridcloudError(
            f"The session's Python lacks {', '.join(missing)}.",
            remedy="Run: pip install 'gridcloud[examples]' where the session runs, or name them in "
            "session.packages of the configuration.",
        )
    for cell in notebook.code_cells():
        steps.wait_for(f"Running: {cell.title}")
        with times.of(cell.title):
            await notebook.execute(kernel, cell)
        steps.tell(f"ran: {cell.title} ({times.steps[-1][1]:.1f} s)")
    return notebook


async def _instance_of_session(data: Path) -> Instance:
    async with await connect_async(data=data, alone=True) as client:
        session = (await client.sessions())[-1]
        return await client.instance(session.instance_id)


def _report(frame: Frame, instance: Instance, times: _Times, result: dict[str, Any], output: Path) -> None:
    offer = instance.offer
    provider = offer.provider if offer else ""
    files = [str(output / name) for name in ("foam.ipynb", *FILES)]
    if frame.json:
        frame.show(
            {
                "provider": provider,
                "instance": instance.id,
                "steps": [{"name": name, "seconds": round(seconds, 3)} for name, seconds in times.steps],
                "found_pores": result["found_pores"],
                "true_pores": result["true_pores"],
                "result": result,
                "files": files,
            }
        )
        return
    print(plain(f"Provider: {provider} ({describe(offer.shape) if offer else ''})\n"))
    print_table(("STEP", "SECONDS"), [(name, f"{seconds:.2f}") for name, seconds in times.steps])
    print(f"\nPores found: {result['found_pores']}; true: {result['true_pores']}")
    print(plain(f"Written: {', '.join(files)}"))


def _keep_to_one_signal(frame: Frame) -> None:
    """Clean up once, however often somebody asks: what is left undone would outlive the folder that tells of it."""
    task = asyncio.current_task()

    def take(number: int, count: int) -> None:
        if count == 1 and task is not None:
            task.cancel()

    frame.on_signal = take
