"""``gridcloud grid …``: institutions that lend to each other; who we are among them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from gridcloud.cli import grid_communities, grid_keys, grid_leases, grid_ledger
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.grid_simulation import simulate
from gridcloud.cli.printing import ago, error_console, output_console, plain, print_table, until

if TYPE_CHECKING:
    from gridcloud.grid.model import Community, Link, Refusal, Standing, Status

__all__ = ["app"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Institutions that lend machines to each other."
)


@app.command("init")
@framed
async def init(
    frame: Frame,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What other institutions are to call this one.")
    ],
) -> None:
    """Make the keys of this institution, and print the fingerprint that others know it by."""
    async with await frame.connect() as client:
        standing = await client.grid.init(name)
        alone = client.embedded
    if frame.json:
        frame.show(standing)
        return
    _print_standing(standing)
    sys.stdout.flush()
    tell = error_console().print
    tell("\nRead the fingerprint to whoever invites you, over the telephone, and let theirs be read to you.")
    tell("To begin a community of your own: gridcloud grid found NAME")
    grid_communities.tell_alone(alone)


@app.command("status")
@framed
async def status(
    frame: Frame,
    refused: Annotated[
        bool, typer.Option("--refused", help="The latest messages that were not accepted, too.")
    ] = False,
) -> None:
    """Show who this institution is, its communities, and the links to their members."""
    async with await frame.connect() as client:
        found = await client.grid.status()
        alone = client.embedded
    if frame.json:
        frame.show(found)
        return
    if found.standing is None:
        print("This gridcloud does not take part in the grid yet: gridcloud grid init NAME")
        return
    _print_standing(found.standing)
    _print_door(found)
    _print_communities(found.communities)
    _print_links(found.links)
    _print_invitations(found)
    if refused:
        _print_refusals(found.refusals)
    for warning in found.warnings:
        error_console().print(f"! {plain(warning)}")
    grid_communities.tell_alone(alone)


for group in (grid_communities, grid_leases, grid_ledger):
    for verb, function in group.VERBS.items():
        app.command(verb)(function)
app.add_typer(grid_keys.app, name="key")
app.command("simulate")(simulate)


def _print_standing(standing: Standing) -> None:
    groups = standing.fingerprint.split()
    print(f"{plain(standing.name)}: {standing.institution}")
    print(f"  fingerprint  {' '.join(groups[:5])}")
    print(f"               {' '.join(groups[5:])}")
    if not standing.root_here:
        print("  root key     kept elsewhere; verbs that sign with it take --root FILE")


def _print_door(found: Status) -> None:
    print(f"  listening    {found.listening or 'nowhere'}")
    if found.addresses:
        print(f"  reached at   {' '.join(map(plain, found.addresses))}")
    if found.relays:
        print(f"  relays       {' '.join(map(plain, found.relays))}")
    if found.relays_others:
        print("  relays for members that cannot be reached")


def _print_communities(communities: Sequence[Community]) -> None:
    if not communities:
        return
    print()
    rows = [
        (
            one.name,
            grid_communities.count_members(one),
            f"{one.threshold} sign",
            "never ends" if one.ends is None else f"ends {until(one.ends)}",
            grid_communities.describe_state(one),
            one.community,
        )
        for one in communities
    ]
    print_table(("COMMUNITY", "MEMBERS", "LISTS", "", "STATE", "ID"), rows, whole=["ID"])


def _print_links(links: Sequence[Link]) -> None:
    if not links:
        return
    print()
    rows = [
        (
            one.name,
            one.institution,
            one.way.value,
            one.address,
            ago(one.last_heard) or "never",
            "" if one.skew is None or abs(one.skew) < 1 else f"{one.skew:+.0f} s",
            f"{one.sent}/{one.received}",
            one.refused or "",
            one.last_failure,
        )
        for one in links
    ]
    print_table(
        ("MEMBER", "ID", "REACHED", "AT", "HEARD", "CLOCK", "SENT/GOT", "REFUSED", "LAST FAILURE"),
        rows,
        whole=["ID"],
    )


def _print_invitations(found: Status) -> None:
    if not found.invitations:
        return
    names = {one.community: one.name for one in found.communities}
    names |= {member.institution: member.name for one in found.communities for member in one.members}
    print()
    rows = [
        (
            one.id,
            names.get(one.community, one.community),
            names.get(one.guest, ""),
            one.guest,
            one.spent.removeprefix(f"{one.guest} ") or _describe_expiry(one.expires),
        )
        for one in found.invitations
    ]
    print_table(("INVITATION", "COMMUNITY", "GUEST", "ID", ""), rows, whole=["INVITATION", "ID"])


def _describe_expiry(moment: datetime) -> str:
    over = moment <= datetime.now(UTC)
    return f"expired {ago(moment)}" if over else f"expires {until(moment)}"


def _print_refusals(refusals: Sequence[Refusal]) -> None:
    print()
    rows = [(f"{one.when:%Y-%m-%d %H:%M:%S}", one.who, one.what, one.error, one.why) for one in refusals]
    print_table(("REFUSED AT", "FROM", "MESSAGE", "ERROR", "WHY"), rows)
    if not refusals:
        output_console().print("No message was refused since this service started.")
