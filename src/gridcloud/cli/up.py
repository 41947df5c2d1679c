"""``gridcloud up``."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import plain

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command("up")
@framed
async def up(
    frame: Frame,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="The hub's port; 0: any.")
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="Only print a new link to log in at the hub that runs.")
    ] = False,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep-sessions", help="When it is stopped, leave the sessions running for the next 'up'."
        ),
    ] = False,
) -> None:
    """Start gridcloud with its hub and print a link to log in; Ctrl-C stops it with all its sessions."""
    from gridcloud.spawner.up import new_link, run_up

    if link:
        found = new_link(frame.settings_file(), frame.data_folder)
        if frame.json:
            frame.show({"link": found})
        else:
            print(found)
        return
    if port is not None:
        os.environ["GRIDCLOUD_HUB__PORT"] = str(port)

    def report(line: str) -> None:
        print(plain(line), file=sys.stderr, flush=True)

    await run_up(frame.settings_file(), frame.data_folder, report, keep=keep)
