"""``gridcloud grid {leases,reclaim,drain}``: what is lent and borrowed now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.grid_communities import confirm
from gridcloud.cli.printing import ago, count, error_console, plain, print_table, until
from gridcloud.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from gridcloud.service.grid_documents import Lease

__all__ = ["VERBS", "drain", "leases", "reclaim"]

Why = Annotated[str, typer.Option("--why", help="The reason, which its user sees.")]
In = Annotated[
    str | None,
    typer.Option("--in", metavar="TIME", help="When it ends, e.g. 10min; the configured grace if left out."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


@framed
async def leases(
    frame: Frame, all: Annotated[bool, typer.Option("--all", "-a", help="Ended ones too.")] = False
) -> None:
    """List the machines that are lent to other institutions, and borrowed from them."""
    async with await frame.connect() as client:
        found = await client.grid.leases(all=all)
    if frame.json:
        frame.show(found)
        return
    rows = [_row(one) for one in found.leases]
    headings = ("LEASE", "", "INSTITUTION", "USER", "SIZE", "STATE", "BEGAN", "FREE AGAIN", "INSTANCE")
    ended = [number for number, one in enumerate(found.leases) if one.reason]
    print_table(headings, rows, dim=ended, whole=["LEASE"])
    if found.drained:
        error_console().print(
            f"Nothing new is lent: {plain(found.drained)}. To lend again: gridcloud grid drain --resume"
        )


@framed
async def reclaim(
    frame: Frame,
    lease: Annotated[
        str, typer.Argument(metavar="LEASE", help="Its id, or its instance's, as `leases` shows them.")
    ],
    why: Why = "",
    time: In = None,
    yes: Yes = False,
) -> None:
    """Ask for a machine back that is lent: its user is warned, its work saved, and then it ends."""
    seconds = _seconds(time)
    async with await frame.connect() as client:
        leases = (await client.grid.leases()).leases
        lent = [one for one in leases if one.way == "lent" and lease in (one.lease, one.instance)]
        if not lent:
            raise NotFound(f"Nothing is lent as {lease!r:.80}.", remedy="gridcloud grid leases")
        if len(lent) > 1:
            raise InvalidRequest(f"{len(lent)} institutions have a lease {lease!r:.80}: drain, or wait.")
        one = lent[0]
        confirm(frame, f"Ask {plain(one.name)} for the machine of {plain(one.user)} back?", yes)
        one = await client.grid.reclaim(one.institution, one.lease, why, time=seconds)
    if frame.json:
        frame.show(one)
    else:
        error_console().print(f"{plain(one.name)} is warned; it ends {until(one.deadline)}.")


@framed
async def drain(
    frame: Frame,
    why: Why = "",
    time: In = None,
    resume: Annotated[bool, typer.Option("--resume", help="Lend again.")] = False,
    yes: Yes = False,
) -> None:
    """Lend nothing new, and ask for all that is lent back: before maintenance."""
    seconds = _seconds(time)
    async with await frame.connect() as client:
        if resume:
            await client.grid.resume()
            found = await client.grid.leases()
        else:
            lent = sum(one.way == "lent" for one in (await client.grid.leases()).leases)
            if lent:
                confirm(frame, f"Ask for {count(lent, 'lent machine')} back?", yes)
            found = await client.grid.drain(why, time=seconds)
    if frame.json:
        frame.show(found)
    elif resume:
        error_console().print("Machines are lent again, as the configuration says.")
    else:
        left = sum(one.way == "lent" for one in found.leases)
        error_console().print(f"Nothing new is lent; {left} machines are to come back.")


VERBS: dict[str, Callable[..., Any]] = {"leases": leases, "reclaim": reclaim, "drain": drain}


def _row(one: Lease) -> tuple[object, ...]:
    from gridcloud.settings import format_size

    cores = f"{one.cpus:g} core{'' if one.cpus == 1 else 's'}"
    size = [cores, format_size(one.memory)] + ([count(one.gpus, "GPU")] if one.gpus else [])
    state = ", ".join(filter(None, (one.state, one.reason, one.why)))
    return (
        one.lease,
        "lent to" if one.way == "lent" else "borrowed from",
        one.name or one.institution,
        one.user,
        ", ".join(size),
        state,
        ago(one.began),
        "" if one.reason else f"asked back, {until(one.deadline)}" if one.deadline else until(one.until),
        one.instance,
    )


def _seconds(time: str | None) -> int | None:
    from gridcloud.settings import parse_duration

    if time is None:
        return None
    try:
        return parse_duration(time)
    except ValueError as error:
        raise InvalidRequest(f"--in: {error}.") from None
