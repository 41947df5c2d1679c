"""Clusters over HTTP: who sees whose."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gridcloud.clusters.model import ClusterRequest, State
from gridcloud.errors import Forbidden, NotFound, QuotaExceeded
from tests.services import FAKE, SMALL, open_service


async def test_users_see_their_own(tmp_path: Path) -> None:
    async with (
        open_service(tmp_path, FAKE, clusters={"pretend": {"driver": "fake"}}) as service,
        await service.user("ada") as ada,
        await service.user("grace") as grace,
        service.admin() as admin,
    ):
        made = await ada.start_cluster("lab", ClusterRequest(nodes=2))
        assert (await ada.wait_cluster(made.id)).state is State.READY
        assert "Config" in await ada.cluster_access("lab")
        assert await grace.clusters() == []
        for call in (grace.cluster, grace.stop_cluster, grace.cluster_access):
            for word in (made.id, "lab"):
                with pytest.raises(NotFound):
                    await call(word)
        with pytest.raises(NotFound):
            await grace.scale_cluster(made.id, 3)
        with pytest.raises(NotFound):
            [event async for event in grace.cluster_events(made.id)]
        with pytest.raises(Forbidden):
            await grace.start_cluster("other", owner="ada")
        with pytest.raises(Forbidden):
            await grace.check_cluster_provider("pretend")
        assert [one.id for one in await admin.clusters()] == [made.id]
        assert all(one.ok for one in await admin.check_cluster_provider("pretend"))
        assert [one.name for one in (await grace.cluster_providers()).providers] == ["pretend"]
        await ada.stop_cluster("lab")
        async with asyncio.timeout(20):
            assert (await ada.wait_cluster(made.id)).state is State.STOPPED


async def test_nodes_count_as_instances_do(tmp_path: Path) -> None:
    entry = {"driver": "fake", "nodes": 100}
    async with (
        open_service(tmp_path, FAKE, clusters={"pretend": entry}, limits={"instances": 5}) as service,
        await service.user("ada") as ada,
        await service.user("grace") as grace,
    ):
        with pytest.raises(QuotaExceeded, match="5 at once are allowed"):
            await ada.start_cluster("large", ClusterRequest(nodes=6))
        made = await ada.start_cluster("lab", ClusterRequest(nodes=3))
        assert (await ada.wait_cluster(made.id)).state is State.READY
        first = await ada.start(SMALL)
        with pytest.raises(QuotaExceeded, match="ada has 1 instances, and clusters with nodes: 3; 5 at once"):
            await ada.scale_cluster(made.id, 5)
        tried = [
            ada.scale_cluster(made.id, 4),
            ada.start(SMALL),
            ada.start_cluster("other"),
            ada.start(SMALL),
        ]
        done = await asyncio.gather(*tried, return_exceptions=True)
        assert sum(not isinstance(one, BaseException) for one in done) == 1, "there was room for one more"
        assert all(isinstance(one, QuotaExceeded) for one in done if isinstance(one, BaseException))
        await ada.wait_cluster(made.id)
        assert (await ada.scale_cluster(made.id, 1)).nodes == 1, "who is at the limit may have less"
        assert (await ada.wait_cluster(made.id)).nodes_there == 1
        await ada.scale_cluster(made.id, 2)
        other = await grace.start_cluster("hers", ClusterRequest(nodes=5))
        for client, one in ((ada, made.id), (grace, other.id)):
            await client.stop_cluster(one)
            await client.wait_cluster(one)
        await ada.stop(first.id)


async def test_users_are_held_to_budgets(tmp_path: Path) -> None:
    budgets = {"ada": {"user": "ada", "money": 10}, "w": {"project": "wind", "user": "grace", "money": 10}}
    entry = {"driver": "fake", "prices": {"*": 1}}
    async with (
        open_service(tmp_path, FAKE, clusters={"pretend": entry}, budgets=budgets) as service,
        await service.user("ada") as ada,
    ):
        made = await ada.start_cluster("lab", ClusterRequest(nodes=4, time=7200))
        assert (await ada.wait_cluster(made.id)).state is State.READY
        with pytest.raises(QuotaExceeded, match=r"The budget ada is 10\.00 EUR"):
            await ada.scale_cluster(made.id, 6)
        assert (await ada.cluster("lab")).nodes == 4
        other = await ada.start_cluster("other", ClusterRequest(time=3600, project="wind"))
        assert "may not charge the project" in (await ada.wait_cluster(other.id)).detail
        await ada.stop_cluster("lab")
        assert (await ada.wait_cluster(made.id)).state is State.STOPPED
