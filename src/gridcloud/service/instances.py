"""Instances over HTTP."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter

from gridcloud.errors import InvalidRequest
from gridcloud.instances.model import Instance
from gridcloud.service.access import Asking, TheHouse
from gridcloud.service.documents import Extension, Instances, InstanceWish
from gridcloud.service.sessions import check_extending
from gridcloud.sessions.extending import check_life

__all__ = ["owned", "router"]

router = APIRouter(tags=["instances"])


@router.post("/instances", status_code=201)
async def start(wish: InstanceWish, caller: Asking, house: TheHouse) -> Instance:
    """Ask for an instance; answers at once. Follow its events to see it become ready."""
    owner = caller.owner(wish.owner)
    request = house.complete(wish.request)
    house.check(request)
    house.check_providers([request])
    await house.check_configure(wish.configure, caller.admin)
    avoid = [one.offer for one in [await owned(house, caller, lost) for lost in wish.avoid] if one.offer]
    async with house.admitting(owner):
        return await house.instances.submit(
            owner,
            request,
            name=wish.name,
            configure=wish.configure,
            before_end=wish.before_end,
            avoid=avoid,
        )


@router.get("/instances")
async def find(caller: Asking, house: TheHouse, all: bool = False, owner: str | None = None) -> Instances:
    """List instances: one's own, or everybody's for an administrator; ended ones too with ``all``."""
    whose = owner if caller.admin else caller.user
    lives = house.instances.records
    found = await lives.find(owner=whose)
    if not all:
        found = [instance for instance in found if instance.ended_at is None]
    return Instances(instances=found)


@router.get("/instances/{instance_id}")
async def show(instance_id: str, caller: Asking, house: TheHouse) -> Instance:
    """Return one instance."""
    return await owned(house, caller, instance_id)


@router.post("/instances/{instance_id}/stop")
async def stop(instance_id: str, caller: Asking, house: TheHouse) -> Instance:
    """Have an instance end; answers at once. May be asked twice."""
    await owned(house, caller, instance_id)
    return await house.instances.stop(instance_id)


@router.post("/instances/{instance_id}/extend")
async def extend(instance_id: str, extension: Extension, caller: Asking, house: TheHouse) -> Instance:
    """Move an instance's expiry."""
    instance = await owned(house, caller, instance_id)
    expires = extension.expires
    if expires is None:
        if not extension.time:
            raise InvalidRequest("An extension needs 'expires' or 'time'.")
        expires = house.clock.now() + timedelta(seconds=extension.time)
    if expires.tzinfo is None:
        raise InvalidRequest("'expires' needs a time zone, as in 2026-01-31T12:00:00Z.")
    house.check_expiry(instance, expires, admin=caller.admin)
    if not caller.admin:
        for session in await house.sessions.asking.on(instance):
            check_extending(house.settings())
            check_life(instance, expires, session.longest, session.created)
    return await house.instances.extend(instance_id, expires)


async def owned(house: TheHouse, caller: Asking, instance_id: str) -> Instance:
    """Return an instance that the caller may see. Raises NotFound."""
    instance = await house.instances.records.get(instance_id)
    caller.check(instance.owner, f"instance {instance_id!r}")
    return instance
