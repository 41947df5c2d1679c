"""What made clusters and left the configuration is forgotten where nothing is left there, or where that is given up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gridcloud.clusters.forgetting import forget
from gridcloud.clusters.model import State
from gridcloud.errors import InvalidRequest, NotFound
from tests.clusters.test_runner import clusters, ready, until

AWAY: list[dict[str, Any]] = [
    {"call": "destroy", "error": "unreachable", "times": 9999},
    {"call": "holdings", "error": "unreachable", "times": 9999},
]


async def test_what_cannot_be_seen_is_given_up_only_when_that_is_said(tmp_path: Path) -> None:
    async with clusters(tmp_path, faults=AWAY, price=1) as house:
        made = await ready(house)
        with pytest.raises(InvalidRequest, match="in the configuration"):
            await forget(house.clusters, "pretend", give_up=True)
        del house.settings().clusters["pretend"]
        with pytest.raises(InvalidRequest, match=rf"lab \({made.id}, ready\)") as caught:
            await forget(house.clusters, "pretend", give_up=True)
        assert caught.value.remedy == f"Stop them first: gridcloud cluster stop {made.id}"
        await house.clusters.stop(made.id)
        with pytest.raises(
            InvalidRequest, match=r"It cannot be seen what pretend holds.*gives up the cl"
        ) as caught:
            await forget(house.clusters, "pretend")
        assert "gridcloud cluster forget pretend --yes" in caught.value.remedy
        done = await forget(house.clusters, "pretend", give_up=True)
        assert done.given_up[0] == f"the cluster lab ({made.id}, stopping)"
        last = await until(house, made.id, State.STOPPED)
        assert "nobody saw whether anything is left" in last.detail
        assert all(charge.until is not None for charge in last.charges)
        assert not Path(made.kubeconfig).exists()
        assert await house.clusters.providers.remembered() == []
        assert await house.examine() == []
        assert made.id not in house.clusters._tasks, "nobody goes on removing it"


async def test_what_is_empty_is_forgotten_and_what_is_seen_is_named(tmp_path: Path) -> None:
    async with clusters(tmp_path) as house:
        made = await ready(house)
        record = await house.store.get("cluster", made.id)
        await house.store.delete(record)
        del house.settings().clusters["pretend"]
        with pytest.raises(InvalidRequest, match=f"pretend still holds .*{made.id}") as caught:
            await forget(house.clusters, "pretend")
        assert "gridcloud doctor --mend" in caught.value.remedy
        assert all(one.mended for one in await house.mend())
        assert (await forget(house.clusters, "pretend")).given_up == ()
        told = [event.message for event in await house.store.events(subject="pretend")]
        assert told[-1] == "pretend is forgotten."
        for name in ("pretend", "unheard-of"):
            with pytest.raises(NotFound, match="remembered"):
                await forget(house.clusters, name)
