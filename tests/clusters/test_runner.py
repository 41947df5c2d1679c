"""Clusters through their lives, over the provider of clusters that are none, and over Magnum's API."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gridcloud.clusters.model import FINAL, Cluster, ClusterRequest, Reason, State
from gridcloud.clusters.runner import Timing
from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.service.house import House
from tests.houses import open_house
from tests.labs.magnum import magnum_server

NOTHING: dict[str, dict[str, Any]] = {"here": {"driver": "fake"}}
QUICK = Timing(poll=0.02, watch=0.05, first_pause=0.02, longest_pause=0.1)


@contextlib.asynccontextmanager
async def clusters(folder: Path, **settings: Any) -> AsyncIterator[House]:
    """Open a house that makes clusters, and is quick."""
    entry = {"driver": "fake", **settings}
    async with open_house(folder, NOTHING, clusters={"pretend": entry}) as house:
        await hurry(house)
        yield house


async def hurry(house: House, **more: Any) -> None:
    """Have the runner look often."""
    house.clusters.timing = replace(QUICK, **more)
    assert house.clusters._loop is not None
    house.clusters._loop.cancel()  # which sleeps as long as it was told to before
    await asyncio.gather(house.clusters._loop, return_exceptions=True)
    house.clusters._loop = asyncio.create_task(house.clusters.watch.run())


async def until(house: House, cluster_id: str, *states: State) -> Cluster:
    """Return a cluster once it is in one of these states."""
    async with asyncio.timeout(20):
        async for cluster in house.clusters.lives.follow(cluster_id):
            if cluster.state in states:
                return cluster
    raise AssertionError("it never came to that")


async def ready(house: House, name: str = "lab", **asked: Any) -> Cluster:
    made = await house.clusters.submit("ada", name, ClusterRequest(**asked))
    return await until(house, made.id, State.READY, *FINAL)


async def story(house: House, cluster_id: str) -> list[str]:
    return [event.type for event in await house.store.events(subject=cluster_id)]


async def test_a_whole_life(tmp_path: Path) -> None:
    async with clusters(tmp_path, seconds=0.1) as house:
        made = await ready(house, nodes=2)
        assert Path(made.kubeconfig).is_file()
        await house.clusters.scale(made.id, 4)
        scaled = await until(house, made.id, State.READY)
        assert (scaled.nodes, scaled.nodes_there) == (4, 4)
        await house.clusters.stop(made.id)
        last = await until(house, made.id, *FINAL)
        assert (last.state, last.reason, last.handle, last.kubeconfig) == (
            State.STOPPED,
            Reason.ASKED,
            None,
            "",
        )
        told = [one for one in await story(house, made.id) if one != "waiting"]
        assert told == ["requested", "creating", "making", "ready", "scaling", "ready", "stopping", "stopped"]
        assert not Path(made.kubeconfig).exists()
        assert await house.examine() == []


async def test_faults_are_borne(tmp_path: Path) -> None:
    faults = [
        {"call": call, "error": "unreachable", "times": 2}
        for call in ("create", "scale", "destroy", "kubeconfig")
    ]
    faults += [{"call": call, "error": "crash-after"} for call in ("create", "scale", "destroy")]
    async with clusters(tmp_path, faults=faults) as house:
        made = await ready(house, nodes=2)
        assert made.state is State.READY
        await house.clusters.scale(made.id, 3)
        assert (await until(house, made.id, State.READY)).nodes_there == 3
        assert len(await house.clusters.providers.get("pretend").holdings()) == 1
        await house.clusters.stop(made.id)
        await until(house, made.id, State.STOPPED)
        assert await house.examine() == []


async def test_what_is_refused_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    async with clusters(tmp_path, nodes=5) as house:
        failed = await ready(house, nodes=9)
        failed = await until(house, failed.id, *FINAL)
        assert (failed.state, failed.reason) == (State.FAILED, Reason.REFUSED)
        assert "allows 5 nodes" in failed.detail
        wrong = await ready(house, name="other", shape="none")
        assert "has no shape 'none'" in (await until(house, wrong.id, *FINAL)).detail
        made = await ready(house, nodes=3)
        await house.clusters.scale(made.id, 6)
        kept = await until(house, made.id, State.READY)
        assert (kept.nodes, kept.nodes_there) == (3, 3)
        assert "It keeps 3 nodes" in kept.detail
        with pytest.raises(InvalidRequest, match="There is a cluster lab already"):
            await house.clusters.submit("ada", "lab", ClusterRequest())
        with pytest.raises(NotFound):
            await house.clusters.submit("ada", "third", ClusterRequest(on="nowhere"))
        await house.clusters.stop(made.id)
        await until(house, made.id, State.STOPPED)
        with pytest.raises(InvalidRequest, match="is stopped"):
            await house.clusters.scale(made.id, 2)
        assert await house.examine() == []


async def test_scaled_again_while_it_is_scaled(tmp_path: Path) -> None:
    async with clusters(tmp_path, seconds=0.3) as house:
        made = await ready(house, nodes=1)
        for nodes in (3, 5, 2):
            await house.clusters.scale(made.id, nodes)
        assert (await until(house, made.id, State.READY)).nodes_there == 2
        await house.clusters.scale(made.id, 4)
        await house.clusters.stop(made.id)
        assert (await until(house, made.id, *FINAL)).state is State.STOPPED
        assert await house.examine() == []


async def test_stopped_while_it_is_made(tmp_path: Path) -> None:
    async with clusters(tmp_path, seconds=0.2) as house:
        made = await house.clusters.submit("ada", "lab", ClusterRequest())
        await until(house, made.id, State.CREATING)
        await house.clusters.stop(made.id)
        assert (await until(house, made.id, *FINAL)).state is State.STOPPED
        assert await house.examine() == []


async def test_restarts_go_on_where_it_was(tmp_path: Path) -> None:
    async with clusters(tmp_path, seconds=0.4) as house:
        made = await house.clusters.submit("ada", "lab", ClusterRequest(nodes=2))
        await until(house, made.id, State.CREATING)
    async with clusters(tmp_path, seconds=0.4) as house:
        await until(house, made.id, State.READY)
        await house.clusters.scale(made.id, 3)
    async with clusters(tmp_path, seconds=0.4) as house:
        assert (await until(house, made.id, State.READY)).nodes_there == 3
        await house.clusters.stop(made.id)
    async with clusters(tmp_path) as house:
        await until(house, made.id, State.STOPPED)
        assert await house.examine() == []


async def test_an_entry_that_was_removed_serves_what_it_holds(tmp_path: Path) -> None:
    async with clusters(tmp_path) as house:
        made = await ready(house)
    async with open_house(tmp_path, NOTHING) as house:
        await hurry(house)
        assert [one.subject for one in await house.examine()] == []
        await house.clusters.stop(made.id)
        await until(house, made.id, State.STOPPED)


async def test_watched(tmp_path: Path) -> None:
    async with clusters(tmp_path) as house:
        kept, lost, short = [await ready(house, name) for name in ("kept", "lost", "short")]
        state = house.clusters.providers.get("pretend")
        await state.scale(kept.id, kept.handle, 7)  # type: ignore[arg-type]  # it has one: past gridcloud, by hand
        Path(kept.kubeconfig).unlink()
        await state.destroy(lost.id, None)
        gone = await until(house, lost.id, *FINAL)
        assert (gone.state, gone.reason) == (State.FAILED, Reason.LOST)
        async with asyncio.timeout(10):
            async for now in house.clusters.lives.follow(kept.id):
                if now.nodes_there == 7:
                    break
        for _ in range(200):
            if Path(kept.kubeconfig).is_file():
                break
            await asyncio.sleep(0.02)
        assert Path(kept.kubeconfig).is_file()
        expired = await house.clusters.lives.save(short, "", "", expires=house.clock.now())
        assert (await until(house, expired.id, *FINAL)).reason is Reason.EXPIRED
        await house.clusters.stop(kept.id)
        await until(house, kept.id, State.STOPPED)


async def test_what_nobody_knows_of_is_mended(tmp_path: Path) -> None:
    async with clusters(tmp_path) as house:
        made = await ready(house)
        driver = house.clusters.providers.get("pretend")
        from gridcloud.clusters.model import ClusterSpec

        await driver.create(ClusterSpec(id="k-unknown", owner="ada", request=ClusterRequest()))
        assert [one.subject for one in await house.examine()] == ["k-unknown"]
        assert [one.mended for one in await house.mend()] == [True]
        assert [one.cluster_id for one in await driver.holdings()] == [made.id]
        await house.clusters.stop(made.id)
        await until(house, made.id, State.STOPPED)


@pytest.mark.filterwarnings("ignore::openstack.warnings.OpenStackDeprecationWarning")
@pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning")
async def test_over_magnum(tmp_path: Path) -> None:
    with magnum_server(seconds=0.1) as magnum:
        entry = {
            "driver": "magnum",
            "cloud": "lab",
            "clouds_file": str(magnum.clouds(tmp_path)),
            "template": "kubernetes-1.31",
        }
        async with open_house(tmp_path, NOTHING, clusters={"cloud": entry}) as house:
            await hurry(house)
            magnum.fails.append("CREATE")
            failed = await until(house, (await ready(house, "unlucky")).id, *FINAL)
            assert "no valid host" in failed.detail
            made = await ready(house, nodes=2)
            assert made.version_there == "v1.31.1"
            magnum.fails.append("UPDATE")
            await house.clusters.scale(made.id, 5)
            kept = await until(house, made.id, State.READY)
            assert (kept.nodes, "no valid host" in kept.detail) == (2, True)
            await house.clusters.scale(made.id, 5)
            assert (await until(house, made.id, State.READY)).nodes_there == 5
            magnum.fails.append("DELETE")
            await house.clusters.stop(made.id)
            await until(house, made.id, State.STOPPED)
            assert magnum.clusters == {}
