"""``gridcloud authority …``: the keys that certificates for machines are signed with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import ago, error_console, print_table

if TYPE_CHECKING:
    from gridcloud.service.authority_documents import AuthorityState

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="The SSH authority that lets gridcloud into machines: prepare its next key, go over to it.",
)


@app.command("show")
@framed
async def show(frame: Frame) -> None:
    """Show which key signs, which one follows, and which instances know only the first."""
    async with await frame.connect() as client:
        _print(frame, await client.authority.get())


@app.command("prepare")
@framed
async def prepare(frame: Frame) -> None:
    """Make the next key: what is made from now on trusts both. Asked again, it changes nothing."""
    async with await frame.connect() as client:
        _print(frame, await client.authority.prepare())


@app.command("rotate")
@framed
async def rotate(
    frame: Frame,
    now: Annotated[
        bool,
        typer.Option("--now", help="Also where instances would not be reached any more: a key was stolen."),
    ] = False,
) -> None:
    """Sign with the next key from now on; the private half of the present one is gone."""
    async with await frame.connect() as client:
        _print(frame, await client.authority.rotate(now=now))


@app.command("forget")
@framed
async def forget(frame: Frame) -> None:
    """Lead no machine any more from keys that were rotated out: what was away since then has to join anew."""
    async with await frame.connect() as client:
        _print(frame, await client.authority.forget())


def _print(frame: Frame, state: AuthorityState) -> None:
    if frame.json:
        frame.show(state)
        return
    rows = [("signs", state.present.fingerprint)]
    if state.next is not None:
        rows.append((f"follows, prepared {ago(state.prepared)}", state.next.fingerprint))
    rows += [("rotated out", one.fingerprint) for one in state.earlier]
    print_table(("KEY", "FINGERPRINT"), rows)
    if state.left_behind:
        error_console().print(
            f"{len(state.left_behind)} instances know only the key that signs: {', '.join(state.left_behind)}"
        )
