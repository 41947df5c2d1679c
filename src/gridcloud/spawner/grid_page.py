"""The administrator's page of the grid: who is in it, how they are reached, what is lent, and who lends to whom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gridcloud.client import AsyncClient
from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.federation.records import Profile
from gridcloud.grid.model import Community, Link, Status
from gridcloud.grid.reports import Line, Report
from gridcloud.service.grid_documents import Lease
from gridcloud.settings import format_size

__all__ = ["Arrow", "Spot", "draw_map", "look_at_grid"]

SHOWN = 40
"""Institutions on the map; the page lists all."""
WIDTH, HEIGHT = 720, 480
LONGEST = 24
"""Characters of a name on the map."""


@dataclass(frozen=True, slots=True)
class Spot:
    """An institution on the map."""

    x: float
    y: float
    name: str
    way: str
    """How it is reached: a word of `grid.model.Way`; ``ourselves`` in the middle."""


@dataclass(frozen=True, slots=True)
class Arrow:
    """What one institution lent to another, as agreed by both."""

    x1: float
    y1: float
    x2: float
    y2: float
    width: float
    hours: str
    given: bool


async def look_at_grid(client: AsyncClient) -> dict[str, Any]:
    """Return what the page shows. Raises GridcloudError when the service does not answer."""
    status = await client.grid.status()
    if status.standing is None:
        return {"standing": None}
    try:
        found = await client.grid.leases()
        leases, drained = found.leases, found.drained
    except (NotFound, InvalidRequest):  # a service that does not lend
        leases, drained = [], ""
    report = await client.grid.report()
    spots, arrows = draw_map(status, report)
    return {
        "standing": status.standing,
        "status": status,
        "members": _members(status),
        "communities": [_community(one) for one in status.communities],
        "leases": [_lease(one) for one in leases],
        "drained": drained,
        "partners": [_partner(one, report.favours) for one in report.partners],
        "spots": spots,
        "arrows": arrows,
        "left_out": max(0, len(status.links) - SHOWN),
        "width": WIDTH,
        "height": HEIGHT,
    }


def draw_map(status: Status, report: Report) -> tuple[list[Spot], list[Arrow]]:
    """Return ourselves in the middle, the others around, and what went between: two arrows beside each other.

    An arrow's width grows with the square root of the core-hours.
    """
    lines = {line.institution: line for line in report.partners}
    links = sorted(status.links, key=lambda one: (-_traffic(lines.get(one.institution)), one.institution))[
        :SHOWN
    ]
    middle = Spot(WIDTH / 2, HEIGHT / 2, _shorten(report.name), "ourselves")
    spots, arrows = [middle], []
    largest = max((_largest(line) for line in report.partners), default=Decimal(0))
    for number, link in enumerate(sorted(links, key=lambda one: one.institution)):
        angle = 2 * math.pi * number / len(links) - math.pi / 2
        x = WIDTH / 2 + (WIDTH / 2 - 110) * math.cos(angle)
        y = HEIGHT / 2 + (HEIGHT / 2 - 40) * math.sin(angle)
        spots.append(Spot(round(x, 1), round(y, 1), _shorten(link.name or link.institution), link.way.value))
        line = lines.get(link.institution)
        if line is not None:
            arrows += _arrows(angle, (x, y), line, largest)
    return spots, arrows


def _arrows(angle: float, end: tuple[float, float], line: Line, largest: Decimal) -> list[Arrow]:
    """Return what we gave and what we took, each beside the straight line, and short of both ends."""
    found = []
    centre = (WIDTH / 2, HEIGHT / 2)
    for given, hours in ((True, line.agreed.given.cpu_hours), (False, line.agreed.taken.cpu_hours)):
        if not hours:
            continue
        side = 6 if given else -6
        beside = (-math.sin(angle) * side, math.cos(angle) * side)
        along = [
            (
                centre[0] + (end[0] - centre[0]) * part + beside[0],
                centre[1] + (end[1] - centre[1]) * part + beside[1],
            )
            for part in ((0.18, 0.82) if given else (0.82, 0.18))
        ]
        width = 1 + 5 * math.sqrt(hours / largest) if largest else 1
        (x1, y1), (x2, y2) = ((round(x, 1), round(y, 1)) for x, y in along)
        found.append(Arrow(x1, y1, x2, y2, round(width, 1), f"{hours:,.0f}", given))
    return found


def _members(status: Status) -> list[dict[str, Any]]:
    """Return a row for each institution but ourselves, with all communities that it shares with us."""
    links: Mapping[str, Link] = {one.institution: one for one in status.links}
    rows: dict[str, dict[str, Any]] = {}
    for community in status.communities:
        for member in community.members:
            if member.ourselves:
                continue
            row = rows.setdefault(
                member.institution,
                {
                    "institution": member.institution,
                    "name": member.name,
                    "communities": [],
                    "link": links.get(member.institution),
                    "location": member.profile.location if member.profile else "",
                    "free": _free(member.profile),
                    "policy": member.profile.policy if member.profile else "",
                },
            )
            row["communities"].append(community.name)
    return sorted(rows.values(), key=lambda row: (row["name"].casefold(), row["institution"]))


def _community(one: Community) -> dict[str, Any]:
    states = ["we were put out" if one.revoked else "", "forked" if one.forked else ""]
    states += ["waiting to be taken in" if one.joining else "", "leaving" if one.leaving else ""]
    return {
        "name": one.name,
        "members": sum(not member.left for member in one.members),
        "threshold": one.threshold,
        "ends": one.ends,
        "waiting": len(one.proposals),
        "state": ", ".join(filter(None, states)),
    }


def _lease(one: Lease) -> dict[str, Any]:
    size = [f"{one.cpus:g} cores", format_size(one.memory)] + ([f"{one.gpus} GPUs"] if one.gpus else [])
    return {
        "way": "lent to" if one.way == "lent" else "borrowed from",
        "name": one.name or one.institution,
        "user": one.user,
        "size": ", ".join(size),
        "state": one.state,
        "until": one.deadline or one.until,
        "asked_back": one.deadline is not None,
    }


def _partner(line: Line, favours: Mapping[str, float]) -> dict[str, Any]:
    return {
        "name": line.name,
        "institution": line.institution,
        "given": f"{line.agreed.given.cpu_hours:,.1f}",
        "taken": f"{line.agreed.taken.cpu_hours:,.1f}",
        "given_gpus": f"{line.agreed.given.gpu_hours:,.1f}",
        "taken_gpus": f"{line.agreed.taken.gpu_hours:,.1f}",
        "disputed": line.disputed.entries,
        "open": line.open.entries,
        "owed": f"{favours.get(line.institution, 0.0):,.1f}",
    }


def _free(profile: Profile | None) -> str:
    rooms: Sequence[Any] = profile.rooms if profile else ()
    cores = sum(room.free.millicores for room in rooms) / 1000
    gpus = sum(room.free.gpus for room in rooms)
    if not rooms:
        return ""
    return f"{cores:g} cores" + (f", {gpus} GPUs" if gpus else "")


def _traffic(line: Line | None) -> Decimal:
    return line.agreed.given.cpu_hours + line.agreed.taken.cpu_hours if line else Decimal(0)


def _largest(line: Line) -> Decimal:
    return max(line.agreed.given.cpu_hours, line.agreed.taken.cpu_hours)


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
