"""``gridcloud up``."""

from __future__ import annotations

import os
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
) -> None:
    """Start gridcloud with its hub, print a link to log in, and serve until Ctrl-C. Sessions live on."""
    import sys

    from gridcloud.spawner.up import run_up

    if port is not None:
        os.environ["GRIDCLOUD_HUB__PORT"] = str(port)

    def report(line: str) -> None:
        print(plain(line), file=sys.stderr, flush=True)

    await run_up(frame.settings_file(), frame.data_folder, report)
