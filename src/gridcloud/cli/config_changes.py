"""``gridcloud config {set,edit,history,diff,rollback}``."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridcloud.cli.configuring import changes, configuration_of, tell, who
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import ago, error_console, plain, print_table
from gridcloud.errors import Conflict, GridcloudError, InvalidRequest, InvalidSettings, NotFound
from gridcloud.service.configuration_documents import Verb

if TYPE_CHECKING:
    from gridcloud.client.configuration import Configuration
    from gridcloud.service.configuration_desk import ConfigurationDesk

__all__ = ["VERBS"]


@framed
async def _set(
    frame: Frame,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE…]", help="E.g. limits.time=8h. VALUE is YAML."),
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="KEY", help="A key to take out; its default counts then."),
    ] = None,
) -> None:
    """Set single keys, all or none; every other line and comment of the file stays."""
    edits = changes([], settings or (), unset or (), Verb.SET)
    async with configuration_of(frame) as configuration:
        written = await configuration.edit(edits, by=who())
    tell(frame, written, f"Set {', '.join('.'.join(one.path) for one in edits)}")


@framed
async def _edit(
    frame: Frame,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Take this text; - for standard input.")
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="What for, for the history.")] = "",
) -> None:
    """Change the file in $VISUAL or $EDITOR. It is checked before it counts; what others changed meanwhile is told."""
    async with configuration_of(frame) as configuration:
        state = await configuration.get()
        if source is not None:
            written = await configuration.write(
                _read(source), since=state.digest, what=message[:200], by=who()
            )
        else:
            written = await _edit_until_valid(configuration, state.text, state.digest, message[:200])
    tell(frame, written, f"Written to {state.path}")


@framed
async def _history(frame: Frame) -> None:
    """List the texts that are kept: who wrote each, when, and what for. '*' is the present one."""
    async with configuration_of(frame) as configuration:
        found = await configuration.history()
    if frame.json:
        frame.show(found)
        return
    print_table(
        ["NUMBER", "WHEN", "WHO", "WHAT"],
        [
            (f"{one.number}{' *' if one.now else ''}", ago(one.when), one.who, one.what)
            for one in found.revisions
        ],
    )


@framed
async def _diff(
    frame: Frame,
    number: Annotated[
        int | None,
        typer.Argument(metavar="[NUMBER]", help="One of the history; the last when not given.", min=1),
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="From it to the present text, not what it changed.")
    ] = False,
) -> None:
    """Show what a change changed, or with --now what has changed since."""
    async with configuration_of(frame) as configuration:
        if number is None:
            kept = (await configuration.history()).revisions
            if not kept:
                raise NotFound("No change is kept yet.")
            number = kept[0].number
        found = await configuration.revision(number)
    if frame.json:
        frame.show(found)
    else:
        print(plain(found.since if now else found.changes), end="")


@framed
async def _rollback(
    frame: Frame,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="One of the history.", min=1)],
) -> None:
    """Write an earlier text again, once it is checked. What is replaced stays in the history."""
    async with configuration_of(frame) as configuration:
        written = await configuration.roll_back(number, by=who())
    tell(frame, written, f"Went back to {number}")


VERBS: dict[str, Any] = {
    "set": _set,
    "edit": _edit,
    "history": _history,
    "diff": _diff,
    "rollback": _rollback,
}


async def _edit_until_valid(
    configuration: Configuration | ConfigurationDesk, text: str, since: str, message: str
) -> Any:
    """Have a person change the text until it can be taken. Where they give up, their text is left in a file."""
    descriptor, name = tempfile.mkstemp(prefix="gridcloud-", suffix=".yaml")  # 0600
    path = Path(name)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    console = error_console()
    refusal: GridcloudError
    while True:
        await asyncio.to_thread(_open_editor, path)
        try:
            written = await configuration.write(
                path.read_text(encoding="utf-8"), since=since, what=message, by=who()
            )
        except InvalidSettings as error:
            refusal, problem = error, plain(error)
        except Conflict as error:
            refusal, problem = error, plain(f"{error}\n{error.details.get('changes', '')}")
            since = error.details.get("digest", since)
        else:
            path.unlink()
            return written
        console.print(problem)
        if not sys.stdin.isatty() or not await asyncio.to_thread(
            typer.confirm, "Edit again?", default=True, err=True
        ):
            console.print(plain(f"Your text is in {path}."))
            raise refusal


def _open_editor(path: Path) -> None:
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    try:
        ended = subprocess.run([*words, str(path)], check=False).returncode
    except (OSError, IndexError) as error:
        raise InvalidRequest(
            f"The editor {words[:1]} cannot be started: {error}.", remedy="Set EDITOR, or use --from FILE."
        ) from None
    if ended:
        raise InvalidRequest(f"The editor ended with {ended}; nothing was written.")


def _read(source: Path) -> str:
    try:
        return sys.stdin.read() if str(source) == "-" else source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"There is no {source}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{source} cannot be read: {error}.") from None
