"""``gridcloud grid {found,invite,join,members,sign,…}``: whom this institution trusts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gridcloud.cli.completion import communities
from gridcloud.cli.frame import Frame, framed
from gridcloud.cli.printing import error_console, plain, print_table, until
from gridcloud.errors import Conflict, InvalidRequest, NotFound

if TYPE_CHECKING:
    from gridcloud.client import AsyncClient
    from gridcloud.federation.records import Profile
    from gridcloud.grid.model import Community, Member, Proposal
    from gridcloud.identity import Secret

__all__ = [
    "VERBS",
    "RootFile",
    "adopt",
    "branch",
    "change",
    "confirm",
    "count_members",
    "describe_state",
    "forget",
    "found",
    "invite",
    "join",
    "leave",
    "members",
    "read_root",
    "revoke",
    "sign",
    "tell_alone",
    "withdraw",
]

PATIENCE = 5.0
"""Seconds to wait for the list of members that we are on."""
LARGEST = 2**20
"""Characters of an invitation, or of lists of members: more is no request."""

Name = Annotated[
    str,
    typer.Argument(metavar="COMMUNITY", help="A community's name, or its id.", autocompletion=communities),
]
Fingerprint = Annotated[
    list[str], typer.Argument(metavar="FINGERPRINT…", help="Ten groups of five digits, as they were heard.")
]
RootFile = Annotated[
    Path | None, typer.Option("--root", metavar="FILE", help="The root key, where it is kept elsewhere.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
Ends = Annotated[
    str | None,
    typer.Option("--ends", metavar="WHEN", help="When it ends by itself: a date (UTC), or e.g. 90d."),
]


@framed
async def found(
    frame: Frame,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new community's name.")],
    ends: Ends = None,
    root: RootFile = None,
) -> None:
    """Begin a community with this institution as its only member."""
    moment, key = _moment(ends), read_root(root)
    async with await frame.connect() as client:
        made = await client.grid.found(name, ends=moment, root=key)
    if frame.json:
        frame.show(made)
        return
    print(made.community, flush=True)
    error_console().print(f"To invite an institution: gridcloud grid invite {plain(made.name)} FINGERPRINT")


@framed
async def invite(
    frame: Frame,
    community: Name,
    guest: Fingerprint,
    time: Annotated[str, typer.Option("--time", help="How long the invitation is valid, e.g. 2d.")] = "7d",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write it; else it is printed."),
    ] = None,
) -> None:
    """Invite the institution with this fingerprint. What is printed is for it alone, and no secret: send it anyhow."""
    from gridcloud.settings import parse_duration

    try:
        seconds = parse_duration(time)
    except ValueError as error:
        raise InvalidRequest(f"--time: {error}.") from None
    async with await frame.connect() as client:
        made = await client.grid.invite(community, " ".join(guest), time=seconds)
        standing, alone = (await client.grid.status()).standing, client.embedded
    text = json.dumps(made.document)
    if output is not None:
        _write(output, text)
    if frame.json:
        frame.show(made)
        return
    if output is None:
        print(text, flush=True)
    tell = error_console().print
    tell(
        f"Invitation {made.invitation.id} for {made.invitation.guest}; it expires {until(made.invitation.expires)}."
    )
    if standing is not None:
        tell("There, with it in a file, and our fingerprint as it is read to them:")
        tell(f"gridcloud grid join FILE {standing.fingerprint}", soft_wrap=True)
    tell_alone(alone)


@framed
async def withdraw(
    frame: Frame, id: Annotated[str, typer.Argument(metavar="INVITATION", help="Its id; status lists them.")]
) -> None:
    """Make an invitation worthless."""
    async with await frame.connect() as client:
        await client.grid.withdraw(id)
    _say(frame, f"The invitation {id} is withdrawn.", {"withdrawn": id})


@framed
async def join(
    frame: Frame,
    invitation: Annotated[str, typer.Argument(metavar="FILE", help="The invitation; -: standard input.")],
    inviter: Fingerprint,
) -> None:
    """Answer an invitation of the institution with this fingerprint. It may be done again."""
    document = _read_document(invitation, "invitation", "gridcloud grid invite")
    async with await frame.connect() as client:
        joined = await _await_list(client, await client.grid.join(document, " ".join(inviter)))
        alone = client.embedded
    if frame.json:
        frame.show(joined)
        return
    if joined.joining:
        error_console().print(
            f"{plain(joined.name)} was asked. We are a member once {joined.threshold} of its members signed: "
            "gridcloud grid status shows it."
        )
    else:
        error_console().print(
            f"We are a member of {plain(joined.name)}, with {count_members(joined)} members."
        )
    tell_alone(alone)


@framed
async def members(
    frame: Frame,
    community: Annotated[
        str | None, typer.Argument(metavar="[COMMUNITY]", help="One community; all are shown otherwise.")
    ] = None,
) -> None:
    """List the members of our communities, what they have free, and what waits to be signed."""
    async with await frame.connect() as client:
        shown = [await client.grid.community(community)] if community else await client.grid.communities()
    if frame.json:
        frame.show({"communities": [one.model_dump(mode="json") for one in shown]})
        return
    if not shown:
        error_console().print(
            "This gridcloud is in no community: found one, or join by an invitation. gridcloud grid --help"
        )
        return
    rows = [
        (
            one.name,
            member.name,
            member.institution,
            f"{member.joined:%Y-%m-%d}",
            _describe_room(member.profile),
            member.profile.location if member.profile else "",
            _describe_member(member),
        )
        for one in shown
        for member in one.members
    ]
    print_table(("COMMUNITY", "MEMBER", "ID", "SINCE", "FREE", "LOCATION", ""), rows, whole=["ID"])
    for one in shown:
        for proposal in one.proposals:
            print()
            _print_proposal(proposal)


@framed
async def sign(frame: Frame, community: Name, root: RootFile = None, yes: Yes = False) -> None:
    """Look at the list of members that waits in a community, and sign it."""
    key = read_root(root)
    async with await frame.connect() as client:
        waiting = [one for one in (await client.grid.community(community)).proposals if not one.signed_here]
        if not waiting:
            raise NotFound(f"Nothing waits to be signed in {community}.")
        proposal = _choose(frame, waiting, yes)
        left = await client.grid.sign(community, digest=proposal.digest, root=key)
    _show_outcome(frame, left)


@framed
async def change(
    frame: Frame,
    community: Name,
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", metavar="N", help="How many members sign a list from then on."),
    ] = None,
    ends: Ends = None,
    root: RootFile = None,
) -> None:
    """Change how many members sign a list, or when the community ends; enough members have to sign it."""
    moment, key = _moment(ends), read_root(root)
    async with await frame.connect() as client:
        left = await client.grid.change(community, threshold=threshold, ends=moment, root=key)
    _show_outcome(frame, left)


@framed
async def revoke(
    frame: Frame,
    community: Name,
    institution: Annotated[
        str, typer.Argument(metavar="MEMBER", help="Its id, its name, or its fingerprint in quotes.")
    ],
    why: Annotated[str, typer.Option("--why", help="The reason, which all members see.")],
    root: RootFile = None,
    yes: Yes = False,
) -> None:
    """Put a member out of a community, for good: its keys never come back. Enough members have to sign it."""
    key = read_root(root)
    async with await frame.connect() as client:
        member = _find_member(await client.grid.community(community), institution)
        confirm(
            frame,
            f"Put {plain(member.name)} ({member.institution}) out of {community} for good? Its leases end with it.",
            yes,
        )
        left = await client.grid.revoke(community, member.institution, why, root=key)
    _show_outcome(frame, left)


@framed
async def leave(frame: Frame, community: Name, root: RootFile = None, yes: Yes = False) -> None:
    """Leave a community, and forget it and all that came of it."""
    key = read_root(root)
    async with await frame.connect() as client:
        name = await _name(client, community)
        confirm(
            frame, f"Leave {plain(name)}? What is lent and borrowed there ends; nobody has to agree.", yes
        )
        heard = await client.grid.leave(community, root=key)
    words = (
        f"We left {name}." if heard else f"We leave {name}: no member could be told yet, which is tried on."
    )
    _say(frame, words, {"community": community, "heard": heard})


@framed
async def forget(frame: Frame, community: Name, yes: Yes = False) -> None:
    """Forget a community at once, whoever heard of it: after being put out, or for one that no longer answers."""
    async with await frame.connect() as client:
        known = await client.grid.community(community)
        name = known.name
        put_out = "It put us out."
        stays = "To its members, we stay one of them until they hear otherwise."
        confirm(frame, f"Forget {plain(name)}? {put_out if known.revoked else stays}", yes)
        await client.grid.forget(community)
    _say(frame, f"{name} is forgotten.", {"community": community, "forgotten": True})


@framed
async def branch(
    frame: Frame,
    community: Name,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write them; else they are printed."),
    ] = None,
) -> None:
    """Print the lists of members that are remembered, for a member of the other branch of a fork: no secret."""
    async with await frame.connect() as client:
        lists = await client.grid.branch(community)
    if output is not None:
        _write(output, json.dumps({"lists": lists}))
    if frame.json or output is None:
        frame.show({"lists": lists})


@framed
async def adopt(
    frame: Frame,
    community: Name,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="What `branch` printed there, or here; -: standard input.")
    ],
    yes: Yes = False,
) -> None:
    """End a fork: go over to the lists of a member of the other branch or, by one's own lists, stay."""
    lists = _read_document(file, "lists of members", "gridcloud grid branch").get("lists")
    if not isinstance(lists, list) or not all(isinstance(one, dict) for one in lists):
        raise InvalidRequest(
            f"{file} holds no lists of members.", remedy="It is what `gridcloud grid branch` printed."
        )
    async with await frame.connect() as client:
        name = await _name(client, community)
        confirm(
            frame,
            f"Go over to the lists in {file}? Who is not on them is no member of {plain(name)} any more.",
            yes,
        )
        adopted = await client.grid.adopt(community, lists)
    if frame.json:
        frame.show(adopted)
    else:
        error_console().print(
            f"List {adopted.number} of {plain(adopted.name)} holds: {count_members(adopted)} members."
        )


