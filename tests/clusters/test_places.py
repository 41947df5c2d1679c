"""An entry of clusters that comes to mean another place: what was made is looked after, and removed, where it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gridcloud.clusters.model import FINAL, Cluster, ClusterRequest, State
from gridcloud.errors import InvalidSettings
from gridcloud.service.house import House
from tests.clusters.test_runner import NOTHING, clusters, hurry, ready, until
from tests.houses import configure, open_house
from tests.labs.magnum import magnum_server


def move(house: House, **settings: Any) -> None:
    """Edit the entry while the house is open."""
    entry = {"driver": "fake", **settings}
    house.settings_file = configure(house.settings_file.path.parent, NOTHING, clusters={"pretend": entry})


async def looked_after(house: House, cluster: Cluster) -> None:
    """See that a cluster is found, scaled and kept by those who clean up, and that no other can be had."""
    assert await house.examine() == []
    assert await house.mend() == []
    await house.clusters.scale(cluster.id, 3)
    assert (await until(house, cluster.id, State.READY)).nodes_there == 3
    other = await ready(house, "other")
    assert other.state is State.FAILED
    assert "means another place than before, where 1 thing is held" in other.detail


@pytest.mark.parametrize("restarted", [False, True])
async def test_moved_to_another_region(tmp_path: Path, restarted: bool) -> None:
    async with clusters(tmp_path, region="one") as house:
        made = await ready(house)
        if not restarted:
            move(house, region="two")
            await looked_after(house, made)
            await house.clusters.stop(made.id)
            await until(house, made.id, State.STOPPED)
            assert (await ready(house, "new")).state is State.READY
            holder = await house.clusters.providers.holder("pretend")
            assert holder.settings.region == "two"  # type: ignore[attr-defined]  # the fake's own
            return
    async with clusters(tmp_path, region="two") as house:
        await looked_after(house, made)
        await house.clusters.stop(made.id)
        await until(house, made.id, State.STOPPED)
        assert (await ready(house, "new")).state is State.READY


async def test_what_only_the_provider_knows_of_is_found_where_it_was(tmp_path: Path) -> None:
    async with clusters(tmp_path, region="one") as house:
        made = await ready(house)
        record = await house.store.get("cluster", made.id)
    async with clusters(tmp_path, region="two") as house:
        await house.store.delete(record)
        house.clusters.lives._known.clear()
        assert [one.subject for one in await house.examine()] == [made.id]
        with pytest.raises(InvalidSettings, match="1 thing is held"):
            await house.clusters.providers.remember("pretend")
        assert [one.mended for one in await house.mend()] == [True]
        await house.clusters.providers.remember("pretend")


async def test_a_cluster_on_its_way_keeps_the_place(tmp_path: Path) -> None:
    """Its provider holds nothing yet, and will: the order is under way."""
    faults = [{"call": "create", "error": "unreachable", "times": 3}]
    async with clusters(tmp_path, region="one", faults=faults) as house:
        await hurry(house, first_pause=0.3, longest_pause=0.3)
        made = await house.clusters.submit("ada", "lab", ClusterRequest())
        await until(house, made.id, State.CREATING)
        move(house, region="two")
        with pytest.raises(InvalidSettings, match="1 thing is held"):
            await house.clusters.providers.remember("pretend")
        assert (await until(house, made.id, State.READY, *FINAL)).state is State.READY
        holder = await house.clusters.providers.holder("pretend")
        assert [one.cluster_id for one in await holder.holdings()] == [made.id]
        assert holder.settings.region == "one"  # type: ignore[attr-defined]  # the fake's own


async def test_nobody_changes_the_place_until_what_will_be_there_is_noted(tmp_path: Path) -> None:
    async with clusters(tmp_path, region="one") as house:
        providers = house.clusters.providers
        async with providers.remembering("pretend"):
            move(house, region="two")
            waiting = asyncio.create_task(providers.remember("pretend"))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            assert (await providers.holder("pretend")).settings.region == "one"  # type: ignore[attr-defined]
        await waiting
        assert (await providers.holder("pretend")).settings.region == "two"  # type: ignore[attr-defined]


async def test_an_entry_that_cannot_be_read_any_more(tmp_path: Path) -> None:
    async with clusters(tmp_path, region="one") as house:
        made = await ready(house)
        record = await house.store.get("cluster-provider", "pretend")
        await house.store.update(record, body={**record.body, "nodes": "many"})
    async with open_house(tmp_path, NOTHING) as house:
        await hurry(house)
        (told,) = await house.examine()
        assert "pretend, as it was when it was last used, cannot be read" in told.message
        await house.store.update(await house.store.get("cluster-provider", "pretend"), body=record.body)
        await house.clusters.stop(made.id)
        await until(house, made.id, State.STOPPED)


@pytest.mark.filterwarnings("ignore::openstack.warnings.OpenStackDeprecationWarning")
@pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning")
async def test_two_entries_of_one_project_and_one_that_moves_to_another_cloud(tmp_path: Path) -> None:
    with magnum_server() as first, magnum_server() as second:
        files = []
        for number, magnum in enumerate((first, second)):
            (tmp_path / f"{number}").mkdir()
            files.append(str(magnum.clouds(tmp_path / f"{number}")))
        entry = {"driver": "magnum", "cloud": "lab", "template": "kubernetes-1.31", "clouds_file": files[0]}
        async with open_house(tmp_path, NOTHING, clusters={"small": entry, "large": entry}) as house:
            await hurry(house)
            small, large = await ready(house, "s", on="small"), await ready(house, "l", on="large")
            assert await house.mend() == []
            assert len(first.clusters) == 2
        moved = entry | {"clouds_file": files[1]}
        async with open_house(tmp_path, NOTHING, clusters={"small": moved, "large": entry}) as house:
            await hurry(house)
            assert await house.mend() == []
            refused = await ready(house, "new", on="small")
            assert "1 thing is held" in (await until(house, refused.id, *FINAL)).detail
            await house.clusters.stop(small.id)
            await until(house, small.id, State.STOPPED)
            assert len(first.clusters) == 1
            new = await ready(house, "new", on="small")
            assert (len(first.clusters), len(second.clusters)) == (1, 1)
            for one in (new, large):
                await house.clusters.stop(one.id)
                await until(house, one.id, State.STOPPED)
            assert not first.clusters
            assert not second.clusters
