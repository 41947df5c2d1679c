"""``gridcloud grid …``: institutions that lend to each other."""

from __future__ import annotations

import typer

from gridcloud.cli.grid_simulation import simulate

__all__ = ["app"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Institutions that lend machines to each other."
)
app.command("simulate")(simulate)


@app.callback()
def _grid() -> None:
    """Institutions that lend machines to each other."""
