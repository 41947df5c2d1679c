"""``gridcloud stack …``: several instances as one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridcloud.cli.completion import stacks
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import ago, error_console, plain, print_table
from gridcloud.cli.steps import Steps, print_story
from gridcloud.client import AsyncClient
from gridcloud.errors import Conflict, InvalidRequest, Unavailable

if TYPE_CHECKING:
    from gridcloud.stacks.model import Definition, Stack

__all__ = ["app", "read_plans"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Several instances as one thing.")
pools = typer.Typer(add_completion=False, no_args_is_help=True, help="Named sets of a stack's instances.")
app.add_typer(pools, name="pool")

Id = Annotated[
    str, typer.Argument(metavar="STACK", help="The stack's name, or its id.", autocompletion=stacks)
]
File = Annotated[Path | None, typer.Option("--file", "-f", metavar="FILE", help="YAML file of the stack.")]
Plans = Annotated[
    list[str] | None,
    typer.Option("--plan", metavar="NAME=FILE", help="A plan that the file names and does not hold."),
]
Instances = Annotated[list[str], typer.Argument(metavar="INSTANCE…", help="Names of instances of the stack.")]
Pool = Annotated[str, typer.Argument(metavar="POOL", help="The pool's name.")]


def read_plans(words: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Return the plans that ``--plan NAME=FILE`` names. Raises InvalidRequest for what is not that."""
    from gridcloud.stacks.reading import read_file

    named = {}
    for word in words or ():
        name, has_file, path = word.partition("=")
        if not name or not has_file:
            raise InvalidRequest(f"--plan {word!r} is no NAME=FILE.")
        named[name] = read_file(Path(path).expanduser())
    return named


@app.command("create")
@framed
async def create(
    frame: Frame,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A new name.")],
    file: File = None,
    plan: Plans = None,
) -> None:
    """Write a stack down, from a file of ours or of corc. Nothing is started."""
    definition = _read(file, plan)
    async with await frame.connect() as client:
        stack = await client.define_stack(name, definition)
    if frame.json:
        frame.show(stack)
    else:
        print(stack.id)


@app.command("deploy")
@framed
async def deploy(
    frame: Frame,
    id: Id,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", "-k", help="Keep what could be had when some cannot.")
    ] = False,
) -> None:
    """Obtain all its instances at once: all of them, or none and the reasons."""
    async with await frame.connect() as client:
        told = await _last_event(client, (await client.stack(id)).id)
        stack = await client.deploy_stack(id, keep_going=keep_going)
        with Steps(frame, f"Deploying {stack.name}") as steps:
            stack = await client.wait_stack(stack.id, steps.event, after=told)
    _show(frame, stack)
    if stack.state != "deployed":
        raise Unavailable(
            stack.detail or f"The stack is {stack.state}.", remedy="Change the stack, or try again."
        )


@app.command("list")
@framed
async def list_(
    frame: Frame,
    all: Annotated[bool, typer.Option("--all", "-a", help="Those that are gone, too.")] = False,
    regex: Annotated[str, typer.Option("--regex", help="Only those whose name fits.")] = "",
) -> None:
    """List your stacks; an administrator sees everybody's."""
    import re

    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise InvalidRequest(f"--regex {regex!r}: {error}.") from None
    async with await frame.connect() as client:
        found = [stack for stack in await client.stacks(all=all) if pattern.search(stack.name)]
    if frame.json:
        frame.show({"stacks": [stack.model_dump(mode="json") for stack in found]})
        return
    rows = [
        (stack.name, stack.id, stack.state, _count(stack), len(stack.pools), stack.owner, ago(stack.created))
        for stack in found
    ]
    print_table(("NAME", "ID", "STATE", "INSTANCES", "POOLS", "OWNER", "CREATED"), rows)


@app.command("show")
@framed
async def show(frame: Frame, id: Id) -> None:
    """Show all about one stack."""
    async with await frame.connect() as client:
        stack = await client.stack(id)
    _show(frame, stack)


@app.command("update")
@framed
async def update(
    frame: Frame,
    id: Id,
    file: File = None,
    plan: Plans = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="A new name.")] = None,
) -> None:
    """Change what a stack is to be, or its name. Deploy it to bring its instances to that: what stays the same is
    left alone, what was taken out or changed ends."""
    if file is None and name is None:
        raise InvalidRequest("Nothing is to be changed.", remedy="Give --file or --name.")
    definition = _read(file, plan) if file is not None else None
    async with await frame.connect() as client:
        stack = await client.update_stack(id, name=name, definition=definition)
    _show(frame, stack)


