"""gridcloud killed at random points of starting, scaling and stopping clusters, at Magnum and at Oracle's OKE.

The next one mends; everything of ours is ended, nothing of ours is left in the account, and what is not ours is there
as it was. More points by KILL_POINTS (of each cloud), other ones by KILL_SEED: see `killing`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from gridcloud.clock import SystemClock
from gridcloud.clusters.driver import ClusterDriver
from gridcloud.clusters.lifecycle import step
from gridcloud.clusters.model import FINAL, Cluster, Reason, State
from gridcloud.drivers.clusters import magnum as magnum_words
from gridcloud.drivers.clusters import oke as oke_words
from gridcloud.drivers.clusters.magnum import MagnumDriver
from gridcloud.service.house import House
from gridcloud.store import open_store
from gridcloud.store.lives import Lives
from gridcloud.testing.clusters import ClusterDriverContract, cluster_context
from tests.bad_days.cluster_victim import HastyHouse, step_of
from tests.bad_days.killing import SEED, Point, conclude, count_points, kill_at, suffer_each
from tests.drivers import test_magnum, test_oke
from tests.houses import configure, open_house
from tests.labs.magnum import TEMPLATES, Magnum, magnum_server
from tests.labs.oracle import Oracle

pytestmark = pytest.mark.timeout(900)

STEPS = ("start", "up", "stop", "down")
"""What is being done when a gridcloud is killed, in turn."""
BUDGETS = {one: {"user": one, "gpu_hours": 100} for one in ("ada", "bob")}
Look = Callable[[], dict[str, Any]]
"""Returns all that an account holds, whoever made it, by id, each with its words."""
Plant = Callable[[str, str], list[str]]
"""Puts strangers there that look like what an installation makes for the cluster of an id; returns their ids."""


class Account:
    """A cloud's account that houses are killed over, and what is there that is not theirs: all that is there now."""

    def __init__(self, kind: str, entry: dict[str, Any], look: Look, plant: Plant) -> None:
        self.kind = kind
        self.under_way: Counter[str] = Counter()
        self._sections = {"clusters": {"cloud": entry}, "budgets": BUDGETS}
        self._look = look
        self._plant = plant
        self._foreign = deepcopy(look())

    async def suffer_all(self, folder: Path) -> str:
        """Be killed at all points; return the counts."""
        chance = random.Random(f"{SEED} {self.kind}")
        points = [
            Point(at, chance.randint(1, 3), chance.uniform(0, 0.3), f"{STEPS[at % len(STEPS)]} ")
            for at in range(count_points(4))
        ]
        touched: list[str] = []

        async def one(point: Point) -> None:
            await self._suffer(point, folder / f"point{point.number}")

        async def left() -> list[str]:
            there = self._look()
            touched.extend(key for key, words in self._foreign.items() if there.get(key) != words)
            found = [f"left: {key} {words}" for key, words in there.items() if key not in self._foreign]
            return found + [f"touched, though not ours: {key}" for key in touched]

        counts = await suffer_each(self.kind, points, one, left)
        print(f"under way when killed: {dict(self.under_way)}")
        return f"{counts} foreign={len(self._foreign)} touched={len(touched)}"

    async def _suffer(self, point: Point, folder: Path) -> None:
        """Be killed once; then run again, mend, look, and end all."""
        folder.mkdir()
        (folder / "data").mkdir(mode=0o700)
        configure(folder, {}, **self._sections)
        self._add_strangers((await read(folder))[0], "k-look-alike")
        await kill_at(point, ["tests.bad_days.cluster_victim", str(folder)])
        installation, clusters = await read(folder)
        for cluster in clusters:
            self._add_strangers(installation, cluster.id)
        steps = {step_of(cluster) for cluster in clusters} - {""}
        self.under_way.update(steps)
        point.last += f"; under way: {', '.join(sorted(steps)) or 'nothing'}"
        async with open_house(folder, {}, HastyHouse, **self._sections) as house:
            point.live = len(clusters)
            point.mended = await mend(house)
            point.leaks = await find_lost(house) if point.number % 2 else []
            point.leaks += await end_all(house)

    def _add_strangers(self, installation: str, cluster_id: str) -> None:
        added = self._plant(installation, cluster_id)
        there = self._look()
        self._foreign |= {key: deepcopy(there[key]) for key in added}


