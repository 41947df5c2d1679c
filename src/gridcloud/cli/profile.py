"""``gridcloud profile …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gridcloud.cli.completion import profiles
from gridcloud.cli.configuring import apply, changes, configuration_of, entry_of, read_entry, the_edit
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import plain, print_table
from gridcloud.service.configuration_documents import Verb

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="What the spawn page offers, and to whom.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The profile's name.", autocompletion=profiles)]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE…]", help="VALUE is YAML; a.b=c goes inside a; a key given twice makes a list."
    ),
]


@app.command("list")
@framed
async def list_(frame: Frame) -> None:
    """List the profiles: to whom each is offered, and the courses that use it."""
    async with configuration_of(frame) as configuration:
        state = await configuration.get()
    if frame.json:
        frame.show({"profiles": [one.model_dump(mode="json") for one in state.profiles]})
        return
    print_table(
        ["NAME", "TITLE", "FOR", "COURSES", "SPAWNER"],
        [(one.name, one.title, one.offered, " ".join(one.courses), one.spawner) for one in state.profiles],
    )
    for fault in state.faults:
        print(plain(f"{fault.place}: {fault.key}: {fault.message}"))


@app.command("show")
@framed
async def show(frame: Frame, name: Name) -> None:
    """Show a profile as the configuration file has it."""
    entry, text = await entry_of(frame, "profiles", name)
    if frame.json:
        frame.show({name: entry})
    else:
        print(plain(text), end="")


@app.command("add")
@framed
async def add(
    frame: Frame,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A new name.")],
    settings: Words = None,
    file: Annotated[Path | None, typer.Option("--file", help="A YAML file with its keys.")] = None,
) -> int:
    """Add a profile, once the configuration with it is checked. It is offered from now on."""
    entry = read_entry(settings or (), file)
    return await apply(frame, [the_edit(Verb.ADD, ["profiles", name], entry)], f"Added {name}")


@app.command("change")
@framed
async def change(
    frame: Frame,
    name: Name,
    settings: Words = None,
    unset: Annotated[
        list[str] | None, typer.Option("--unset", metavar="KEY", help="A key to take out.")
    ] = None,
) -> int:
    """Change keys of a profile. It counts from the next start; running sessions stay as they are."""
    edits = changes(["profiles", name], settings or (), unset or (), Verb.CHANGE)
    return await apply(frame, edits, f"Changed {name}")


@app.command("remove")
@framed
async def remove(frame: Frame, name: Name) -> int:
    """Take a profile out. Refused while a course names it; its running sessions go on."""
    return await apply(frame, [the_edit(Verb.REMOVE, ["profiles", name])], f"Removed {name}")
