"""``gridcloud share …``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import ago, error_console, plain, print_table, until
from gridcloud.errors import InvalidRequest

if TYPE_CHECKING:
    from gridcloud.service.share_documents import MadeShare, ShareInfo

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Folders that others reach by a link, and the doors to them.",
)

Name = Annotated[str, typer.Argument(metavar="SHARE", help="The share's name or id.")]
Expires = Annotated[
    str, typer.Option("--expires", metavar="TIME", help="How long it works, e.g. 7d; 0: for ever.")
]
Uses = Annotated[int | None, typer.Option("--uses", help="Files that may be read or written; 0: any number.")]
Bytes = Annotated[
    str, typer.Option("--bytes", metavar="SIZE", help="Bytes that may be moved, e.g. 10GiB; 0: any.")
]
Network = Annotated[
    list[str] | None,
    typer.Option("--network", metavar="NETWORK", help="From where it works; repeat for more."),
]
Pattern = Annotated[
    list[str] | None,
    typer.Option("--pattern", metavar="GLOB", help="Which files it is for, e.g. '*.csv'; repeat."),
]
Password = Annotated[bool, typer.Option("--password", help="Ask for a password, which is read from here.")]
Key = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="KEY", help="An SSH public key that opens it by SFTP; repeat."),
]


@app.command("create")
@framed
async def create(
    frame: Frame,
    folder: Annotated[str, typer.Argument(help="The folder; with --storage, where it lies in that.")],
    storage: Annotated[str, typer.Option("--storage", help="A storage of the configuration.")] = "",
    user: Annotated[str | None, typer.Option("--user", help="For whom; yourself when left out.")] = None,
    name: Annotated[str, typer.Option("--name", help="What it is called.")] = "",
    rights: Annotated[str, typer.Option("--rights", help="read, read-write, or write: a drop box.")] = "read",
    length: Annotated[int, typer.Option("--length", help="Characters of the link's secret, 10 to 64.")] = 22,
    expires: Expires = "",
    uses: Uses = None,
    bytes: Bytes = "",
    network: Network = None,
    pattern: Pattern = None,
    password: Password = False,
    key: Key = None,
    code: Annotated[
        bool, typer.Option("--code", help="Ask for a code of a second factor (TOTP), too.")
    ] = False,
) -> None:
    """Make a link to a folder, and print it."""
    import os

    limits = _limits({}, expires, uses, bytes, network, pattern)
    words = _read_password() if password else ""
    place = folder if storage or frame.is_remote else os.path.realpath(folder)
    async with await frame.connect() as client:
        made = await client.shares.create(
            place,
            storage=storage,
            owner=user,
            name=name,
            rights=_rights(rights),
            limits=limits,
            password=words,
            keys=key or (),
            code=code,
            length=length,
        )
    _print(frame, made)


@app.command("list")
@framed
async def list_(
    frame: Frame, all: Annotated[bool, typer.Option("--all", help="Revoked ones, too.")] = False
) -> None:
    """List your shares; an administrator sees everybody's."""
    async with await frame.connect() as client:
        found = await client.shares.find(all=all)
    if frame.json:
        frame.show({"shares": [one.model_dump(mode="json") for one in found]})
        return
    rows = [
        (
            one.name or one.id[:14],
            one.owner,
            one.folder,
            str(one.rights),
            _held(one),
            str(one.used),
            ago(one.created),
        )
        for one in found
    ]
    print_table(("SHARE", "OWNER", "FOLDER", "RIGHTS", "LIMITS", "USES", "CREATED"), rows)


@app.command("show")
@framed
async def show(frame: Frame, share: Name) -> None:
    """Show a share, with its link if it is yours."""
    async with await frame.connect() as client:
        made = await client.shares.get(share)
    _print(frame, made)


@app.command("edit")
@framed
async def edit(
    frame: Frame,
    share: Name,
    name: Annotated[str | None, typer.Option("--name", help="What it is called.")] = None,
    rights: Annotated[str, typer.Option("--rights", help="read, read-write, or write: a drop box.")] = "",
    expires: Expires = "",
    uses: Uses = None,
    bytes: Bytes = "",
    network: Network = None,
    pattern: Pattern = None,
    password: Password = False,
    no_password: Annotated[bool, typer.Option("--no-password", help="Ask for none any more.")] = False,
    key: Key = None,
) -> None:
    """Change what a link allows; it stays the same link, and what is not named stays."""
    from gridcloud.service.share_documents import ShareChange

    words = _read_password() if password else "" if no_password else None
    async with await frame.connect() as client:
        before = (await client.shares.get(share)).share
        limits = _limits(before.limits.model_dump(), expires, uses, bytes, network, pattern)
        change = ShareChange(
            name=name,
            rights=_rights(rights) if rights else None,
            limits=limits,
            password=words,
            keys=tuple(key) if key is not None else None,
        )
        changed = await client.shares.edit(before.id, change)
    frame.tell(changed, f"Changed {changed.name or changed.id}.")