async def read(folder: Path) -> tuple[str, list[Cluster]]:
    """Return the installation of a store that nobody uses, and its clusters that have not ended."""
    store = await open_store(folder / "data" / "store.sqlite", SystemClock())
    try:
        return store.installation, await Lives(store, "cluster", Cluster, step, FINAL).live()
    finally:
        await store.close()


async def mend(house: House) -> list[str]:
    """Do what `gridcloud doctor --mend` does, until there is nothing to mend; return what was."""
    mended: dict[str, str] = {}
    with suppress(TimeoutError):
        async with asyncio.timeout(20):
            while await house.examine():
                mended |= {one.subject: one.message for one in await house.mend()}
                await asyncio.sleep(0.05)
    return list(mended.values())


async def find_lost(house: House) -> list[str]:
    """Wait until every cluster is what it was to become; return those that did not come to that."""
    for cluster in await house.clusters.lives.live():
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                async for now in house.clusters.lives.follow(cluster.id):
                    if now.state is State.READY and now.nodes == now.nodes_there:
                        break
    driver, live = house.clusters.providers.get("cloud"), await house.clusters.lives.live()
    ready = {one.id: 1 for one in live if one.state is State.READY}
    held: Counter[str] = Counter()
    with suppress(TimeoutError):
        async with asyncio.timeout(20):
            while (
                held != ready
            ):  # an order of before the crash may be taken late, and what it makes removed later yet
                held = Counter(one.cluster_id for one in await driver.holdings() if one.what == "cluster")
                await asyncio.sleep(0.05)
    lost = [f"{one.id} is {one.state}" for one in live if one.state is not State.READY]
    return lost + [f"{one} is there {held[one]} times" for one in held | ready if held[one] != ready.get(one)]


async def end_all(house: House) -> list[str]:
    """Stop what lives, as its owners would; return what is left in the store, on the disk or at the provider."""
    for cluster in await house.clusters.lives.live():
        await house.clusters.stop(cluster.id)
    for cluster in await house.clusters.lives.live():
        async with asyncio.timeout(60):
            async for _ in house.clusters.lives.follow(cluster.id):
                pass
    left = [one.message for one in await house.examine()]
    for one in await house.clusters.lives.find():
        if (one.state, one.reason) != (State.STOPPED, Reason.ASKED):
            left.append(f"cluster {one.id} is {one.state}: {one.detail}")
        left += [f"cluster {one.id} is still charged" for charge in one.charges if charge.until is None]
    left += [f"{one.what} {one.name}" for one in await house.clusters.providers.get("cloud").holdings()]
    return left + [str(path) for path in (house.data / "clusters").rglob("*") if "kubeconfig" in path.name]


async def make_theirs(driver: ClusterDriver) -> None:
    """Have the cluster of another installation there, with its nodes."""
    contract = ClusterDriverContract()
    try:
        spec = contract.spec()
        await contract.ready(driver, spec, await driver.create(spec))
    finally:
        await driver.close()


@pytest.mark.filterwarnings("ignore::openstack.warnings.OpenStackDeprecationWarning")
@pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning")
async def test_killed_at_magnum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with magnum_server(seconds=0.2) as magnum:
        magnum.pause, magnum.nodes = 0.4, 10_000
        settings = test_magnum.settings(magnum, tmp_path)
        context = cluster_context(tmp_path / "theirs", installation="another")
        await make_theirs(MagnumDriver(settings, context))
        entry = settings.model_dump(mode="json", include={"driver", "cloud", "clouds_file", "template"})
        look, plant = (lambda: things_at_magnum(magnum)), (lambda *words: plant_at_magnum(magnum, *words))
        account = Account("magnum", entry, look, plant)
        conclude(await account.suffer_all(tmp_path), capsys)


def things_at_magnum(magnum: Magnum) -> dict[str, Any]:
    """Return the clusters and templates of the project."""
    with magnum.lock:
        magnum.settle()
        hidden = {"authority", "due", "doomed"}
        clusters = magnum.clusters.values()
        found = {one["uuid"]: {key: one[key] for key in one.keys() - hidden} for one in clusters}
    return found | {one["uuid"]: one for one in TEMPLATES}


