"""``gridcloud instance …``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from gridcloud.cli.completion import instances as instance_ids
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.lives import obtain
from gridcloud.cli.mishaps import Interrupted
from gridcloud.cli.naming import find_instance, find_instances
from gridcloud.cli.places import read_configuring, read_hook
from gridcloud.cli.printing import ago, plain, print_table, until
from gridcloud.cli.steps import Steps, print_story
from gridcloud.cli.streams import run_command
from gridcloud.errors import InvalidRequest
from gridcloud.instances.costs import describe_cost
from gridcloud.instances.matching import describe, describe_price
from gridcloud.instances.model import Instance, Offer, Request

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Start, use and stop instances.")

Id = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="The instance's id, or the name you gave it.", autocompletion=instance_ids
    ),
]


@app.command("start")
@framed
async def start(
    frame: Frame,
    request: Request,
    name: Annotated[str, typer.Option("--name", help="What you call it.")] = "",
    configure: Annotated[
        list[Path] | None,
        typer.Option("--configure", metavar="FILE", help="YAML file of configurers to run."),
    ] = None,
    requirements: Annotated[
        list[Path] | None, typer.Option("--requirements", metavar="FILE", help="Python packages to install.")
    ] = None,
    before_end: Annotated[
        str, typer.Option("--before-end", metavar="CMD", help="Shell command to run on it before it ends.")
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until it is ready, or not where a service runs.")
    ] = True,
) -> None:
    """Start an instance on the best offer, or on the next when it is refused."""
    entries = read_configuring(configure or (), requirements or ())
    async with await frame.connect(alone=not wait) as client:
        if wait:
            instance = await obtain(
                frame, client, request, name=name, configure=entries, before_end=read_hook(before_end)
            )
        else:
            instance = await client.start(
                request, name=name, configure=entries, before_end=read_hook(before_end)
            )
    if frame.json:
        frame.show(instance)
    else:
        print(instance.id)


@app.command("list")
@framed
async def list_(
    frame: Frame, all: Annotated[bool, typer.Option("--all", "-a", help="Ended ones too.")] = False
) -> None:
    """List your instances; an administrator sees everybody's."""
    async with await frame.connect() as client:
        found = await client.instances(all=all)
        currency = "" if frame.json else (await client.version()).currency
    if frame.json:
        frame.show({"instances": [instance.model_dump(mode="json") for instance in found]})
        return
    ended = [number for number, instance in enumerate(found) if instance.ended_at]
    print_table(
        ("ID", "NAME", "STATE", "PROVIDER", "SHAPE", "OWNER", "CREATED", "ENDS", f"COST {currency}"),
        [_row(instance) for instance in found],
        dim=ended,
    )


@app.command("show")
@framed
async def show(frame: Frame, id: Id) -> None:
    """Show all about one instance."""
    async with await frame.connect() as client:
        instance = await find_instance(client, id)
        currency = "" if frame.json else (await client.version()).currency
    if frame.json:
        frame.show(instance)
        return
    offer = instance.offer
    lines: dict[str, object] = {
        "id": instance.id,
        "name": instance.name,
        "owner": instance.owner,
        "state": f"{instance.state} {f'({instance.reason})' if instance.reason else ''}",
        "detail": instance.detail,
        "provider": offer.source if offer else "",
        "terms": offer.terms if offer else "",
        "shape": describe(offer.shape) if offer else "",
        "price": _price(offer, currency) if offer else "",
        "cost": describe_cost(instance.charges, datetime.now(UTC), currency),
        "image": offer.image if offer else "",
        "location": offer.location if offer else "",
        **{one.step: f"{one.chosen}: {one.why}" for one in (offer.steps if offer else ())},
        "warning": instance.notice,
        "refused": "; ".join(f"{one.provider}: {one.why_not}" for one in instance.refused),
        "created": instance.created,
        "ready": instance.ready_at or "",
        "ends" if not instance.ended_at else "ended": instance.ended_at or until(instance.expires),
    }
    for key, value in lines.items():
        if str(value).strip():
            print(f"{key:10}{plain(value).strip()}")


