"""What clusters cost: charges in the one ledger, starts and growth refused by budgets, clusters ended by them."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gridcloud.clock import ManualClock
from gridcloud.clusters.model import FINAL, Cluster, ClusterRequest, Reason, State
from gridcloud.errors import QuotaExceeded
from gridcloud.instances.model import Instance
from gridcloud.service.house import House
from tests.budgets import scenes
from tests.budgets.scenes import CLOUD, START, submit, used
from tests.clusters.test_runner import until
from tests.houses import configure

HOUR = 3600
FAKE: dict[str, Any] = {
    "driver": "fake",
    "price": 0.5,
    "shapes": ["standard", "huge", "secret"],
    "prices": {"standard": 1, "h*": 10},
}
ADA = {"ada": {"user": "ada", "money": 20}}


def open_house(folder: Path, clock: ManualClock, budgets: Any = ADA, **entry: Any) -> Any:
    return scenes.open_house(folder, clock, budgets, clusters={"pretend": FAKE | entry})


async def start(house: House, name: str = "lab", owner: str = "ada", **asked: Any) -> Cluster:
    """Return a cluster once it is ready, or has ended."""
    request = ClusterRequest(**({"time": HOUR} | asked))
    made = await house.clusters.submit(owner, name, request)
    return await until(house, made.id, State.READY, *FINAL)


async def stop(house: House, cluster: Cluster) -> Cluster:
    await house.clusters.stop(cluster.id)
    return await until(house, cluster.id, *FINAL)


async def test_nodes_cost_by_their_number_until_they_are_gone(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, {"ada": {"user": "ada", "money": 30}}) as house:
        made = await start(house, nodes=2, time=5 * HOUR)
        assert [(one.price, one.shape) for one in made.charges] == [(Decimal("2.5"), "2 × standard")]
        await clock.advance(HOUR)
        assert (await used(house, "ada")).spent.money == Decimal("2.5")
        assert (await used(house, "ada")).running.money == Decimal(10)
        await house.clusters.scale(made.id, 4)
        await until(house, made.id, State.READY)
        await clock.advance(HOUR)
    async with open_house(tmp_path, clock, {"ada": {"user": "ada", "money": 30}}) as house:
        assert (await used(house, "ada")).spent.money == Decimal(7)
        await house.clusters.scale(made.id, 1)
        scaled = await until(house, made.id, State.READY)
        assert (scaled.charges[-1].price, scaled.nodes_paid) == (Decimal("1.5"), 1)
        await clock.advance(HOUR)
        last = await stop(house, made)
        assert all(charge.until is not None for charge in last.charges)
        await clock.advance(HOUR)
        usage = await used(house, "ada")
        assert (usage.spent.money, usage.running.money, usage.live) == (Decimal("8.5"), Decimal(0), ())
    async with open_house(tmp_path, clock, {"ada": {"user": "ada", "money": 30}}) as house:
        assert (await used(house, "ada")).spent.money == Decimal("8.5")
        lines = list(house.treasury.ledger.entries(clock.now()))
        assert [(line.name, line.shape, line.money) for line in lines] == [
            ("lab", "2 × standard", Decimal("2.5")),
            ("lab", "4 × standard", Decimal("4.5")),
            ("lab", "1 × standard", Decimal("1.5")),
        ]


async def test_what_would_pass_a_budget_is_neither_made_nor_given_more_nodes(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with open_house(tmp_path, clock) as house:
        refused = await start(house, nodes=20)
        assert (refused.state, refused.reason, refused.charges) == (State.FAILED, Reason.BUDGET, ())
        assert "20.50 asked, 20.50 in all" in refused.detail
        assert await house.clusters.providers.get("pretend").holdings() == []
        made = await start(house, nodes=8, time=2 * HOUR)  # 17
        await clock.advance(HOUR)
        with pytest.raises(
            QuotaExceeded, match=r"8.50 spent, 8.50 committed to what runs, 4.00 asked.*; ask for fewer nodes"
        ):
            await house.clusters.scale(made.id, 12)
        assert (await house.clusters.lives.get(made.id)).state is State.READY
        await house.clusters.scale(made.id, 11)
        await until(house, made.id, State.READY)
        assert (await used(house, "ada")).committed.money == Decimal(20)
        other = await start(house, "other", nodes=1)
        assert other.reason is Reason.BUDGET
        theirs = await start(house, "theirs", "bob", nodes=50)
        for one in (made, theirs):
            await stop(house, one)


async def test_clusters_and_machines_share_a_budget_and_are_judged_one_at_a_time(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with open_house(tmp_path, clock) as house:
        wishes = [start(house, f"c{number}", nodes=9) for number in range(4)]
        machine, *made = await asyncio.gather(submit(house, time=9 * HOUR), *wishes, return_exceptions=True)
        ready = [one for one in made if isinstance(one, Cluster) and one.state is State.READY]
        assert len(ready) + isinstance(machine, Instance) == 2
        assert 18 < (await used(house, "ada")).committed.money <= 20
        for one in ready:
            await stop(house, one)
        if isinstance(machine, Instance):
            await house.instances.stop(machine.id)
            await scenes.ended(house, machine.id)


async def test_what_has_no_known_price_is_for_those_without_a_budget_of_money(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with open_house(tmp_path, clock) as house:
        refused = await start(house, shape="secret")
        assert "Its price is not known" in refused.detail
        made = await start(house, owner="bob", shape="secret")
        assert [charge.priced for charge in made.charges] == [False]
        await stop(house, made)


async def test_gpus_of_all_nodes_count(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with open_house(tmp_path, clock, {"ada": {"user": "ada", "gpu_hours": 10}}) as house:
        made = await start(house, nodes=2, gpus=4, shape="secret")
        assert (await used(house, "ada")).running.gpu_hours == 8
        with pytest.raises(QuotaExceeded, match="GPU-hours"):
            await house.clusters.scale(made.id, 3)
        await stop(house, made)


async def test_a_project_pays(tmp_path: Path) -> None:
    clock = ManualClock(START)
    wind = {"wind": {"project": "wind", "user": "ada", "money": 5}, "ada": {"user": "ada", "money": 0}}
    async with open_house(tmp_path, clock, wind) as house:
        assert (await start(house, "own")).reason is Reason.BUDGET
        assert "may not charge the project" in (await start(house, "b", "bob", project="wind")).detail
        made = await start(house, project="wind", nodes=2)
        assert (await used(house, "wind")).running.money == Decimal("2.5")
        await stop(house, made)


async def test_what_uses_a_budget_up_is_told_and_ended(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with open_house(tmp_path, clock) as house:
        made = await start(house, nodes=1, time=13 * HOUR)
        free = await start(house, "free", "bob", nodes=1, time=13 * HOUR)
        lowered = {"ada": {"user": "ada", "money": 3}}
        configure(tmp_path, {"cloud": CLOUD}, budgets=lowered, clusters={"pretend": FAKE})
        for _ in range(150):
            await clock.advance(60)
            await house.budgets.look()
        last = await until(house, made.id, *FINAL)
        assert (last.reason, last.detail) == (Reason.BUDGET, "The budget ada is used up.")
        assert Decimal("2.9") < (await used(house, "ada")).spent.money <= 3
        told = [one.message for one in await house.store.events(subject=made.id) if one.type == "warning"]
        assert "of the budget ada are used" in told[0]
        assert "what it pays for is ended at" in told[1]
        assert (await house.clusters.lives.get(free.id)).state is State.READY
        await stop(house, free)


async def test_while_it_shrinks_what_is_to_go_costs(tmp_path: Path) -> None:
    async with open_house(tmp_path, ManualClock(START), seconds=0) as house:
        made = await start(house, nodes=5)
        driver = house.clusters.providers.get("pretend")
        assert made.handle is not None
        house.clusters._carry = lambda cluster: None  # nobody scales it
        shrinking = await house.clusters.scale(made.id, 2)
        assert (shrinking.nodes, shrinking.nodes_paid, len(shrinking.charges)) == (2, 5, 1)
        growing = await house.clusters.scale(made.id, 3)
        assert (growing.nodes, growing.nodes_paid) == (3, 5)
        del house.clusters._carry
        house.clusters._carry(growing)
        ready = await until(house, made.id, State.READY)
        assert (ready.nodes_paid, ready.charges[-1].price) == (3, Decimal("3.5"))
        assert len(await driver.holdings()) == 1
        await stop(house, made)


async def test_a_limit_of_the_configuration_ends_clusters_too(tmp_path: Path) -> None:
    clock = ManualClock(START)
    async with scenes.open_house(
        tmp_path, clock, ADA, clusters={"pretend": FAKE}, limits={"time": 2 * HOUR}
    ) as house:
        made = await start(house, time=0)
        assert made.request.time == 2 * HOUR
        assert (await used(house, "ada")).running.money == 3
        await stop(house, made)