def plant_at_magnum(magnum: Magnum, installation: str, cluster_id: str) -> list[str]:
    """Add clusters of others: of our names without our labels, of some of our labels, and of what nearly is ours."""
    ours, mark = magnum_words.INSTALLATION, magnum_words.CLUSTER
    prefix = f"gridcloud-{hashlib.sha256(installation.encode()).hexdigest()[:8]}-"
    strangers: Sequence[tuple[str, dict[str, str]]] = (
        (prefix + cluster_id, {ours: "another", mark: cluster_id}),
        (prefix + cluster_id, {ours: installation.upper(), mark: cluster_id}),
        (prefix + cluster_id, {ours: installation, mark: f"../{cluster_id}"}),
        (f"{prefix}{cluster_id} of somebody", {}),
        (f"gridcloud-{cluster_id}", {mark: cluster_id}),
        (cluster_id, {}),
    )
    with magnum.lock:
        like = next(one for one in magnum.clusters.values() if one["labels"][ours] == "another")
        added = []
        for at, (name, labels) in enumerate(strangers):
            status = "DELETE_FAILED" if at % 3 == 2 else "CREATE_COMPLETE"
            made = {**like, "uuid": f"stranger-{len(magnum.clusters)}-{at}-{cluster_id}", "name": name}
            magnum.clusters[made["uuid"]] = {**made, "labels": labels, "status": status}
            added.append(made["uuid"])
    return added


async def test_killed_at_oke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Oracle() as oracle:
        oracle.tenancy.seconds = 0.1
        test_oke.add_networks(oracle)
        config = oracle.write_config(tmp_path)
        await make_theirs(test_oke.make_driver(oracle, config, tmp_path / "theirs", "another"))
        for method in ("POST", "PUT", "DELETE"):  # taken late, whether or not whoever asked still waits
            oracle.tenancy.fail(method, "/(clusters|nodePools)(/[^/]*)?$", silent=0.1, times=1_000_000)
        look, plant = (lambda: things_at_oracle(oracle)), (lambda *words: plant_at_oracle(oracle, *words))
        account = Account("oke", test_oke.entry_of(oracle, config), look, plant)
        conclude(await account.suffer_all(tmp_path), capsys)


def things_at_oracle(oracle: Oracle) -> dict[str, Any]:
    """Return what the tenancy holds and has not ended: clusters, pools of nodes, networks and all else."""
    with oracle.tenancy.lock:
        oracle.tenancy.settle()
        things = [one for one in oracle.tenancy.things.values() if one.kind != "workrequest" and one.lives]
        return {one.id: deepcopy(one.words) for one in things}


def plant_at_oracle(oracle: Oracle, installation: str, cluster_id: str) -> list[str]:
    """Add clusters of others, each with a pool: of our names without our tags, and of some of our tags."""
    ours, entry, mark = oke_words.INSTALLATION, oke_words.PROVIDER, oke_words.CLUSTER
    strangers: Sequence[dict[str, str]] = (
        {ours: "another", entry: "cloud", mark: cluster_id},
        {ours: installation.upper(), entry: "cloud", mark: cluster_id},
        {ours: installation, entry: "cloud", mark: f"../{cluster_id}"},
        {entry: "cloud", mark: cluster_id},
        {},
    )
    tenancy = oracle.tenancy
    with tenancy.lock:
        cluster, pool = next(tenancy.of("cluster")), next(tenancy.of("nodepool"))
        added = []
        for tags in strangers:
            words = {**deepcopy(cluster.words), "freeformTags": tags, "name": f"gridcloud-{cluster_id}"}
            made = tenancy.add("cluster", {**words, "id": tenancy.new_id("cluster")})
            words = {**deepcopy(pool.words), "freeformTags": tags, "name": f"gridcloud-{cluster_id}"}
            nodes = tenancy.add("nodepool", {**words, "id": tenancy.new_id("nodepool"), "clusterId": made.id})
            for thing in (made, nodes):
                thing.words.pop("timeCreated")
            added += [made.id, nodes.id]
    return added