VERBS: dict[str, Callable[..., Any]] = {
    "found": found,
    "invite": invite,
    "withdraw": withdraw,
    "join": join,
    "members": members,
    "sign": sign,
    "change": change,
    "revoke": revoke,
    "branch": branch,
    "adopt": adopt,
    "leave": leave,
    "forget": forget,
}


def count_members(community: Community) -> int:
    """Return how many members it has, those that left apart."""
    return sum(not member.left for member in community.members)


def describe_state(community: Community) -> str:
    """Return how we stand with a community, in words; empty: as a member."""
    words = [
        f"put out: {community.revoked}" if community.revoked else "",
        f"forked: {community.forked}" if community.forked else "",
        "waiting to be taken in" if community.joining and not community.revoked else "",
        "leaving" if community.leaving else "",
    ]
    waiting = sum(not proposal.signed_here for proposal in community.proposals)
    words.append(f"{waiting} to sign" if waiting else "")
    return ", ".join(filter(None, words))


def confirm(frame: Frame, question: str, yes: bool) -> None:
    """Return when it is to be done. Raises InvalidRequest where nobody is there to be asked, Conflict after a no."""
    if yes:
        return
    if frame.json or not sys.stdin.isatty():
        raise InvalidRequest(f"{question} Nobody is here to be asked.", remedy="Say --yes.")
    if not typer.confirm(question, err=True):
        raise Conflict("Nothing was done.")


