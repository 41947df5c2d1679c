"""``gridcloud grid key …``: the keys that this institution signs with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.grid_communities import RootFile, confirm, read_root
from gridcloud.cli.printing import count, error_console, print_table
from gridcloud.errors import Conflict, InvalidRequest, NotFound

if TYPE_CHECKING:
    from gridcloud.grid.model import Standing
    from gridcloud.identity import Secret

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="The keys of this institution: the root key, which may be kept elsewhere, and those in daily use.",
)

SHORTEST = 8
"""Letters that name a key at least."""

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


@app.command("list")
@framed
async def list_(frame: Frame) -> None:
    """List the keys that this institution signs with from day to day."""
    async with await frame.connect() as client:
        standing = _demand((await client.grid.status()).standing)
    _show(frame, standing)


@app.command("rotate")
@framed
async def rotate(frame: Frame, root: RootFile = None) -> None:
    """Make a new key for daily use. It signs once the others had five days to hear of it; those before stay good.

    For a key that was lost or seen by somebody, `key revoke` is the verb.
    """
    key = read_root(root)
    async with await frame.connect() as client:
        standing = await client.grid.rotate(root=key)
    _show(frame, standing)
    if not frame.json:
        error_console().print("The new key signs in five days at most, when the others have heard of it.")


@app.command("revoke")
@framed
async def revoke(
    frame: Frame,
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="A key for daily use as it is listed, or a part of one.")
    ],
    root: RootFile = None,
    yes: Yes = False,
) -> None:
    """Have a key for daily use believed no longer, at once: it was lost, or somebody else has it."""
    secret = read_root(root)
    async with await frame.connect() as client:
        named = _find((await client.grid.status()).standing, key)
        confirm(frame, f"Revoke the key {named}? It never comes back.", yes)
        standing = await client.grid.revoke_key(named, root=secret)
    _show(frame, standing)


@app.command("take-root-out")
@framed
async def take_root_out(
    frame: Frame,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A new file, on a medium that is kept elsewhere.")
    ],
    yes: Yes = False,
) -> None:
    """Write the root key to a file and keep none here: whoever breaks in then cannot sign lists of members."""
    confirm(
        frame,
        f"Keep the root key in {file} only? Without that file, nobody can sign for this institution.",
        yes,
    )
    async with await frame.connect() as client:
        _write(file, await client.grid.take_root_out())
        await client.grid.drop_root(_read(file))
    if frame.json:
        frame.show({"file": str(file)})
    else:
        error_console().print(f"The root key is in {file}, and no longer here. Keep a second copy of it.")


def _demand(standing: Standing | None) -> Standing:
    if standing is None:
        raise InvalidRequest(
            "This gridcloud does not take part in the grid.", remedy="gridcloud grid init NAME"
        )
    return standing


def _find(standing: Standing | None, part: str) -> str:
    """Return the one key that has this part: a whole one may begin as an option does. Raises NotFound."""
    found = [one.key for one in _demand(standing).keys if part in one.key]
    if len(part) < SHORTEST or len(found) != 1:
        raise NotFound(
            f"{part!r:.60} is {'part of more than one key' if len(found) > 1 else 'no key of ours'}.",
            remedy="gridcloud grid key list shows them; give eight letters of it at least.",
        )
    return found[0]


def _write(file: Path, secret: Secret) -> None:
    """Write a new file that nobody else may read, and see it on its disk. Raises Conflict, InvalidRequest, NotFound."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Conflict(f"There is a {file} already.", remedy="Name a new file.") from None
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be made: {error.strerror}.") from None
    try:
        with open(descriptor, "wb") as made:
            made.write(secret.reveal_bytes())
            made.flush()
            os.fsync(made.fileno())
    except OSError as error:
        file.unlink()
        raise InvalidRequest(
            f"{file} cannot be written: {error.strerror}.", remedy="The root key is where it was."
        ) from None


def _read(file: Path) -> Secret:
    """Return what really is in the file now. On a stick without rights of its own, others may be able to read it."""
    from gridcloud.identity import Secret

    return Secret(file.read_bytes())


def _show(frame: Frame, standing: Standing) -> None:
    if frame.json:
        frame.show(standing)
        return
    rows = [
        (
            one.key,
            f"{one.valid_from:%Y-%m-%d %H:%M}",
            f"{one.valid_until:%Y-%m-%d %H:%M}",
            "signs now" if one.in_use else "",
        )
        for one in standing.keys
    ]
    print_table(("KEY", "FROM (UTC)", "UNTIL", ""), rows, whole=["KEY"])
    root = "here" if standing.root_here else "kept elsewhere"
    print(f"The root key is {root}; {count(standing.revoked, 'key')} revoked.")
