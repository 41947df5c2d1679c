"""``gridcloud token …``."""

from __future__ import annotations

from typing import Annotated

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import ago, error_console, print_table, until
from gridcloud.errors import InvalidRequest

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Tokens for the service's HTTPS door.")


@app.command("create")
@framed
async def create(
    frame: Frame,
    user: Annotated[str | None, typer.Option("--user", help="For whom; yourself when left out.")] = None,
    note: Annotated[str, typer.Option("--note", help="What it is for.")] = "",
    time: Annotated[str, typer.Option("--time", metavar="TIME", help="How long it is good, e.g. 30d.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="Make its user an administrator.")] = False,
) -> None:
    """Make a token and print it, this once."""
    from gridcloud.settings import parse_duration

    try:
        seconds = parse_duration(time) if time else 0
    except ValueError as error:
        raise InvalidRequest(f"--time: {error}.") from None
    async with await frame.connect() as client:
        issued = await client.create_token(user=user, note=note, time=seconds, admin=admin)
    if frame.json:
        frame.show(issued)
    else:
        error_console().print(f"Token {issued.token.id} of {issued.token.user}; it is shown this once:")
        print(issued.secret)


@app.command("list")
@framed
async def list_(frame: Frame) -> None:
    """List your tokens, without their secrets; an administrator sees everybody's."""
    async with await frame.connect() as client:
        found = await client.tokens()
    if frame.json:
        frame.show({"tokens": [token.model_dump(mode="json") for token in found]})
        return
    rows = [(token.id, token.user, token.note, ago(token.created), until(token.expires)) for token in found]
    print_table(("ID", "USER", "NOTE", "CREATED", "EXPIRES"), rows)


@app.command("revoke")
@framed
async def revoke(
    frame: Frame, id: Annotated[str, typer.Argument(metavar="ID", help="The token's id, not the token.")]
) -> None:
    """Make a token worthless at once."""
    async with await frame.connect() as client:
        await client.revoke_token(id)
    if frame.json:
        frame.show({"revoked": id})
    else:
        error_console().print(f"Revoked {id}.")
