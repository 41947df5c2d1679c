"""Carry every cluster through its life: the only place that calls what makes clusters.

One task per cluster does the duty of its state and stores what happened; ready ones are watched in bulk. Any step may
be the last one before a crash: the next run does the same duty again, and providers are asked by idempotent ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from gridcloud.budgets.model import Account, Ask
from gridcloud.clock import Clock
from gridcloud.clusters.costs import account_of, charge_for, growth_of, paying_for, rate_of, start_of
from gridcloud.clusters.driver import ClusterDriver
from gridcloud.clusters.lifecycle import Event, step
from gridcloud.clusters.model import (
    FINAL,
    Cluster,
    ClusterHandle,
    ClusterObservation,
    ClusterPhase,
    ClusterRequest,
    ClusterSpec,
    Rate,
    Reason,
    State,
)
from gridcloud.clusters.providers import ClusterProviders
from gridcloud.clusters.timing import Timing
from gridcloud.clusters.watch import Watch
from gridcloud.errors import (
    Conflict,
    GridcloudError,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Rejected,
    TimedOut,
    Transient,
    Unavailable,
)
from gridcloud.finishing import whole
from gridcloud.instances.costs import close_charges
from gridcloud.instances.matching import describe_price, unnamed
from gridcloud.store import Store
from gridcloud.store.lives import Lives

__all__ = ["Runner", "Timing"]

T = TypeVar("T")

log = logging.getLogger(__name__)

BEARING = 10
"""Looks at a cluster whose change was asked for, after which the failure of a change is that of this one."""


Judge = Callable[[Ask], Awaitable[str]]
"""Returns why something may not be had, in words and figures; an empty text where it may."""


class Runner:
    """Owns all clusters of a store."""

    def __init__(
        self,
        store: Store,
        providers: ClusterProviders,
        clock: Clock,
        timing: Timing,
        judge: Judge | None = None,
        judging: asyncio.Lock | None = None,
    ) -> None:
        """``judge`` is asked before a cluster is made or grows; ``judging`` is held until what it allowed is stored, by
        all who ask it."""
        self.lives = Lives(store, "cluster", Cluster, step, FINAL)
        self.providers = providers
        self.clock = clock
        self.timing = timing
        self.watch = Watch(self.lives, providers, clock, lambda: self.timing, self.stop, self._lose)
        self._judge = judge
        self._judging = judging or asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._begun: dict[str, int] = {}
        """Version of the cluster that its task works at."""
        self._loop: asyncio.Task[None] | None = None
        self._naming = asyncio.Lock()
        self._duties: dict[State, Callable[[Cluster], Coroutine[Any, Any, None]]] = {
            State.REQUESTED: self._begin,
            State.CREATING: self._make,
            State.SCALING: self._scale,
            State.STOPPING: self._remove,
            State.FAILING: self._remove,
        }

    async def start(self) -> None:
        """Take up every cluster that has not ended, and begin to watch."""
        for cluster in await self.lives.take_up():
            if cluster.state in self._duties:
                self._carry(cluster)
        self._loop = asyncio.create_task(self.watch.run(), name="clusters: watch")

    async def close(self) -> None:
        """Let go of everything. Clusters live on; the next run takes them up."""
        tasks = [task for task in (*self._tasks.values(), self._loop) if task is not None]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.providers.close()

    @whole
    async def submit(self, owner: str, name: str, request: ClusterRequest) -> Cluster:
        """Store the wish for a cluster and start to fulfil it; return at once.

        Raises InvalidRequest when the owner has one of this name, NotFound and InvalidSettings for its provider.
        """
        if not owner:
            raise InvalidRequest("A cluster needs an owner.")
        provider = self.providers.choose(request.on)
        request = request.model_copy(update={"time": request.time or int(self.timing.longest_life)})
        async with self._naming:
            if any(one.name == name for one in await self.lives.live(owner)):
                raise InvalidRequest(
                    f"There is a cluster {name} already.", remedy="Name another, or stop that one."
                )
            cluster = Cluster(
                id=self.clock.new_id("k"),
                owner=owner,
                name=name,
                request=request,
                provider=provider,
                nodes=request.nodes,
                created=self.clock.now(),
                deadline=self._deadline(),
            )
            message = f"Asked for {_count(request.nodes)} at {provider}."
            cluster = await self.lives.insert(cluster, "requested", message)
        self._carry(cluster)
        return cluster

    async def scale(self, cluster_id: str, nodes: int) -> Cluster:
        """Have a cluster get so many nodes; return at once.

        Raises InvalidRequest unless it is ready, QuotaExceeded where a budget forbids it.
        """
        async with self._judging:
            scaling = await self._begin_scaling(cluster_id, nodes)
        if scaling.state is State.SCALING:
            self._carry(scaling)
        return scaling

    async def _begin_scaling(self, cluster_id: str, nodes: int) -> Cluster:
        while True:
            cluster = await self.lives.get(cluster_id)
            self.lives.check_ours(cluster)
            if cluster.state in (State.READY, State.SCALING) and cluster.nodes == nodes:
                return cluster
            now = self.clock.now()
            await self._check_growth(cluster, nodes)
            # Until it is done, those that are to go cost, too.
            paying = paying_for(cluster, max(nodes, cluster.nodes_paid), now)
            changes = {"nodes": nodes, "detail": "", "deadline": self._deadline(), **paying}
            message = f"From {_count(cluster.nodes)} to {nodes}."
            try:
                scaling = await self._happen(cluster, Event.SCALE, message, **changes)
            except Conflict:
                continue
            if scaling is None:
                message = f"The cluster {cluster.name} is {cluster.state}."
                raise InvalidRequest(message, remedy="Wait until it is ready.")
            return scaling

    async def _check_growth(self, cluster: Cluster, nodes: int) -> None:
        """Raise QuotaExceeded where a budget forbids that a cluster gets so many nodes."""
        ask = growth_of(cluster, nodes, self.clock.now())
        if ask is None or self._judge is None or step(cluster.state, Event.SCALE) is None:
            return
        if why := await self._judge(ask):
            raise QuotaExceeded(f"{why}.")

    @whole
    async def stop(self, cluster_id: str, reason: Reason = Reason.ASKED, detail: str = "") -> Cluster:
        """Have a cluster end; return at once. Stopping one that has ended changes nothing. Raises NotFound."""
        while True:
            cluster = await self.lives.get(cluster_id)
            self.lives.check_ours(cluster)
            words = detail or "Stopped as asked."
            changes: dict[str, Any] = {"reason": reason, "detail": words}
            if cluster.state is State.REQUESTED:
                changes["ended_at"] = self.clock.now()
            try:
                stopped = await self._happen(cluster, Event.STOP, words, **changes)
            except Conflict:
                continue
            if stopped is not None:
                self._carry(stopped)
            return stopped or cluster

    async def give_up(self, cluster: Cluster, detail: str) -> None:
        """Take what is left of an ending cluster for gone, unseen: for a provider that will never be asked again."""
        if cluster.kubeconfig:
            await asyncio.to_thread(Path(cluster.kubeconfig).unlink, missing_ok=True)
        with contextlib.suppress(Conflict):
            gone = await self._note_gone(cluster, detail, detail=detail)
            self._carry(gone or cluster)  # whoever was removing it sees that it is over

    async def accounts(self) -> list[Account]:
        """Return the accounts of all clusters that have not ended."""
        return [account_of(cluster) for cluster in await self.lives.live()]

    async def end(self, cluster_id: str, message: str) -> None:
        """Have a cluster end whose budget is used up; one of another service is ended by that. Raises NotFound."""
        if self.lives.keeps(await self.lives.get(cluster_id)):
            await self.stop(cluster_id, Reason.BUDGET, message)

    async def warn(self, cluster_id: str, message: str) -> None:
        """Tell the owner of a live cluster: an event. Raises NotFound."""
        cluster = await self.lives.get(cluster_id)
        if cluster.state not in FINAL:
            await self.lives.tell(cluster, "warning", message)

    async def find(self, owner: str, name: str) -> Cluster:
        """Return the owner's live cluster of this name. Raises NotFound."""
        for cluster in await self.lives.live(owner):
            if cluster.name == name:
                return cluster
        raise NotFound(f"There is no cluster {name!r:.100}.", remedy="See 'gridcloud cluster list'.")

    # One life ------------------------------------------------------------------------------------------------

    def _carry(self, cluster: Cluster) -> None:
        task = self._tasks.get(cluster.id)
        if task is not None:
            if self._begun.get(cluster.id, 0) >= cluster.version:
                return  # it saw it before whoever wrote it went on
            task.cancel()
        self._tasks[cluster.id] = asyncio.create_task(
            self._life(cluster.id, task), name=f"cluster {cluster.id}"
        )

    async def _life(self, cluster_id: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        while True:
            try:
                cluster = await self.lives.get(cluster_id)
                duty = self._duties.get(cluster.state)
                if duty is None:
                    break
                self._begun[cluster_id] = cluster.version
                await duty(cluster)
            except Conflict:
                continue  # it was changed meanwhile: what is to be done now is another thing
            except Exception:  # a fault of ours must not leave a cluster that nobody looks after
                log.exception("cluster %s: the runner failed; it is taken up again", cluster_id)
                await self.clock.sleep(1)
        if self._tasks.get(cluster_id) is asyncio.current_task():
            del self._tasks[cluster_id]
            self._begun.pop(cluster_id, None)

    async def _begin(self, cluster: Cluster) -> None:
        try:
            driver = self.providers.get(cluster.provider)
            node = await self._persist(cluster, lambda: driver.node(cluster.request))
            async with self._judging:
                await self._order(cluster, driver, rate_of(driver.settings, node))
        except (Rejected, Unavailable, TimedOut, NotFound) as error:
            changes = {**self._refusal(error), "ended_at": self.clock.now()}
            await self._happen(cluster, Event.BROKEN, str(error), **changes)

    async def _order(self, cluster: Cluster, driver: ClusterDriver, rate: Rate) -> None:
        """Store that a provider is about to be asked, with what that costs from now on, where the budgets allow it."""
        now = self.clock.now()
        charge = charge_for(cluster.provider, rate, cluster.nodes, now)
        ask = start_of(cluster.owner, cluster.request, charge)
        if self._judge is not None and (why := await self._judge(ask)):
            changes = {"reason": Reason.BUDGET, "detail": f"{why}.", "ended_at": now}
            await self._happen(cluster, Event.BROKEN, f"{why}.", **changes)
            return
        async with self.providers.remembering(cluster.provider):
            if self.providers.get(cluster.provider) is not driver:
                return  # its entry was changed meanwhile: it is asked anew
            price = f" at {describe_price(charge.price, self.providers.currency)}" if charge.price else ""
            message = f"Asking {cluster.provider} for {charge.shape}{price}."
            changes = {"rate": rate, "charges": (charge,), "nodes_paid": cluster.nodes}
            await self._happen(cluster, Event.BEGUN, message, deadline=self._deadline(), **changes)

    async def _make(self, cluster: Cluster) -> None:
        try:
            if cluster.handle is None:
                handle = await self._create(cluster)
                message = f"{cluster.provider} is making it."
                cluster = await self.lives.save(cluster, "making", message, handle=handle)
            seen = await self._until_ready(cluster)
            path = await self._access(cluster)
        except (Rejected, Unavailable, TimedOut, NotFound) as error:
            await self._happen(cluster, Event.BROKEN, str(error), **self._refusal(error))
            return
        now = self.clock.now()
        seconds = cluster.request.time
        expires = now + timedelta(seconds=seconds) if seconds else None
        until = f" until {expires:%Y-%m-%d %H:%M:%S} UTC" if expires else ""
        await self._happen(
            cluster,
            Event.UP,
            f"Ready{until}, with {_count(seen.nodes)}.",
            ready_at=now,
            expires=expires,
            deadline=None,
            kubeconfig=str(path),
            nodes_there=seen.nodes,
            version_there=seen.version,
            **paying_for(cluster, seen.nodes or cluster.nodes, now),
        )

    async def _create(self, cluster: Cluster) -> ClusterHandle:
        spec = ClusterSpec(id=cluster.id, owner=cluster.owner, name=cluster.name, request=cluster.request)

        async def ask() -> ClusterHandle:
            driver = await self.providers.holder(cluster.provider)
            return await driver.create(spec)

        return await self._persist(cluster, ask)

    async def _access(self, cluster: Cluster) -> Path:
        async def ask() -> Path:
            driver = await self.providers.holder(cluster.provider)
            return await driver.kubeconfig(cluster.id, _handle(cluster))

        return await self._persist(cluster, ask)

    async def _until_ready(self, cluster: Cluster) -> ClusterObservation:
        """Return what is seen of a cluster once it can be used. Raises Rejected, NotFound, TimedOut."""
        told = ""
        while True:
            seen = await self.watch.observe(cluster)
            if seen.phase is ClusterPhase.READY:
                return seen
            if seen.phase is ClusterPhase.GONE:
                raise NotFound(seen.detail or "It is gone.")
            if seen.phase is ClusterPhase.FAILED:
                raise Rejected(
                    f"{cluster.provider} could not make it: {seen.detail or 'it does not say why'}"
                )
            self._check_deadline(cluster, seen.detail)
            told = await self._tell(cluster, seen.detail, told)
            await self.clock.sleep(self.timing.poll)

    async def _scale(self, cluster: Cluster) -> None:
        async def ask() -> None:
            driver = await self.providers.holder(cluster.provider)
            await driver.scale(cluster.id, _handle(cluster), cluster.nodes)

        try:
            await self._persist(cluster, ask)
            seen = await self._until_scaled(cluster)
        except NotFound as error:
            await self._happen(cluster, Event.BROKEN, str(error), reason=Reason.LOST, detail=str(error))
        except (Rejected, Unavailable, TimedOut) as error:
            seen = await self.watch.observe(cluster)
            nodes = seen.nodes or cluster.nodes_there or cluster.nodes
            message = f"It keeps {_count(nodes)}: {error}"
            changes = {"nodes": nodes, "nodes_there": nodes, "detail": message, "deadline": None}
            changes |= paying_for(cluster, nodes, self.clock.now())
            await self._happen(cluster, Event.SCALED, message, **changes)
        else:
            message = f"It has {_count(seen.nodes)}."
            paying = paying_for(cluster, seen.nodes, self.clock.now())
            await self._happen(
                cluster, Event.SCALED, message, nodes_there=seen.nodes, deadline=None, **paying
            )

    async def _until_scaled(self, cluster: Cluster) -> ClusterObservation:
        told, looks, moved = "", 0, False
        while True:
            seen = await self.watch.observe(cluster)
            if seen.phase is ClusterPhase.GONE:
                raise NotFound(seen.detail or "It is gone.")
            if seen.phase is ClusterPhase.FAILED:
                raise Rejected(seen.detail or f"{cluster.provider} could not change it.")
            if seen.phase is ClusterPhase.READY:
                looks += 1
                if not seen.problem and seen.nodes == cluster.nodes:
                    return seen
                # What failed may be an earlier change, as long as the provider has not begun with this one.
                if seen.problem and (moved or looks >= BEARING):
                    raise Rejected(seen.problem)
            else:
                moved = True
            self._check_deadline(cluster, seen.detail)
            told = await self._tell(cluster, seen.detail, told)
            await self.clock.sleep(self.timing.poll)

    async def _remove(self, cluster: Cluster) -> None:
        attempt = 0
        while True:
            try:
                driver = await self.providers.holder(cluster.provider)
                async with asyncio.timeout(self.timing.call):
                    gone = await driver.destroy(cluster.id, cluster.handle)
            except (GridcloudError, TimeoutError) as error:
                attempt += 1
                if attempt in (1, 5) or attempt % 20 == 0:
                    why = unnamed(cluster.provider, error).rstrip(".") or "no answer"
                    text = f"Could not remove it from {cluster.provider} yet ({why}); trying again."
                    await self.lives.tell(cluster, "retrying", text)
                await self.clock.sleep(self._pause(attempt))
                continue
            if gone:
                break
            attempt = 0
            await self.clock.sleep(self.timing.poll)
        await self._note_gone(cluster, "Nothing is left of it.")

    async def _note_gone(self, cluster: Cluster, message: str, **changes: Any) -> Cluster | None:
        now = self.clock.now()
        changes |= {"handle": None, "kubeconfig": "", "nodes_there": 0, "ended_at": now}
        changes["charges"] = close_charges(cluster.charges, now)
        return await self._happen(cluster, Event.REMOVED, message, **changes)

    async def _lose(self, cluster: Cluster, detail: str) -> None:
        with contextlib.suppress(Conflict):
            lost = await self._happen(cluster, Event.BROKEN, detail, reason=Reason.LOST, detail=detail)
            if lost is not None:
                self._carry(lost)

    # Means ---------------------------------------------------------------------------------------------------

    async def _persist(self, cluster: Cluster, ask: Callable[[], Awaitable[T]]) -> T:
        """Return what a call of a driver gives, asked again while it is Transient and there is time.

        A call that was begun is always waited for: what it may still do would be found by nobody. Raises Rejected,
        Unavailable and NotFound as they come, TimedOut when the time is over.
        """
        attempt, told = 0, ""
        while True:
            try:
                return await _to_the_end(self._in_time(ask))
            except Unavailable:
                raise
            except Transient as error:
                attempt += 1
                self._check_deadline(cluster, str(error))
                told = await self._tell(cluster, str(error), told)
                await self.clock.sleep(self._pause(attempt))

    async def _in_time(self, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self.timing.call):
                return await ask()
        except TimeoutError:
            raise Transient(f"It was not answered within {self.timing.call:g} s.") from None

    async def _happen(self, cluster: Cluster, event: Event, message: str, **changes: Any) -> Cluster | None:
        """Store what happened to a cluster as it was read; None where that means nothing to it. Raises Conflict when
        it was changed since."""
        after = step(cluster.state, event)
        if after is None:
            return None
        return await self.lives.save(cluster, str(after), message, state=after, **changes)

    async def _tell(self, cluster: Cluster, detail: str, told: str) -> str:
        if detail and detail != told:
            await self.lives.tell(cluster, "waiting", detail)
        return detail

    def _check_deadline(self, cluster: Cluster, detail: str) -> None:
        if cluster.deadline is not None and self.clock.now() >= cluster.deadline:
            raise TimedOut(f"It was not done within {self.timing.make:g} s. {detail}".strip())

    def _deadline(self) -> Any:
        return self.clock.now() + timedelta(seconds=self.timing.make)

    def _refusal(self, error: GridcloudError) -> dict[str, Any]:
        return {"reason": Reason.REFUSED, "detail": str(error)}

    def _pause(self, attempt: int) -> float:
        limit: float = min(self.timing.longest_pause, self.timing.first_pause * 2.0 ** min(attempt - 1, 16))
        return limit * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, guards nothing


def _handle(cluster: Cluster) -> ClusterHandle:
    if cluster.handle is None:
        raise NotFound(f"The cluster {cluster.name} was never made.")
    return cluster.handle


def _count(nodes: int) -> str:
    return f"{nodes} node" if nodes == 1 else f"{nodes} nodes"


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
