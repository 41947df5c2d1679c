"""``gridcloud session …``: the Jupyter sessions of the hub, seen without it."""

from __future__ import annotations

from typing import Annotated

import typer

from gridcloud.cli.completion import sessions as session_ids
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.naming import find_session
from gridcloud.cli.printing import ago, plain, print_table, until
from gridcloud.cli.steps import Steps, print_story
from gridcloud.client import AsyncClient
from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.sessions.model import Session

__all__ = ["app"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="See, extend and stop sessions; the hub starts them."
)

Id = Annotated[
    str,
    typer.Argument(metavar="ID", help="The session's id, or its name.", autocompletion=session_ids),
]


@app.command("list")
@framed
async def list_(
    frame: Frame, all: Annotated[bool, typer.Option("--all", "-a", help="Ended ones too.")] = False
) -> None:
    """List your sessions; an administrator sees everybody's."""
    async with await frame.connect() as client:
        found = await client.sessions(all=all)
    if frame.json:
        frame.show({"sessions": [_document(session) for session in found]})
        return
    rows = [
        (session.id, session.name, session.state, session.owner, session.instance_id, ago(session.created))
        for session in found
    ]
    ended = [number for number, session in enumerate(found) if session.ended]
    print_table(("ID", "NAME", "STATE", "OWNER", "INSTANCE", "CREATED"), rows, dim=ended)


@app.command("show")
@framed
async def show(frame: Frame, id: Id) -> None:
    """Show all about one session."""
    async with await frame.connect() as client:
        session = await find_session(client, id)
        place = "" if frame.json else await _place(client, session)
    if frame.json:
        frame.show(_document(session))
        return
    lines = {
        "id": session.id,
        "name": session.name,
        "owner": session.owner,
        "state": f"{session.state} {f'({session.reason})' if session.reason else ''}",
        "detail": session.detail,
        "instance": session.instance_id,
        "runs on": place,
        "created": session.created,
        "started": session.started or "",
        "ended": session.ended or "",
        "log": f"\n{session.log}" if session.log else "",
    }
    for key, value in lines.items():
        if str(value).strip():
            print(f"{key:10}{plain(value)}".rstrip())


@app.command("stop")
@framed
async def stop(frame: Frame, id: Id) -> None:
    """Stop a session and its instance, and wait until nothing is left."""
    async with await frame.connect() as client:
        session = await find_session(client, id)
        session = await client.stop_session(session.id)
        with Steps(frame, f"Stopping {session.id}") as steps:
            async for _ in client.session_events(session.id, follow=True):
                pass
            await client.wait_ended(session.instance_id)
            session = await client.session(session.id)
            steps.tell(f"Stopped {session.id}: {session.detail or 'nothing is left of it.'}")
    if frame.json:
        frame.show(_document(session))


@app.command("extend")
@framed
async def extend(
    frame: Frame,
    id: Id,
    time: Annotated[
        str,
        typer.Argument(metavar="[TIME]", help="From now on, e.g. 2h; left out: as the button in JupyterLab."),
    ] = "",
) -> None:
    """Let a running session live longer, and take it for used."""
    from gridcloud.settings import parse_duration

    try:
        seconds = parse_duration(time) if time else None
    except ValueError as error:
        raise InvalidRequest(f"TIME: {error}.") from None
    async with await frame.connect() as client:
        session = await find_session(client, id)
        instance = await client.extend_session(session.id, time=seconds)
    if frame.json:
        frame.show({"session": session.id, "ends": instance.expires and instance.expires.isoformat()})
    elif instance.expires is None:
        print(f"{session.id} has no end of its own; it counts as used now.")
    else:
        print(f"{session.id} ends {until(instance.expires)} ({instance.expires:%Y-%m-%d %H:%M:%S} UTC).")


@app.command("events")
@framed
async def events(
    frame: Frame,
    id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends.")] = False,
) -> None:
    """Tell a session's story, its instance's included. With --json one document a line."""
    async with await frame.connect() as client:
        session = await find_session(client, id)
        await print_story(frame, client.session_events(session.id, follow=follow))


async def _place(client: AsyncClient, session: Session) -> str:
    """Return whose machine a session runs on, for people; empty while there is none."""
    if not session.instance_id:
        return ""
    try:
        instance = await client.instance(session.instance_id)
    except NotFound:
        return ""
    return instance.offer.source if instance.offer else ""


def _document(session: Session) -> object:
    return session.model_dump(mode="json", exclude={"plan"})