@app.command("revoke")
@framed
async def revoke(frame: Frame, share: Name) -> None:
    """Make a link worthless at once, and cut off whoever is there."""
    async with await frame.connect() as client:
        revoked = await client.shares.revoke(share)
    frame.tell(revoked, f"Revoked {revoked.name or revoked.id}.")


@app.command("sign")
@framed
async def sign(
    frame: Frame,
    share: Name,
    path: Annotated[str, typer.Argument(metavar="FILE", help="The file, by its path in the share.")],
    expires: Annotated[str, typer.Option("--expires", metavar="TIME", help="How long the URL works.")] = "1h",
) -> None:
    """Print a URL by which one file can be read, without the link or its password, by whoever has it."""
    from gridcloud.settings import parse_duration

    try:
        seconds = parse_duration(expires)
    except ValueError as error:
        raise InvalidRequest(f"--expires: {error}.") from None
    async with await frame.connect() as client:
        signed = await client.shares.sign(share, path, seconds=seconds)
    if frame.json:
        frame.show(signed)
        return
    error_console().print(f"It works until {signed.expires:%Y-%m-%d %H:%M:%S} UTC.")
    print(signed.url or signed.path)


@app.command("log")
@framed
async def log(frame: Frame, share: Name) -> None:
    """Show who did what with a share."""
    async with await frame.connect() as client:
        lines = await client.shares.log(share)
    if frame.json:
        frame.show({"lines": [line.model_dump(mode="json") for line in lines]})
        return
    for line in lines:
        print(f"{line.at:%Y-%m-%d %H:%M:%S} {plain(line.message)}")


@app.command("serve")
@framed
def serve(frame: Frame) -> None:
    """Open the doors to all shares, in the foreground until Ctrl-C. Where shares.host is set, the service does it."""
    import asyncio

    from gridcloud.cli.serve import log_here

    log_here(frame.verbose)
    asyncio.run(_serve(frame))


async def _serve(frame: Frame) -> None:
    from gridcloud.service.process import owning, until_stopped

    stopped = until_stopped()
    async with owning(frame.settings_file(), frame.data_folder) as house:
        if not house.gateway.url:
            await house.gateway.open()
        host, port = house.gateway.sftp
        error_console().print(
            f"Shares at {house.gateway.url}, by SFTP at {host} port {port}; Ctrl-C ends it."
        )
        await stopped.wait()


def _limits(
    before: dict[str, Any],
    expires: str,
    uses: int | None,
    bytes: str,
    network: list[str] | None,
    pattern: list[str] | None,
) -> Any:
    """Return limits with what was given on the command line. Raises InvalidRequest."""
    from datetime import UTC, datetime, timedelta

    from gridcloud.data.model import Limits
    from gridcloud.settings import parse_duration
    from gridcloud.settings.values import parse_size

    given = dict(before)
    try:
        if expires:
            seconds = parse_duration(expires)
            given["expires"] = datetime.now(UTC) + timedelta(seconds=seconds) if seconds else None
        if uses is not None:
            given["uses"] = uses
        if bytes:
            given["bytes"] = parse_size(bytes)
        if network is not None:
            given["networks"] = tuple(network)
        if pattern is not None:
            given["patterns"] = tuple(pattern)
        return Limits.model_validate(given)
    except ValueError as error:
        reason = str(error).splitlines()[-2].strip() if "\n" in str(error) else str(error)
        raise InvalidRequest(f"That is no limit: {reason}.") from None


def _rights(text: str) -> Any:
    from gridcloud.data.model import Rights

    try:
        return Rights(text)
    except ValueError:
        raise InvalidRequest(f"--rights: {text!r} is none of read, read-write, write.") from None


def _read_password() -> str:
    """Return a password typed twice, or the first line of standard input where nobody types."""
    import getpass

    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise InvalidRequest("The two differ.")
    return password


def _print(frame: Frame, made: MadeShare) -> None:
    if frame.json:
        frame.show(made)
        return
    one = made.share
    rows = [
        ("share", one.id),
        ("folder", one.folder),
        ("rights", str(one.rights)),
        ("limits", _held(one) or "none"),
    ]
    rows += [("used", f"{one.used} files, {one.moved} bytes")]
    if made.url:
        rows += [("sftp", made.sftp)]
    if made.code:
        rows += [("second factor", made.code)]
    for name, value in rows:
        error_console().print(f"{name}: {plain(value)}", soft_wrap=True)
    if made.url:
        print(made.url)
    elif made.secret:
        error_console().print("No door is open; 'gridcloud share serve' opens them. The link ends in:")
        print(f"/s/{made.secret}/")


def _held(one: ShareInfo) -> str:
    limits = one.limits
    found = [
        "revoked" if one.state == "revoked" else "",
        "password" if one.password else "",
        "keys" if one.keys else "",
        "code" if one.code else "",
        f"{until(limits.expires)}" if limits.expires else "",
        f"{limits.uses} files" if limits.uses else "",
        f"{limits.bytes} bytes" if limits.bytes else "",
        "networks" if limits.networks else "",
        " ".join(limits.patterns),
    ]
    return ", ".join(word for word in found if word)
