"""Carry every stack through its life: the ids of its instances are stored before any of them is asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from gridcloud.clock import Clock
from gridcloud.errors import Conflict, InvalidRequest, NotFound
from gridcloud.instances.matching import describe
from gridcloud.instances.model import FINAL as ENDED
from gridcloud.instances.model import Instance, format_size
from gridcloud.instances.model import State as InstanceState
from gridcloud.instances.runner import Runner as Instances
from gridcloud.stacks.lifecycle import Event, step
from gridcloud.stacks.model import FINAL, Definition, Member, Stack, State
from gridcloud.store import Store
from gridcloud.store.lives import Lives

__all__ = ["Runner"]

log = logging.getLogger(__name__)

SETTLED = (State.DEFINED, State.DEPLOYED, State.PARTIAL)
"""States in which a stack may be changed."""


class Runner:
    """Owns all stacks of a store."""

    def __init__(self, store: Store, machines: Instances, clock: Clock) -> None:
        self.lives = Lives(store, "stack", Stack, step, FINAL)
        self.machines = machines
        self.clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._defining = asyncio.Lock()

    async def start(self) -> None:
        """Take up every stack that has not ended."""
        for stack in await self.lives.take_up():
            self._carry(stack.id)

    async def close(self) -> None:
        """Let go. Instances live on; the next run takes the stacks up."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def define(self, owner: str, name: str, definition: Definition) -> Stack:
        """Store a stack; nothing is started. Raises InvalidRequest when the owner has one of this name."""
        async with self._defining:
            await self._check_name(owner, name)
            stack = Stack(
                id=self.clock.new_id("st"),
                owner=owner,
                name=name,
                members={name: Member(wish=wish) for name, wish in definition.instances.items()},
                pools=dict(definition.pools),
                created=self.clock.now(),
            )
            count = len(stack.members)
            return await self.lives.insert(stack, "defined", f"Defined with {count} instances.")

    async def update(
        self,
        stack_id: str,
        *,
        name: str | None = None,
        definition: Definition | None = None,
        version: int | None = None,
    ) -> Stack:
        """Change a stack's name or what it is to be; `deploy` then brings its instances to that.

        Raises InvalidRequest while it is on its way, Conflict when it is no longer of ``version``.
        """
        async with self._defining:
            while True:
                stack = await self.lives.get(stack_id)
                self.lives.check_ours(stack)
                if version not in (None, stack.version):
                    raise Conflict(f"The stack {stack.name} was changed meanwhile.", remedy="Read it again.")
                if stack.state not in SETTLED:
                    raise InvalidRequest(
                        f"The stack {stack.name} is {stack.state}.", remedy="Wait until that is done."
                    )
                changes: dict[str, Any] = {}
                if name is not None and name != stack.name:
                    await self._check_name(stack.owner, name)
                    changes["name"] = name
                if definition is not None:
                    changes |= _redefine(stack, definition)
                try:
                    return await self.lives.save(stack, "updated", "Its definition was changed.", **changes)
                except Conflict:
                    continue

    async def deploy(self, stack_id: str, keep_going: bool = False) -> Stack:
        """Have all members' instances obtained, at once; return before they are. One that is deployed as defined
        stays as it is. Raises InvalidRequest while it is on its way."""
        while True:
            stack = await self.lives.get(stack_id)
            self.lives.check_ours(stack)
            if stack.state is State.DEPLOYING:
                return stack
            if stack.state is State.DEPLOYED and not stack.leaving and _whole(stack):
                return stack
            if not stack.members:
                raise InvalidRequest(f"The stack {stack.name} has no instances.", remedy="Update it.")
            fresh = [name for name, member in stack.members.items() if not member.instance_id]
            members = {
                name: member.model_copy(update={"instance_id": self.clock.new_id("i"), "problem": ""})
                if name in fresh
                else member
                for name, member in stack.members.items()
            }
            changes = {"members": members, "fresh": tuple(fresh), "keep_going": keep_going, "detail": ""}
            message = f"Obtaining {len(fresh)} instances."
            try:
                deployed = await self._happen(stack, Event.DEPLOY, message, changes)
            except Conflict:
                continue
            if deployed is None:
                raise InvalidRequest(
                    f"The stack {stack.name} is {stack.state}.", remedy="Wait until that is done."
                )
            self._carry(stack_id)
            return deployed

    async def destroy(self, stack_id: str) -> Stack:
        """Have all its instances end, and the stack with them; return at once. May be called twice."""
        while True:
            stack = await self.lives.get(stack_id)
            self.lives.check_ours(stack)
            if stack.state in FINAL or stack.state is State.DESTROYING:
                return stack
            try:
                destroyed = await self._happen(stack, Event.DESTROY, "It ends, as was asked.", {})
            except Conflict:
                continue
            if destroyed is not None:
                self._carry(stack_id)
                return destroyed

    async def find(self, owner: str, name: str) -> Stack:
        """Return the owner's stack of this name. Raises NotFound."""
        for stack in await self.lives.live(owner):
            if stack.name == name:
                return stack
        raise NotFound(f"There is no stack {name!r}.", remedy="See 'gridcloud stack list'.")

    # One life ------------------------------------------------------------------------------------------------

    def _carry(self, stack_id: str) -> None:
        task = self._tasks.get(stack_id)
        if task is not None:
            task.cancel()
        self._tasks[stack_id] = asyncio.create_task(self._life(stack_id, task), name=f"stack {stack_id}")

    async def _life(self, stack_id: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        duties = {
            State.DEPLOYING: self._obtain,
            State.CLEARING: self._clear,
            State.DESTROYING: self._end,
            State.DEPLOYED: self._watch,
            State.PARTIAL: self._watch,
        }
        try:
            while True:
                stack = await self.lives.get(stack_id)
                duty = duties.get(stack.state)
                if duty is None:
                    return
                await duty(stack)
        except Conflict:
            self._tasks[stack_id] = asyncio.create_task(self._life(stack_id, None), name=f"stack {stack_id}")
        except asyncio.CancelledError:
            raise
        except Exception:  # a fault of ours must not leave machines that nobody looks after
            log.exception("stack %s: the runner failed; it is taken up again", stack_id)
            await self.clock.sleep(1)
            self._tasks[stack_id] = asyncio.create_task(self._life(stack_id, None), name=f"stack {stack_id}")

    async def _obtain(self, stack: Stack) -> None:
        await self._stop_all(stack.leaving)
        await asyncio.gather(*(self._submit(stack, name) for name in stack.members))
        outcomes = await asyncio.gather(*(self._await(member) for member in stack.members.values()))
        problems = {name: text for name, text in zip(stack.members, outcomes, strict=True) if text}
        members = _noted(stack.members, problems)
        if not problems:
            await self._settle(stack, Event.COMPLETE, "All instances are ready.", members)
            return
        words = f"{len(problems)} of {len(members)} instances could not be had: {_tell(problems)}"
        words += await self._tell_siblings(stack, problems)
        if stack.keep_going and len(problems) < len(members):
            for name in problems:
                members[name] = members[name].model_copy(update={"instance_id": ""})
            await self._settle(stack, Event.INCOMPLETE, words, members)
        else:
            # Those that failed have ended already; the others of this deployment follow.
            await self._happen(
                stack, Event.BROKEN, words, {"members": members, "detail": words, "leaving": ()}
            )

    async def _clear(self, stack: Stack) -> None:
        failed = {name for name, member in stack.members.items() if member.problem}
        gone = failed | set(stack.fresh)
        await self._stop_all(stack.members[name].instance_id for name in gone)
        members = {
            name: member.model_copy(update={"instance_id": ""}) if name in gone else member
            for name, member in stack.members.items()
        }
        left = any(member.instance_id for member in members.values())
        event = Event.REDUCED if left else Event.CLEARED
        await self._settle(stack, event, "What had been begun has ended again.", members, stack.detail)

    async def _end(self, stack: Stack) -> None:
        ids = [member.instance_id for member in stack.members.values() if member.instance_id]
        await self._stop_all([*ids, *stack.leaving])
        await self._settle(stack, Event.CLEARED, "All its instances have ended.", dict(stack.members))

    async def _watch(self, stack: Stack) -> None:
        """Wait until a member's instance has ended, and note it."""
        having = {name: member.instance_id for name, member in stack.members.items() if member.instance_id}
        if not having:
            await asyncio.Event().wait()
        watches = {
            asyncio.create_task(self._ended(instance_id)): name for name, instance_id in having.items()
        }
        try:
            done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
        problems = {watches[watch]: watch.result() for watch in done}
        members = _noted(stack.members, problems)
        for name in problems:
            members[name] = members[name].model_copy(update={"instance_id": ""})
        text = _tell(problems)
        await self._settle(stack, Event.LOST, f"No longer there: {text}", members, text)

    async def _settle(
        self, stack: Stack, event: Event, message: str, members: dict[str, Member], detail: str | None = None
    ) -> None:
        changes = {"members": members, "fresh": (), "leaving": ()}
        await self._happen(stack, event, message, changes | {"detail": message if detail is None else detail})

    async def _happen(
        self, stack: Stack, event: Event, message: str, changes: dict[str, Any]
    ) -> Stack | None:
        """Store what happened to a stack as it was read, and nothing when it was changed since: Conflict then."""
        after = step(stack.state, event)
        if after is None:
            return None
        return await self.lives.save(stack, str(after), message, state=after, **changes)

    # Instances -----------------------------------------------------------------------------------------------

    async def _submit(self, stack: Stack, name: str) -> None:
        member = stack.members[name]
        try:
            await self.machines.records.get(member.instance_id)
            return
        except NotFound:
            pass
        await self.machines.submit(
            stack.owner,
            member.wish.request,
            name=f"{stack.name}/{name}",
            configure=member.wish.configure,
            instance_id=member.instance_id,
        )

    async def _await(self, member: Member) -> str:
        """Return nothing once a member's instance is ready, or why it will not be."""
        async for instance in self.machines.records.follow(member.instance_id):
            if instance.state is InstanceState.READY:
                return ""
            if instance.state in ENDED:
                return _why(instance)
        return "it is not there"

    async def _tell_siblings(self, stack: Stack, problems: dict[str, str]) -> str:
        """Return what others of the stack took where these found nothing free: the user may be in the own way."""
        dry: set[str] = set()
        held: dict[str, list[str]] = {}
        for name, member in stack.members.items():
            try:
                instance = await self.machines.records.get(member.instance_id)
            except NotFound:
                continue
            if name in problems:
                dry |= {one.provider for one in instance.refused if one.possible and not one.available}
            elif instance.offer is not None:
                size = describe(instance.offer.shape)
                held.setdefault(instance.offer.provider, []).append(f"{name} ({size})")
        took = [f"{', '.join(names)} on {provider}" for provider, names in held.items() if provider in dry]
        if not took:
            return ""
        requests = [member.wish.request for member in stack.members.values()]
        cpus, memory = sum(one.cpus for one in requests), sum(one.memory for one in requests)
        return (
            f" Others of this stack took what was free: {'; '.join(took)}. "
            f"All {len(requests)} together ask for {cpus:g} CPUs and {format_size(memory)} of memory."
        )

    async def _ended(self, instance_id: str) -> str:
        async for instance in self.machines.records.follow(instance_id):
            if instance.state in ENDED:
                return _why(instance)
        return "it is not there"

    async def _stop_all(self, instance_ids: Iterable[str]) -> None:
        await asyncio.gather(*(self._stop(instance_id) for instance_id in instance_ids if instance_id))

    async def _stop(self, instance_id: str) -> None:
        try:
            await self.machines.stop(instance_id)
        except NotFound:
            return  # the wish for it was never stored
        await self._ended(instance_id)

    async def _check_name(self, owner: str, name: str) -> None:
        if any(stack.name == name for stack in await self.lives.live(owner)):
            raise InvalidRequest(
                f"There is a stack {name} already.", remedy="Name another, or destroy that one."
            )


def _whole(stack: Stack) -> bool:
    return all(member.instance_id for member in stack.members.values())


def _why(instance: Instance) -> str:
    return instance.detail or f"it has ended ({instance.reason or instance.state})"


def _tell(problems: dict[str, str]) -> str:
    """Return why some could not be had, those with the same reason together."""
    alike: dict[str, list[str]] = {}
    for name, problem in problems.items():
        alike.setdefault(problem.rstrip("."), []).append(name)
    return "; ".join(f"{', '.join(names)}: {problem}" for problem, names in alike.items()) + "."


def _noted(members: dict[str, Member], problems: dict[str, str]) -> dict[str, Member]:
    return {
        name: member.model_copy(update={"problem": problems.get(name, "")})
        for name, member in members.items()
    }


def _redefine(stack: Stack, definition: Definition) -> dict[str, Any]:
    """Return the changes that bring a stack to a definition: members that stay the same keep their instances."""
    members, leaving = {}, list(stack.leaving)
    for name, wish in definition.instances.items():
        old = stack.members.get(name)
        same = old is not None and old.wish == wish
        members[name] = old if same and old is not None else Member(wish=wish)
    for name, member in stack.members.items():
        if member.instance_id and members.get(name) is not member:
            leaving.append(member.instance_id)
    return {"members": members, "pools": dict(definition.pools), "leaving": tuple(leaving)}