@app.command("ssh")
@framed
async def ssh(
    frame: Frame,
    id: Id,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- CMD…]", help="A command; a login shell when left out.")
    ] = None,
    terminal: Annotated[
        bool, typer.Option("--tty", "-t", help="Give the command a terminal; a shell has one anyway.")
    ] = False,
) -> int:
    """Open a shell on a ready instance, whatever it is reached by, or run a command there."""
    import sys

    words = command or ["sh", "-c", 'exec "${SHELL:-/bin/sh}" -l']
    async with await frame.connect() as client:
        instance = await find_instance(client, id)
        code = await run_command(
            frame, client, instance.id, words, terminal=terminal or (not command and sys.stdin.isatty())
        )
    if frame.signalled:
        raise Interrupted(frame.signalled)
    return code


@app.command("stop")
@framed
async def stop(
    frame: Frame,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID…]", help="Their ids or names.", autocompletion=instance_ids),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="All of your own.")] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Wait until nothing is left, or not where a service runs."),
    ] = True,
) -> None:
    """Stop instances and wait until nothing is left of them."""
    if bool(ids) == all:
        raise InvalidRequest("Name the instances to stop, or --all, not both.")
    async with await frame.connect(alone=not wait) as client:
        if ids:
            meant = await find_instances(client, ids)
        else:
            meant = await client.instances(owner=(await client.version()).user)
        asked = [await client.stop(instance.id) for instance in meant]
        with Steps(frame) as steps:
            if wait:
                asked = [await _await_end(steps, client, instance) for instance in asked]
    if frame.json:
        frame.show({"instances": [instance.model_dump(mode="json") for instance in asked]})


@app.command("extend")
@framed
async def extend(
    frame: Frame, id: Id, time: Annotated[str, typer.Argument(metavar="TIME", help="From now on, e.g. 2h.")]
) -> None:
    """Let an instance live for so long from now."""
    from gridcloud.settings import parse_duration

    try:
        seconds = parse_duration(time)
    except ValueError as error:
        raise InvalidRequest(f"TIME: {error}.") from None
    async with await frame.connect() as client:
        instance = await find_instance(client, id)
        instance = await client.extend(instance.id, time=seconds)
    if frame.json:
        frame.show(instance)
    else:
        print(f"{instance.id} ends {until(instance.expires)} ({instance.expires:%Y-%m-%d %H:%M:%S} UTC).")


@app.command("events")
@framed
async def events(
    frame: Frame,
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends.")] = False,
) -> None:
    """Tell an instance's story. With --json one document a line."""
    async with await frame.connect() as client:
        instance = await find_instance(client, id)
        await print_story(frame, client.instance_events(instance.id, follow=follow))


def _price(offer: Offer, currency: str) -> str:
    if not offer.priced:
        return "not known"
    return describe_price(offer.price, currency) if offer.price else ""


async def _await_end(steps: Steps, client: Any, instance: Instance) -> Instance:
    steps.wait_for(f"Stopping {instance.id}")
    ended: Instance = await client.wait_ended(instance.id)
    steps.tell(f"Stopped {ended.id}: {ended.detail or 'nothing is left of it.'}")
    return ended


def _row(instance: Instance) -> tuple[object, ...]:
    offer = instance.offer
    return (
        instance.id,
        instance.name,
        f"{instance.state} ({instance.reason})" if instance.reason else instance.state,
        offer.source if offer else "",
        describe(offer.shape) if offer else "",
        instance.owner,
        ago(instance.created),
        f"ended {ago(instance.ended_at)}" if instance.ended_at else until(instance.expires),
        describe_cost(instance.charges, datetime.now(UTC)) or "0",
    )