@app.command("destroy")
@framed
async def destroy(frame: Frame, id: Id) -> None:
    """End all its instances, wait until nothing is left, and forget it."""
    async with await frame.connect() as client:
        told = await _last_event(client, (await client.stack(id, all=True)).id)
        stack = await client.destroy_stack(id)
        had = sum(bool(member.instance_id) for member in stack.members.values())
        with Steps(frame, f"Destroying {stack.name}") as steps:
            stack = await client.wait_stack(stack.id, steps.event, after=told)
    if frame.json:
        frame.show(stack)
    else:
        whom = (
            f"with its {had} instances" if had > 1 else "with its instance" if had else "it had no instances"
        )
        error_console().print(plain(f"{stack.name} is gone, {whom}."))


@app.command("events")
@framed
async def events(
    frame: Frame,
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it is gone.")] = False,
) -> None:
    """Tell a stack's story. With --json one document a line."""
    async with await frame.connect() as client:
        stack = await client.stack(id)
        await print_story(frame, client.stack_events(stack.id, follow=follow))


@pools.command("create")
@framed
async def create_pool(frame: Frame, id: Id, pool: Pool) -> None:
    """Make an empty pool."""

    def change(found: dict[str, tuple[str, ...]]) -> None:
        if pool in found:
            raise InvalidRequest(f"There is a pool {pool} already.")
        found[pool] = ()

    await _change_pools(frame, id, change)


@pools.command("add")
@framed
async def add_to_pool(frame: Frame, id: Id, pool: Pool, instances: Instances) -> None:
    """Put instances of the stack into a pool."""

    def change(found: dict[str, tuple[str, ...]]) -> None:
        twice = sorted(set(_pool(found, pool)) & set(instances))
        if twice:
            raise InvalidRequest(f"{', '.join(twice)} is in the pool {pool} already.")
        found[pool] = (*found[pool], *instances)

    await _change_pools(frame, id, change)


@pools.command("remove")
@framed
async def remove_from_pool(frame: Frame, id: Id, pool: Pool, instances: Instances) -> None:
    """Take instances out of a pool."""

    def change(found: dict[str, tuple[str, ...]]) -> None:
        strangers = sorted(set(instances) - set(_pool(found, pool)))
        if strangers:
            raise InvalidRequest(f"{', '.join(strangers)} is not in the pool {pool}.")
        found[pool] = tuple(name for name in found[pool] if name not in instances)

    await _change_pools(frame, id, change)


@pools.command("delete")
@framed
async def delete_pool(frame: Frame, id: Id, pool: Pool) -> None:
    """Forget a pool; its instances stay in the stack."""

    def change(found: dict[str, tuple[str, ...]]) -> None:
        _pool(found, pool)
        del found[pool]

    await _change_pools(frame, id, change)


async def _last_event(client: AsyncClient, stack_id: str) -> int:
    """Return the number of the newest event so far: what happened before need not be told again."""
    return max([event.seq async for event in client.stack_events(stack_id)], default=0)


def _pool(found: dict[str, tuple[str, ...]], name: str) -> Sequence[str]:
    if name not in found:
        raise InvalidRequest(f"There is no pool {name} (there are: {', '.join(found) or 'none'}).")
    return found[name]


async def _change_pools(frame: Frame, id: str, change: Callable[[dict[str, tuple[str, ...]]], None]) -> None:
    async with await frame.connect() as client:
        _show(frame, await _change(client, id, change))


async def _change(
    client: AsyncClient, id: str, change: Callable[[dict[str, tuple[str, ...]]], None]
) -> Stack:
    from pydantic import ValidationError

    from gridcloud.stacks.model import Definition

    while True:
        stack = await client.stack(id)
        definition = stack.definition()
        found = dict(definition.pools)
        change(found)
        try:
            definition = Definition(instances=definition.instances, pools=found)
        except ValidationError as error:
            text = str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
            raise InvalidRequest(text) from None
        try:
            return await client.update_stack(stack.id, definition=definition, version=stack.version)
        except Conflict:
            continue  # somebody else changed it meanwhile


def _read(file: Path | None, plans: Sequence[str] | None) -> Definition:
    from gridcloud.stacks.reading import read_definition, read_file

    document = read_file(file.expanduser()) if file is not None else {}
    return read_definition(document, read_plans(plans))


def _count(stack: Stack) -> str:
    having = sum(bool(member.instance_id) for member in stack.members.values())
    return f"{having} of {len(stack.members)}"


def _show(frame: Frame, stack: Stack) -> None:
    if frame.json:
        frame.show(stack)
        return
    lines = {
        "name": stack.name,
        "id": stack.id,
        "owner": stack.owner,
        "state": stack.state,
        "detail": stack.detail,
        "pools": "; ".join(f"{name}: {', '.join(names) or 'empty'}" for name, names in stack.pools.items()),
    }
    for key, value in lines.items():
        if str(value).strip():
            print(f"{key:10}{plain(value)}")
    if stack.members:
        rows = [(name, member.instance_id, member.problem) for name, member in stack.members.items()]
        print_table(("INSTANCE", "ID", "PROBLEM"), rows)
