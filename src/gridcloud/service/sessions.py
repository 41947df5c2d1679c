"""Sessions over HTTP."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from fastapi import APIRouter

from gridcloud.errors import Forbidden
from gridcloud.instances.model import Instance, Request
from gridcloud.service.access import Admin, Asking, TheHouse
from gridcloud.service.documents import SessionExtension, Sessions, SessionWish
from gridcloud.sessions.extending import Longer
from gridcloud.sessions.model import Session
from gridcloud.settings import Settings

__all__ = ["check_extending", "owned", "router"]

DEFAULT_STEP = timedelta(hours=1)
"""By how much an administrator extends a session where its user may not."""

router = APIRouter(tags=["sessions"])


@router.post("/sessions", status_code=201)
async def start(wish: SessionWish, caller: Admin, house: TheHouse) -> Session:
    """Ask for a session; answers at once. For the hub: tunnels open ports on the service's computer."""
    owner = caller.owner(wish.owner)
    request = house.complete(_with_idle(wish.request, house.settings()))
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
            profile=wish.profile,
            configure=wish.configure,
            environment=environment,
            longest=wish.longest,
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


@router.post("/sessions/{session_id}/extend")
async def extend(session_id: str, wish: SessionExtension, caller: Asking, house: TheHouse) -> Instance:
    """Have a running session live longer; answers with its instance, and so its end. Asked twice with the same
    ``after``, it is extended once."""
    session = await owned(house, caller, session_id)
    settings = house.settings()
    step, longest = settings.session.extend, settings.limits.time
    if wish.longest is not None and not caller.admin:
        raise Forbidden("Only an administrator says how long a session may live.")
    if wish.longest is not None or not caller.admin:
        check_extending(settings)
        own = session.longest if wish.longest is None else wish.longest
        longest = min(own or longest, longest or own)
    else:  # an administrator for oneself, held to no limit of ours
        step, longest = step or int(DEFAULT_STEP.total_seconds()), 0
    longer = Longer(step, wish.time or None, wish.after, longest, session.created)
    return await house.sessions.extend(session_id, longer)


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


def check_extending(settings: Settings) -> None:
    """Raise Forbidden where nobody may extend their sessions."""
    if not settings.session.extend:
        raise Forbidden("Sessions are not extended here.", remedy="Save your work, and start another.")


def _with_idle(request: Request, settings: Settings) -> Request:
    """Return the request of a session, which goes unused no longer than sessions may, whatever its profile says."""
    longest = settings.session.idle
    if not longest:
        return request
    asked = request.idle or settings.limits.idle or longest
    return request.model_copy(update={"idle": min(asked, longest)})


async def owned(house: TheHouse, caller: Asking, session_id: str) -> Session:
    """Return a session that the caller may see. Raises NotFound."""
    session = await house.sessions.lives.get(session_id)
    caller.check(session.owner, f"session {session_id!r}")
    return session
