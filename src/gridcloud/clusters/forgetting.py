"""Forget a provider of clusters that left the configuration: never while somebody looks after what it may hold."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gridcloud.clusters.model import Cluster, State
from gridcloud.clusters.runner import Runner
from gridcloud.errors import GridcloudError, InvalidRequest
from gridcloud.instances.forgetting import PATIENCE, Forgotten, check_left, describe_forgotten, not_forgotten
from gridcloud.instances.matching import unnamed

__all__ = ["ENDING", "forget"]

ENDING = frozenset({State.STOPPING, State.FAILING})
"""States of clusters that nobody uses: what is left of them is being removed, again and again."""


async def forget(runner: Runner, name: str, give_up: bool = False) -> Forgotten:
    """Ask a provider that left the configuration, or the place that its entry meant before, never again.

    Raises InvalidRequest while it is configured or used, and, unless ``give_up``, while it cannot be seen that nothing
    is left there; NotFound for a name that is not remembered. With ``give_up`` clusters that were ending there are
    taken for gone: their records say so, and they count as costs no longer.
    """
    await check_left(runner.providers, name, f"Take {name} out of 'clusters:' in the configuration first.")
    ours = [
        one for one in await runner.lives.live() if one.provider == name and one.state is not State.REQUESTED
    ]
    used = [one for one in ours if one.state not in ENDING]
    if used:
        stop = "; ".join(f"gridcloud cluster stop {one.id}" for one in used)
        raise InvalidRequest(
            f"{name} has clusters that did not end: {', '.join(_name(one) for one in used)}.",
            remedy=f"Stop them first: {stop}",
        )
    held, why = await _look(runner, name)
    left = [*held, *(f"the cluster {_name(one)}" for one in ours)]
    if why:
        left.append("whatever else carries our tag there")
    if left and not give_up:
        command = f"gridcloud cluster forget {name} --yes"
        raise not_forgotten(name, left, why, runner.lives.store.installation, command)
    for one in ours:
        await _give_up(runner, one, name)
    await runner.providers.forget(name, describe_forgotten(name, left, why), {"given_up": left})
    return Forgotten(name, tuple(left))


async def _look(runner: Runner, name: str) -> tuple[Sequence[str], str]:
    """Return what a provider holds, in words, and why that cannot be seen."""
    try:
        async with asyncio.timeout(PATIENCE):
            held = await (await runner.providers.holder(name)).holdings()
    except (GridcloudError, TimeoutError) as error:
        return (), unnamed(name, error) or f"no answer within {PATIENCE:g} s."
    return [f"{one.what} {one.name} ({one.cluster_id})" for one in held], ""


async def _give_up(runner: Runner, cluster: Cluster, name: str) -> None:
    text = f"Given up: {name} was forgotten, and nobody saw whether anything is left there."
    async for now in runner.lives.follow(cluster.id):
        if now.state not in ENDING:
            return
        await runner.give_up(now, text)


def _name(cluster: Cluster) -> str:
    return f"{cluster.name} ({cluster.id}, {cluster.state})"
