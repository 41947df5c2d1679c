"""Stacks over HTTP: several instances as one thing."""

from __future__ import annotations

from fastapi import APIRouter

from gridcloud.errors import NotFound
from gridcloud.service.access import Asking, Caller, TheHouse
from gridcloud.service.stack_documents import Deployment, StackChange, Stacks, StackWish
from gridcloud.stacks.model import FINAL, Definition, Stack, Wish

__all__ = ["owned", "router"]

router = APIRouter(tags=["stacks"])


@router.post("/stacks", status_code=201)
async def define(wish: StackWish, caller: Asking, house: TheHouse) -> Stack:
    """Write a stack down; nothing is started."""
    definition = await _checked(wish.definition, caller, house)
    return await house.stacks.define(caller.owner(wish.owner), wish.name, definition)


@router.get("/stacks")
async def find(caller: Asking, house: TheHouse, all: bool = False, owner: str | None = None) -> Stacks:
    """List stacks: one's own, or everybody's for an administrator; those that are gone too with ``all``."""
    found = await house.stacks.lives.find(owner=owner if caller.admin else caller.user)
    return Stacks(stacks=[stack for stack in found if all or stack.state not in FINAL])


@router.get("/stacks/{stack_id}")
async def show(stack_id: str, caller: Asking, house: TheHouse, all: bool = False) -> Stack:
    """Return one stack, by its id or by the name of one's own; one that is gone only with ``all``."""
    return await owned(house, caller, stack_id, gone=all)


@router.patch("/stacks/{stack_id}")
async def update(stack_id: str, change: StackChange, caller: Asking, house: TheHouse) -> Stack:
    """Change a stack's name or what it is to be; deploying it brings its instances to that."""
    stack = await owned(house, caller, stack_id)
    definition = await _checked(change.definition, caller, house) if change.definition else None
    return await house.stacks.update(
        stack.id, name=change.name, definition=definition, version=change.version
    )


@router.post("/stacks/{stack_id}/deploy")
async def deploy(stack_id: str, deployment: Deployment, caller: Asking, house: TheHouse) -> Stack:
    """Have all its instances obtained; answers at once. All of them or none, unless ``keep_going``."""
    stack = await owned(house, caller, stack_id)
    house.check_providers(member.wish.request for member in stack.members.values())
    missing = sum(not member.instance_id for member in stack.members.values())
    async with house.admitting(stack.owner, missing):
        return await house.stacks.deploy(stack.id, deployment.keep_going)


@router.post("/stacks/{stack_id}/destroy")
async def destroy(stack_id: str, caller: Asking, house: TheHouse) -> Stack:
    """Have all its instances end, and the stack with them; answers at once. May be asked twice."""
    stack = await owned(house, caller, stack_id, gone=True)
    return await house.stacks.destroy(stack.id)


async def owned(house: TheHouse, caller: Caller, word: str, gone: bool = False) -> Stack:
    """Return a stack that the caller may see, by id or by name. Raises NotFound."""
    try:
        stack = await house.stacks.lives.get(word)
    except NotFound:
        return await house.stacks.find(caller.user, word)
    caller.check(stack.owner, f"stack {word!r}")
    if stack.state in FINAL and not gone:
        raise NotFound(f"There is no stack {word!r} any more.", remedy="See 'gridcloud stack list --all'.")
    return stack


async def _checked(definition: Definition, caller: Caller, house: TheHouse) -> Definition:
    """Return it with what requests leave open filled in. Raises InvalidRequest, InvalidSettings."""
    wishes: dict[str, Wish] = {}
    for name, wish in definition.instances.items():
        request = house.complete(wish.request)
        house.check(request)
        await house.check_configure(wish.configure, caller.admin)
        wishes[name] = wish.model_copy(update={"request": request})
    return definition.model_copy(update={"instances": wishes})
