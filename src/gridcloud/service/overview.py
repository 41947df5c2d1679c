"""All sessions at a glance, page by page, with their machines, costs and ends: for administrators."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Query

from gridcloud.errors import NotFound
from gridcloud.instances.costs import describe_cost
from gridcloud.instances.model import format_size
from gridcloud.service.access import Admin, TheHouse
from gridcloud.service.house import House
from gridcloud.service.operation_documents import Overview, Row
from gridcloud.sessions.model import FINAL, State
from gridcloud.store.model import Record

__all__ = ["router"]

router = APIRouter(tags=["sessions"])

ROWS = 200
"""Most rows of a page."""

PAGE = 50

SHOWN = {
    "live": {str(state) for state in State if state not in FINAL},
    "running": {State.RUNNING.value},
    "starting": {State.PLACING.value, State.LAUNCHING.value},
    "ending": {State.ENDING.value, State.FAILING.value},
    "failed": {State.FAILED.value, State.FAILING.value},
    "ended": {State.ENDED.value},
    "all": {str(state) for state in State},
}
"""What may be looked at, by name."""

Words = Annotated[str, Query(max_length=200)]


@router.get("/overview")
async def overview(
    caller: Admin,
    house: TheHouse,
    show: Words = "live",
    text: Words = "",
    provider: Words = "",
    service: Words = "",
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    size: Annotated[int, Query(ge=1, le=ROWS)] = PAGE,
) -> Overview:
    """List sessions page by page: those in a state, with a text in their owner, name, id, profile or end, of a provider
    or a service."""
    rows = await house.store.scan("session", _row)
    states = Counter(row["state"] for row in rows)
    services = sorted({row["keeper"] for row in rows if row["keeper"]})
    machines = dict(await house.store.scan("instance", _machine))
    wanted = SHOWN.get(show, SHOWN["live"])
    sought = text.casefold()
    found = [
        row
        for row in reversed(rows)
        if row["state"] in wanted
        and (not sought or any(sought in str(row[key]).casefold() for key in _SOUGHT))
        and (not provider or machines.get(row["instance"], ("", True))[0] == provider)
        and (not service or row["keeper"] == service)
    ]
    pages = max(1, -(-len(found) // size))
    page = min(page, pages)
    shown = [await _with_machine(house, row) for row in found[(page - 1) * size : page * size]]
    return Overview(
        rows=shown,
        page=page,
        pages=pages,
        found=len(found),
        states=dict(states),
        providers=sorted({one for one, _ in machines.values() if one}),
        services=services,
        instances=sum(1 for _, live in machines.values() if live),
    )


_SOUGHT = ("owner", "name", "id", "profile", "detail", "error", "instance")


def _row(record: Record) -> dict[str, Any]:
    body = record.body
    kept = ("name", "profile", "reason", "detail", "error", "started", "ended", "keeper")
    row = {key: body.get(key) or None for key in kept}
    row = {key: value for key, value in row.items() if value is not None}
    defaults = dict.fromkeys(("name", "profile", "reason", "detail", "error", "keeper"), "")
    return {
        **defaults,
        **row,
        "id": record.id,
        "owner": record.owner,
        "state": record.state,
        "created": record.created,
        "instance": body["instance_id"],
    }


def _machine(record: Record) -> tuple[str, tuple[str, bool]]:
    """Return the provider of an instance, and whether it lives."""
    offer = record.body.get("offer") or {}
    return record.id, (str(offer.get("provider", "")), record.body.get("ended_at") is None)


async def _with_machine(house: House, row: dict[str, Any]) -> Row:
    keeper = house.store.keeper
    known = Row.model_validate({**row, "here": not keeper or row["keeper"] in ("", keeper)})
    try:
        instance = await house.instances.records.get(row["instance"])
    except NotFound:
        return known
    offer = instance.offer
    shape = ""
    if offer is not None:
        shape = f"{offer.shape.cpus:g} CPUs, {format_size(offer.shape.memory)}"
    return known.model_copy(
        update={
            "provider": offer.source if offer else "",
            "shape": shape,
            "machine": str(instance.state),
            "cost": describe_cost(instance.charges, house.clock.now(), house.settings().currency),
        }
    )
