"""The configuration over HTTP, for administrators: look, check, change, go back."""

from __future__ import annotations

from fastapi import APIRouter

from gridcloud.service.access import Admin, Caller, TheHouse
from gridcloud.service.configuration_documents import (
    ConfigurationState,
    CourseMembers,
    EditOrder,
    Revisions,
    RevisionText,
    RollBackOrder,
    TextOrder,
    Verdict,
    Written,
)

__all__ = ["router"]

router = APIRouter(prefix="/configuration", tags=["configuration"])


@router.get("")
async def show(caller: Admin, house: TheHouse) -> ConfigurationState:
    """Return the file's text, what is wrong with it, and its profiles, courses and providers in short."""
    return await house.configuration.get()


@router.post("/check")
async def check(order: TextOrder, caller: Admin, house: TheHouse) -> Verdict:
    """Tell what is wrong with a text; nothing is written."""
    return await house.configuration.check(order.text)


@router.post("")
async def write(order: TextOrder, caller: Admin, house: TheHouse) -> Written:
    """Put a text in the place of the file's, once it is checked; what starts from now on goes by it."""
    by = _who(caller, house, order.by)
    return await house.configuration.write(order.text, since=order.since, what=order.what, by=by)


@router.post("/edits")
async def edit(order: EditOrder, caller: Admin, house: TheHouse) -> Written:
    """Change single values, all or none; every other line and comment stays."""
    by = _who(caller, house, order.by)
    return await house.configuration.edit(order.edits, since=order.since, what=order.what, by=by)


@router.get("/history")
async def history(caller: Admin, house: TheHouse) -> Revisions:
    """List the texts that are kept: who wrote each, when, and what for."""
    return await house.configuration.history()


@router.get("/history/{number}")
async def revision(number: int, caller: Admin, house: TheHouse) -> RevisionText:
    """Return one of them, with what it changed, and what has changed since."""
    return await house.configuration.revision(number)


@router.post("/rollback")
async def roll_back(order: RollBackOrder, caller: Admin, house: TheHouse) -> Written:
    """Write an earlier text again, once it is checked."""
    by = _who(caller, house, order.by)
    return await house.configuration.roll_back(order.number, since=order.since, by=by)


@router.get("/courses/{name}/members")
async def members(name: str, caller: Admin, house: TheHouse) -> CourseMembers:
    """Return who is in a course, by name as far as the configuration and its file tell."""
    return await house.configuration.members(name)


def _who(caller: Caller, house: TheHouse, by: str) -> str:
    """Return who changes it: the hub, at the private socket, says for whom it asks; others are who they are."""
    return by or caller.user if caller.user == house.administrator else caller.user
