"""``gridcloud data …``: files anywhere, by their URLs."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import error_console, plain, print_table
from gridcloud.errors import (
    Conflict,
    DriverUnavailable,
    Forbidden,
    GridcloudError,
    InvalidRequest,
    NotFound,
    StorageFull,
    Unreachable,
)

if TYPE_CHECKING:
    from gridcloud.files.copying import Outcome, Side

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Files anywhere: paths of this computer, shares (share://NAME/path, or a link), s3:// and others.",
)

Place = Annotated[
    str, typer.Argument(metavar="URL", help="A path, share://NAME/path, a link, or another URL.")
]
Source = Annotated[str, typer.Argument(metavar="SOURCE", help="The file or folder to take.")]
Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="Where to; what is in a folder goes into that folder.")
]
Jobs = Annotated[int, typer.Option("--jobs", min=1, max=256, help="Files at the same time.")]
Password = Annotated[
    bool, typer.Option("--password", help="Ask for the link's password, which is read from here.")
]
Ca = Annotated[str, typer.Option("--ca", metavar="FILE", help="Who signs the server's certificate (PEM).")]


@app.command("ls")
@framed
def ls(frame: Frame, place: Place, password: Password = False, ca: Ca = "") -> None:
    """List a folder, or show a file."""
    with _sides(password, ca, place) as (side,):
        found = sorted(side.files.ls(side.path, detail=True), key=lambda one: str(one["name"]))
    entries = [
        {
            "name": str(one["name"]).rstrip("/").rpartition("/")[2],
            "folder": one["type"] == "directory",
            "size": int(one["size"] or 0),
            "modified": _when(one),
        }
        for one in found
    ]
    if frame.json:
        frame.show({"entries": entries})
        return
    rows = [
        (
            f"{one['name']}{'/' if one['folder'] else ''}",
            "" if one["folder"] else one["size"],
            one["modified"],
        )
        for one in entries
    ]
    print_table(("NAME", "BYTES", "MODIFIED"), rows, whole=("NAME",))


@app.command("cp")
@framed
def cp(
    frame: Frame, source: Source, target: Target, jobs: Jobs = 8, password: Password = False, ca: Ca = ""
) -> None:
    """Copy a file, or what is in a folder. Cut off, it goes on where it was when it is given again."""
    with _sides(password, ca, source, target) as (here, there):
        _tell(frame, _copy(frame, here, there, jobs=jobs))


@app.command("sync")
@framed
def sync(
    frame: Frame,
    source: Source,
    target: Target,
    delete: Annotated[bool, typer.Option("--delete", help="Remove files there that are not here.")] = False,
    checksum: Annotated[
        bool, typer.Option("--checksum", help="Compare contents, not sizes and times.")
    ] = False,
    jobs: Jobs = 8,
    password: Password = False,
    ca: Ca = "",
) -> None:
    """Copy what is not the same there yet."""
    with _sides(password, ca, source, target) as (here, there):
        _tell(frame, _copy(frame, here, there, jobs=jobs, update=True, delete=delete, checksum=checksum))


@app.command("cat")
@framed
def cat(frame: Frame, place: Place, password: Password = False, ca: Ca = "") -> None:
    """Write a file to standard output."""
    import shutil

    with _sides(password, ca, place) as (side,), side.files.open(side.path, "rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
    sys.stdout.buffer.flush()


@app.command("rm")
@framed
def rm(
    frame: Frame,
    place: Place,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="A folder, too, with what is in it.")
    ] = False,
    password: Password = False,
    ca: Ca = "",
) -> None:
    """Remove a file."""
    with _sides(password, ca, place) as (side,):
        if side.files.isdir(side.path) and not recursive:
            raise InvalidRequest(
                f"{place} is a folder.", remedy="Give --recursive to remove all that is in it."
            )
        side.files.rm(side.path, recursive=recursive)
    frame.tell({"removed": place}, f"Removed {place}.")


@app.command("du")
@framed
def du(frame: Frame, place: Place, password: Password = False, ca: Ca = "") -> None:
    """Tell how many files there are, and how many bytes they have."""
    from gridcloud.files.copying import measure
    from gridcloud.settings.values import format_size

    with _sides(password, ca, place) as (side,):
        files, size = measure(side)
    if frame.json:
        frame.show({"files": files, "bytes": size})
    else:
        print(f"{format_size(size)} in {files} files")


@app.command("verify")
@framed
def verify(
    frame: Frame, source: Source, target: Target, jobs: Jobs = 8, password: Password = False, ca: Ca = ""
) -> int:
    """Read both and compare their contents; exit code 1 where they differ."""
    from gridcloud.files.copying import differences

    with _sides(password, ca, source, target) as (here, there), _progress(frame) as told:
        found = differences(here, there, jobs=jobs, told=told)
    if frame.json:
        frame.show({"differences": [{"path": path, "what": what} for path, what in found]})
    else:
        for path, what in found:
            print(f"{what}: {plain(path or source)}")
        if not found:
            error_console().print("Both are the same.")
    return 1 if found else 0


def _copy(frame: Frame, here: Side, there: Side, **how: Any) -> Outcome:
    from gridcloud.files.copying import copy

    with _progress(frame) as told:
        return copy(here, there, told=told, **how)


def _tell(frame: Frame, outcome: Outcome) -> None:
    from dataclasses import asdict

    from gridcloud.settings.values import format_size

    words = [f"{outcome.copied} files copied, {format_size(outcome.bytes)}"]
    words += [f"{outcome.unchanged} unchanged"] if outcome.unchanged else []
    words += [f"{outcome.removed} removed"] if outcome.removed else []
    frame.tell(asdict(outcome), f"{'; '.join(words)}.")


@contextmanager
def _sides(ask: bool, ca: str, *urls: str) -> Iterator[list[Side]]:
    """Give the places; what goes wrong there is told as an error of ours."""
    try:
        from gridcloud.files.copying import open_side
    except ImportError as error:
        raise DriverUnavailable(
            "Files of other places need fsspec.", remedy="Install it: pip install 'gridcloud[data]'."
        ) from error
    options: dict[str, Any] = {"ca": ca} if ca else {}
    if ask:
        options["password"] = _ask()
    with _told(), ExitStack() as stack:
        yield [stack.enter_context(open_side(url, options)) for url in urls]


def _ask() -> str:
    import getpass

    return getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        kind = next((kind for known, kind in _KINDS if isinstance(error, known)), GridcloudError)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            kind = StorageFull
        where = f"{error.filename}: " if error.filename else ""
        raise kind(f"{where}{error.strerror or error}.".replace("..", ".")) from error
    except ValueError as error:  # a URL that fsspec does not know
        raise InvalidRequest(str(error)) from error


@contextmanager
def _progress(frame: Frame) -> Iterator[Callable[[int, int, int], object]]:
    """Give what shows how far it is, where somebody looks."""
    if frame.json or not sys.stderr.isatty():
        yield lambda files, size, total: None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.fields[files]} files"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=error_console(), transient=True) as bar:
        task = bar.add_task("", total=None, files=0)
        yield lambda files, size, total: bar.update(task, completed=size, total=total, files=files)


def _when(one: dict[str, Any]) -> str:
    from datetime import UTC, datetime

    found = one.get("mtime") or one.get("LastModified") or one.get("created")
    if not found:
        return ""
    moment = found if isinstance(found, datetime) else datetime.fromtimestamp(float(found), UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}"


_KINDS: tuple[tuple[type[OSError], type[GridcloudError]], ...] = (
    (FileNotFoundError, NotFound),
    (FileExistsError, Conflict),
    (PermissionError, Forbidden),
    (IsADirectoryError, InvalidRequest),
    (NotADirectoryError, InvalidRequest),
    (ConnectionError, Unreachable),
)
