"""Sessions over HTTP."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from gridcloud.service.access import Admin, Asking, TheHouse
from gridcloud.service.documents import Sessions, SessionWish
from gridcloud.sessions.model import Session

__all__ = ["owned", "router"]

router = APIRouter(tags=["sessions"])


@router.post("/sessions", status_code=201)
async def start(wish: SessionWish, caller: Admin, house: TheHouse) -> Session:
    """Ask for a session; answers at once. For the hub: tunnels open ports on the service's computer."""
    owner = caller.owner(wish.owner)
    request = house.complete(wish.request)
    house.check(request)
    house.check_providers([request])
    await house.check_configure(wish.configure, caller.admin)
    folders = await asyncio.to_thread(house.course_folders, wish.course)
    environment = {name: value.get_secret_value() for name, value in wish.environment.items()}
    async with house.admitting(owner):
        return await house.sessions.submit(
            owner,
            request,
            wish.plan,
            name=wish.name,
            configure=wish.configure,
            environment=environment,
            course=wish.course,
            folders=folders,
        )


@router.get("/sessions")
async def find(
    caller: Asking, house: TheHouse, all: bool = False, owner: str | None = None, here: bool = False
) -> Sessions:
    """List sessions: one's own, or everybody's for an administrator; ended ones too with ``all``. ``here``: only those
    that this service looks after, where several share a store."""
    found = await house.sessions.lives.find(owner=owner if caller.admin else caller.user)
    if not all:
        found = [session for session in found if session.ended is None]
    if here:
        found = [session for session in found if house.sessions.lives.keeps(session)]
    return Sessions(sessions=found)


@router.get("/sessions/{session_id}")
async def show(session_id: str, caller: Asking, house: TheHouse) -> Session:
    """Return one session."""
    return await owned(house, caller, session_id)


@router.post("/sessions/{session_id}/wait")
async def wait(session_id: str, caller: Asking, house: TheHouse) -> Session:
    """Return a session once it answers; an error tells why it never will."""
    await owned(house, caller, session_id)
    return await house.sessions.wait(session_id)


@router.post("/sessions/{session_id}/stop")
async def stop(session_id: str, caller: Asking, house: TheHouse) -> Session:
    """Have a session end with its instance; answers at once. May be asked twice."""
    await owned(house, caller, session_id)
    return await house.sessions.stop(session_id)


async def owned(house: TheHouse, caller: Asking, session_id: str) -> Session:
    """Return a session that the caller may see. Raises NotFound."""
    session = await house.sessions.lives.get(session_id)
    caller.check(session.owner, f"session {session_id!r}")
    return session
