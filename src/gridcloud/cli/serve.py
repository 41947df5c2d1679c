"""``gridcloud serve``."""

from __future__ import annotations

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import error_console

__all__ = ["app", "log_here"]

app = typer.Typer(add_completion=False)


@app.command("serve")
@framed
def serve(frame: Frame) -> None:
    """Run the service alone, in the foreground, without the hub; Ctrl-C ends it, and instances live on."""
    import asyncio

    from gridcloud.service.process import run
    from gridcloud.settings import socket_path

    log_here(frame.verbose)
    data, file = frame.data_folder, frame.settings_file()
    door = file.current()[0].service
    where = f", by HTTPS at {door.host} port {door.port or 'any'}" if door.host else ""
    error_console().print(f"Serving {data} at {socket_path(data)}{where}; Ctrl-C ends it.")
    asyncio.run(run(file, data))


def log_here(verbose: bool) -> None:
    """Write what happens to standard error; ``verbose``: every word of ours.

    Never that of the clouds' libraries: at that level they write down each request, and with it the user data, in which
    a machine's host key is.
    """
    import logging

    from gridcloud.service.logs import LineFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if verbose:
        logging.getLogger("gridcloud").setLevel(logging.DEBUG)
