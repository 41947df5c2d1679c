"""Forget a provider that left the configuration: never while somebody still looks after what it may hold."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gridcloud.errors import GridcloudError, InvalidRequest, NotFound
from gridcloud.instances.entries import Entries
from gridcloud.instances.matching import unnamed
from gridcloud.instances.model import SHARED, Instance, State
from gridcloud.instances.runner import Runner

__all__ = ["ENDING", "PATIENCE", "Forgotten", "check_left", "describe_forgotten", "forget", "not_forgotten"]

ENDING = frozenset({State.STOPPING, State.FAILING, State.DISCARDING})
"""States of instances that nobody uses: what is left of them is being removed, again and again."""

PATIENCE = 60.0
"""Seconds for a provider to say what it holds."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A provider that is not asked any more."""

    provider: str
    given_up: tuple[str, ...]
    """What may be left there, in words; empty where it was seen that nothing is."""


async def forget(runner: Runner, name: str, give_up: bool = False) -> Forgotten:
    """Ask a provider that left the configuration, or the place that its entry meant before, never again.

    Raises InvalidRequest while it is configured or used, and, unless ``give_up``, while it cannot be seen that nothing
    is left there; NotFound for a name that is not remembered. With ``give_up`` instances that were ending there are
    taken for gone: their records say so, and they count as costs no longer.
    """
    await check_left(runner.providers, name, f"First: gridcloud provider remove {name}")
    ours = [
        one
        for one in await runner.records.live()
        if one.state is not State.REQUESTED and one.offer is not None and one.offer.provider == name
    ]
    used = [one for one in ours if one.state not in ENDING]
    if used:
        raise InvalidRequest(
            f"{name} has instances that did not end: {_list(used)}.",
            remedy=f"Stop them first: gridcloud instance stop {' '.join(one.id for one in used)}",
        )
    held, why = await _look(runner, name)
    unseen = [f"instance {one.id} ({one.state})" for one in ours]
    if why:
        unseen.append("whatever else carries our tag there")
    left = [*held, *unseen]
    if left and not give_up:
        command = f"gridcloud provider forget {name} --yes"
        raise not_forgotten(name, left, why, runner.records.store.installation, command)
    for one in ours:
        await _give_up(runner, one, name)
    message = describe_forgotten(name, left, why)
    await runner.providers.forget(name, message, {"given_up": left})
    await runner.records.store.set_meta(f"unused:{name}", "")
    return Forgotten(name, tuple(left))


async def check_left(entries: Entries[Any], name: str, remedy: str) -> None:
    """Raise InvalidRequest, with this remedy, while an entry is configured; NotFound where it is not remembered."""
    try:
        left = await entries.left(name)
    except NotFound:
        raise NotFound(
            f"No provider named {name!r:.100} is remembered: nothing was ever started there, or it was forgotten."
        ) from None
    if not left:
        raise InvalidRequest(f"{name} is in the configuration.", remedy=remedy)


def not_forgotten(name: str, left: Sequence[str], why: str, tag: str, command: str) -> InvalidRequest:
    """Return the refusal to forget a provider where something may be left: what, in words, and ``why`` it cannot be
    seen; ``command`` gives it up."""
    return InvalidRequest(
        f"{_told(name, why)} Forgetting it gives up {'; '.join(left)}. What is left there may go on costing money.",
        remedy=("Have a look there yourself" if why else "Try 'gridcloud doctor --mend' first")
        + f" (our tag: {tag}), then: {command}",
    )


def describe_forgotten(name: str, left: Sequence[str], why: str) -> str:
    """Return what the story of a provider says at its end."""
    return f"{name} is forgotten." + (f" {_told(name, why)} Given up: {'; '.join(left)}." if left else "")


def _told(name: str, why: str) -> str:
    return f"It cannot be seen what {name} holds: {why}" if why else f"{name} still holds something."


async def _look(runner: Runner, name: str) -> tuple[Sequence[str], str]:
    """Return what a provider holds, in words, without what serves all its instances where that can go; and why that
    cannot be seen."""
    try:
        async with asyncio.timeout(PATIENCE):
            driver = await runner.providers.holder(name)
            held = await driver.holdings()
            if held and all(one.instance_id == SHARED for one in held):
                await driver.destroy(SHARED, next((one.handle for one in held if one.handle), None))
                held = await driver.holdings()
    except (GridcloudError, TimeoutError) as error:
        return (), unnamed(name, error) or f"no answer within {PATIENCE:g} s."
    return [f"{one.what} {one.name} ({one.instance_id})" for one in held], ""


async def _give_up(runner: Runner, instance: Instance, name: str) -> None:
    text = f"Given up: {name} was forgotten, and nobody saw whether anything is left there."
    async for now in runner.records.follow(instance.id):
        if now.state not in ENDING:
            return
        await runner.give_up(now, text)


def _list(instances: Sequence[Instance]) -> str:
    return ", ".join(f"{one.id} ({one.state})" for one in instances)