def tell_alone(alone: bool) -> None:
    """Say what is missing where no service runs, but this command by itself."""
    if alone:
        error_console().print(
            "! No service runs here: other institutions reach this one only while one does. gridcloud up"
        )


def read_root(file: Path | None) -> Secret | None:
    """Return the root key in a file that only we may read; None where none was named."""
    from gridcloud.identity import resolve

    return None if file is None else resolve(f"file:{file.absolute()}")


def _choose(frame: Frame, waiting: Sequence[Proposal], yes: bool) -> Proposal:
    """Return which list is to be signed; one that is not wanted does not hide the next. Raises as `confirm` does."""
    if yes and len(waiting) > 1:
        raise Conflict(
            f"{len(waiting)} lists wait, and one of a number is all that is signed.",
            remedy="Without --yes, each is shown.",
        )
    for number, proposal in enumerate(waiting, 1):
        if not frame.json:
            _print_proposal(proposal, to=sys.stderr)
        try:
            confirm(frame, "Sign it?", yes)
        except Conflict:
            if number == len(waiting):
                raise
        else:
            return proposal
    raise NotFound("Nothing waits to be signed.")


def _print_proposal(proposal: Proposal, to: Any = None) -> None:
    def tell(text: str) -> None:
        print(plain(text), file=to or sys.stdout)

    tell(
        f"List {proposal.number} of {proposal.name} waits: {len(proposal.signed)} of {proposal.needed} have signed."
    )
    for word, names in (
        ("comes in", proposal.joining),
        ("goes", proposal.leaving),
        ("is put out", proposal.revoking),
    ):
        for name in names:
            tell(f"  {word:<10}  {name}")
    tell(f"  {'from then':<10}  {proposal.threshold} sign a list, {_describe_end(proposal.ends)}")


