"""``gridcloud serve``."""

from __future__ import annotations

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import error_console

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command("serve")
@framed
def serve(frame: Frame) -> None:
    """Run the service alone, in the foreground, without the hub; Ctrl-C ends it, and instances live on."""
    import asyncio
    import logging

    from gridcloud.service.process import run
    from gridcloud.settings import socket_path

    logging.basicConfig(
        level=logging.DEBUG if frame.verbose else logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )
    data = frame.data_folder
    error_console().print(f"Serving {data} at {socket_path(data)}; Ctrl-C ends it.")
    asyncio.run(run(frame.settings_file(), data))
