"""``gridcloud run``."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.lives import borrowed
from gridcloud.cli.mishaps import Interrupted, tell_error
from gridcloud.cli.places import (
    Fetch,
    Put,
    read_configuring,
    read_environment,
    read_fetches,
    read_hook,
    read_puts,
)
from gridcloud.cli.steps import Steps
from gridcloud.cli.streams import run_command
from gridcloud.client import AsyncClient
from gridcloud.errors import ConnectionLost, GridcloudError, Transient
from gridcloud.instances.model import Instance, Reason, Request

__all__ = ["app"]

app = typer.Typer(add_completion=False)

NOTICED = 10.0
"""Seconds within which the service notices that a machine is gone, as a rule."""


@dataclass(frozen=True, slots=True)
class _Errand:
    """What is to be done on the instance."""

    words: list[str]
    environment: dict[str, str]
    puts: list[Put]
    fetches: list[Fetch]
    terminal: bool
    configure: list[dict[str, Any]] = field(default_factory=list)
    name: str = ""
    keep: bool = False
    before_end: tuple[str, ...] = ()
    retrying: bool = False
    lost: list[str] = field(default_factory=list)
    """The instances that were lost under it."""


@app.command("run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@framed
async def run(
    frame: Frame,
    request: Request,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD…", help="The command and its words.")],
    put: Annotated[
        list[str] | None,
        typer.Option("--put", metavar="SRC[:DST]", help="Copy a file or folder there before."),
    ] = None,
    get: Annotated[
        list[str] | None, typer.Option("--get", metavar="SRC[:DST]", help="Copy a file or folder back after.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="K=V|K", help="Set a variable there; K alone: as it is here."),
    ] = None,
    configure: Annotated[
        list[Path] | None,
        typer.Option("--configure", metavar="FILE", help="YAML file of configurers to run first."),
    ] = None,
    requirements: Annotated[
        list[Path] | None,
        typer.Option("--requirements", metavar="FILE", help="Python packages to install first."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What you call the instance.")] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the instance running.")] = False,
    retry: Annotated[
        int,
        typer.Option("--retry", min=0, help="Begin again so often when the machine is lost or hard to get."),
    ] = 0,
    before_end: Annotated[
        str, typer.Option("--before-end", metavar="CMD", help="Shell command to run on it before it ends.")
    ] = "",
    terminal: Annotated[bool, typer.Option("--tty", "-t", help="Give the command a terminal.")] = False,
) -> int:
    """Run a command on a machine that fits, bring its files back, and stop what was started.

    Standard input, output and error are the command's own, and so is the exit code.
    """
    errand = _Errand(
        words=command,
        environment=read_environment(env or ()),
        puts=read_puts(put or ()),
        fetches=read_fetches(get or ()),
        terminal=terminal,
        configure=read_configuring(configure or (), requirements or ()),
        name=name,
        keep=keep,
        before_end=read_hook(before_end),
        retrying=bool(retry),
    )
    async with await frame.connect() as client:
        for left in range(retry, -1, -1):
            try:
                return await _run_once(frame, client, request, errand)
            except Transient as error:
                if not left:
                    raise
                with Steps(frame) as steps:
                    steps.tell(f"{error} Beginning again ({left} more tries).")
    raise AssertionError


async def _run_once(frame: Frame, client: AsyncClient, request: Request, errand: _Errand) -> int:
    async with borrowed(
        frame,
        client,
        request,
        name=errand.name,
        configure=errand.configure,
        before_end=errand.before_end,
        avoid=errand.lost,
        keep=errand.keep,
    ) as instance:
        try:
            code = await _do(frame, client, instance, errand)
        except Transient:
            errand.lost.append(instance.id)
            raise
        failed = await _get_all(frame, client, instance, errand.fetches)
    if frame.signalled:
        raise Interrupted(frame.signalled)
    return code or failed


async def _do(frame: Frame, client: AsyncClient, instance: Instance, errand: _Errand) -> int:
    """Run the command; return its exit code. Raises Transient where its machine was lost and is to be replaced."""
    await _put_all(frame, client, instance, errand.puts)
    code = await run_command(
        frame, client, instance.id, errand.words, environment=errand.environment, terminal=errand.terminal
    )
    if frame.signalled:
        raise Interrupted(frame.signalled)
    if errand.retrying and code > 128 and (why := await _loss(client, instance.id)):
        raise ConnectionLost(why)
    return code


async def _loss(client: AsyncClient, instance_id: str) -> str:
    """Return why the machine under a command that was killed is lost, in words; empty where it is not."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(NOTICED):
            ended = await client.wait_ended(instance_id)
            return ended.detail if ended.reason is Reason.LOST else ""
    return ""


async def _put_all(frame: Frame, client: AsyncClient, instance: Instance, puts: list[Put]) -> None:
    with Steps(frame) as steps:
        for put in puts:
            steps.wait_for(f"Copying {put.source} to {put.target}")
            await client.put(instance.id, put.source, put.target)


async def _get_all(frame: Frame, client: AsyncClient, instance: Instance, fetches: list[Fetch]) -> int:
    """Copy all back that can be; return 0, or the exit code of the first failure, which is told."""
    failed = 0
    for fetch in fetches:
        try:
            with Steps(frame, f"Copying {fetch.source} to {fetch.target}") as steps:
                await client.get(instance.id, fetch.source, fetch.target)
                steps.tell(f"Copied {fetch.source} to {fetch.target}", style="dim")
        except asyncio.CancelledError:
            raise
        except (GridcloudError, OSError) as error:
            told = error if isinstance(error, GridcloudError) else GridcloudError(str(error))
            told.message = f"--get {fetch.source}: {told.message}"
            tell_error(told, as_json=frame.json)
            failed = failed or told.exit_code
    return failed