def _describe_end(ends: datetime | None) -> str:
    return "and it never ends" if ends is None else f"and it ends on {ends:%Y-%m-%d %H:%M} UTC"


def _show_outcome(frame: Frame, left: Proposal | None) -> None:
    if frame.json:
        frame.show({"in_force": left is None, "proposal": left.model_dump(mode="json") if left else None})
    elif left is None:
        error_console().print("It is in force.")
    else:
        error_console().print(
            f"It waits for others: {len(left.signed)} of {left.needed} have signed. "
            f"There: gridcloud grid sign {plain(left.name)}"
        )


def _find_member(community: Community, text: str) -> Member:
    from gridcloud.federation.keys import spoken

    digits = "".join(text.split()).replace("-", "")
    found = [
        one
        for one in community.members
        if text in (one.institution, one.name) or digits == spoken(one.institution).replace(" ", "")
    ]
    if len(found) != 1:
        raise NotFound(
            f"{len(found) or 'No'} members of {community.name} are called {text!r:.80}.",
            remedy=f"Give its id: gridcloud grid members {community.name}",
        )
    return found[0]


async def _await_list(client: AsyncClient, joined: Community) -> Community:
    """Return a community once we are on its list, which takes a moment where one signature is enough; or as it is."""
    import asyncio

    end = asyncio.get_running_loop().time() + PATIENCE
    while joined.joining and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.2)
        joined = await client.grid.community(joined.community)
    return joined


async def _name(client: AsyncClient, community: str) -> str:
    """Return what a community is called. Raises NotFound before anybody is asked about it."""
    return (await client.grid.community(community)).name


def _describe_member(member: Member) -> str:
    return ", ".join(
        filter(None, ["ourselves" if member.ourselves else "", "leaving" if member.left else ""])
    )


def _describe_room(profile: Profile | None) -> str:
    from gridcloud.settings import format_size

    if profile is None or not profile.rooms:
        return ""
    rooms = [
        ", ".join(
            filter(
                None,
                [
                    f"{room.free.millicores / 1000:g} of {room.total.millicores / 1000:g} cores",
                    format_size(room.free.memory << 20) if room.free.memory else "",
                    f"{room.free.gpus} of {room.total.gpus} GPUs" if room.total.gpus else "",
                ],
            )
        )
        for room in profile.rooms
    ]
    return "; ".join(rooms)


def _moment(text: str | None) -> datetime | None:
    """Return when something ends: a date is the beginning of that day in UTC, a duration begins now."""
    from gridcloud.settings import parse_duration

    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) + timedelta(seconds=parse_duration(text))
        except (ValueError, OverflowError):
            raise InvalidRequest(
                f"--ends: {text!r:.40} is no date.", remedy="Write 2027-03-31, or 90d."
            ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _read_document(name: str, what: str, verb: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read(LARGEST) if name == "-" else _read(Path(name))
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InvalidRequest(f"{name} holds no {what}.", remedy=f"It is what `{verb}` printed.")
    return document


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(LARGEST)
    except FileNotFoundError:
        raise NotFound(f"There is no {path}.") from None
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}.") from None


def _say(frame: Frame, words: str, document: dict[str, Any]) -> None:
    if frame.json:
        frame.show(document)
    else:
        error_console().print(plain(words))
