"""``gridcloud course …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gridcloud.cli.completion import courses
from gridcloud.cli.configuring import apply, changes, configuration_of, entry_of, read_entry, the_edit
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import error_console, plain, print_table
from gridcloud.service.configuration_documents import Verb

__all__ = ["app"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Courses: their rosters, profiles, days and limits."
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The course's name.", autocompletion=courses)]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE…]", help="VALUE is YAML; a.b=c goes inside a; a key given twice makes a list."
    ),
]


@app.command("list")
@framed
async def list_(frame: Frame) -> None:
    """List the courses and what is wrong with any roster."""
    async with configuration_of(frame) as configuration:
        state = await configuration.get()
    if frame.json:
        frame.show({"courses": [one.model_dump(mode="json") for one in state.courses]})
        return
    print_table(
        ["NAME", "TITLE", "TEACHERS", "PROFILES", "FROM", "UNTIL", "BY NAME", "PROBLEM"],
        [
            (
                one.name,
                one.title,
                " ".join(one.teachers),
                " ".join(one.profiles),
                one.since or "",
                one.until or "",
                one.listed,
                one.problem,
            )
            for one in state.courses
        ],
    )
    for fault in state.faults:
        print(plain(f"{fault.place}: {fault.key}: {fault.message}"))


@app.command("show")
@framed
async def show(frame: Frame, name: Name) -> None:
    """Show a course as the configuration file has it."""
    entry, text = await entry_of(frame, "courses", name)
    if frame.json:
        frame.show({name: entry})
    else:
        print(plain(text), end="")


@app.command("members")
@framed
async def members(frame: Frame, name: Name) -> None:
    """List who is in a course: teachers, users, groups, LTI contexts, and what its file lists."""
    async with configuration_of(frame) as configuration:
        found = await configuration.members(name)
    if frame.json:
        frame.show(found)
        return
    rows = [
        (kind, one)
        for kind, names in (
            ("teacher", found.teachers),
            ("user", found.users),
            ("group", found.groups),
            ("lti", found.lti),
            ("file", found.listed),
        )
        for one in names
    ]
    print_table(["BY", "MEMBER"], rows)
    if found.problem:
        error_console().print(plain(found.problem))


@app.command("add")
@framed
async def add(
    frame: Frame,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A new name.")],
    settings: Words = None,
    file: Annotated[Path | None, typer.Option("--file", help="A YAML file with its keys.")] = None,
) -> int:
    """Add a course, once the configuration with it is checked."""
    entry = read_entry(settings or (), file)
    return await apply(frame, [the_edit(Verb.ADD, ["courses", name], entry)], f"Added {name}")


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
    """Change keys of a course. It counts from the next start; running sessions stay as they are."""
    edits = changes(["courses", name], settings or (), unset or (), Verb.CHANGE)
    return await apply(frame, edits, f"Changed {name}")


@app.command("remove")
@framed
async def remove(frame: Frame, name: Name) -> int:
    """Take a course out. Sessions that were started for it go on until they end."""
    return await apply(frame, [the_edit(Verb.REMOVE, ["courses", name])], f"Removed {name}")
