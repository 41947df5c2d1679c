"""``gridcloud version``."""

from __future__ import annotations

import sys

import typer

import gridcloud
from gridcloud.cli.frame import Frame, framed_lightly

__all__ = ["app"]

app = typer.Typer(add_completion=False)


# A help flag that is plainly not given spares Typer the library it would validate it with.
@app.command("version", context_settings={"default_map": {"help": False}})
@framed_lightly
def version(frame: Frame) -> None:
    """Print the version."""
    if frame.json:
        python = ".".join(map(str, sys.version_info[:3]))
        frame.show({"version": gridcloud.__version__, "python": python})
    else:
        print(f"gridcloud {gridcloud.__version__}")
