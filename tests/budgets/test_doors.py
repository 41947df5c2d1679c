"""Budgets over HTTP and on the command line: what users see, what administrators do."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gridcloud.errors import Forbidden, NotFound, QuotaExceeded
from gridcloud.instances.model import Request
from tests.budgets.scenes import ended
from tests.services import open_service

CLOUD: dict[str, Any] = {"cloud": {"driver": "fake", "price": 2}}
BUDGETS: dict[str, Any] = {
    "all": {"money": 1000},
    "course-a": {"group": "course-a", "money": 100, "gpu_hours": 5},
    "bob": {"user": ["bob", "eve"], "money": 100},
    "each": {"each": True, "money": 50},
    "wind": {"project": "wind", "user": ["bob"], "money": 100},
}
GROUPS = {"course-a": ["ada", "bob"]}


async def test_users_see_what_concerns_them_and_administrators_all(tmp_path: Path) -> None:
    """Budgets, promise I."""
    async with open_service(tmp_path, CLOUD, budgets=BUDGETS, groups=GROUPS) as service:
        first = await service.obtain("ada", time=3600)
        second = await service.obtain("bob", time=3600)
        third = await service.obtain("bob", time=3600, project="wind")
        async with await service.user("ada") as ada:
            found = (await ada.budgets()).budgets
            assert [(one.name, one.user) for one in found] == [("all", ""), ("course-a", ""), ("each", "ada")]
            (course,) = (await ada.budget("course-a")).budgets
            assert course.running == 2
            assert [entry.owner for entry in course.instances] == ["ada"]
            assert [part.provider for part in course.providers] == ["cloud"]
            assert [limit.unit for limit in course.limits] == ["EUR", "GPU-hours"]
            assert Decimal(3) < course.limits[0].running < 4
            assert Decimal(95) < course.limits[0].left < 97
            with pytest.raises(NotFound):
                await ada.budget("wind")
            with pytest.raises(Forbidden, match="ada may not see what bob spends"):
                await ada.ledger(user="bob")
            with pytest.raises(Forbidden):
                await ada.budgets(user="bob")
            assert [entry.instance for entry in (await ada.ledger()).entries] == [first.id]
        async with await service.user("bob") as bob:
            names = [(one.name, one.whose) for one in (await bob.budgets()).budgets]
            assert ("bob", "2 users") in names, "whom else it is for is not told"
            assert ("wind", "project wind") in names
        async with await service.user("eve") as eve:
            (shared,) = (await eve.budget("bob")).budgets
            assert (shared.running, shared.providers, shared.instances) == (1, [], []), "only its total"
            assert not (await eve.ledger(project="wind")).entries
        async with (
            service.browser(await service.token("eve")) as browser,
            browser.get("/v1/events") as answer,
        ):
            told = await answer.text()
            assert '"kind": "token"' in told
            assert '"kind": "instance"' not in told, "nothing of what others do"
            assert '"kind": "budget"' not in told
        async with service.admin() as admin:
            found = (await admin.budgets()).budgets
            assert [(one.name, one.user) for one in found] == [
                *(("all", ""), ("bob", ""), ("course-a", "")),
                *(("each", "ada"), ("wind", "")),
            ]
            assert next(one.whose for one in found if one.name == "bob") == "bob, eve"
            assert {one.name for one in (await admin.budgets(user="bob")).budgets} == {
                *("all", "course-a", "bob", "wind")
            }
            everything = await admin.ledger()
            assert {entry.instance for entry in everything.entries} == {first.id, second.id, third.id}
            assert [entry.instance for entry in (await admin.ledger(project="wind")).entries] == [third.id]
            assert not (await admin.ledger(provider="elsewhere")).entries
            assert not (await admin.ledger(until=first.created - timedelta(days=1))).entries
            for one in (first, second, third):
                await admin.stop(one.id)
                await ended(service.house, one.id)
            assert (await admin.ledger()).money >= everything.money > 0


async def test_a_life_is_not_made_longer_than_a_budget_pays(tmp_path: Path) -> None:
    budgets = {"ada": {"user": "ada", "money": 10}}
    async with open_service(tmp_path, CLOUD, budgets=budgets) as service:
        instance = await service.obtain("ada", time=2 * 3600)
        async with await service.user("ada") as ada:
            with pytest.raises(
                QuotaExceeded, match=r"4\.00 committed to what runs, .* in all; ask for less time"
            ):
                await ada.extend(instance.id, time=6 * 3600)
            await ada.extend(instance.id, time=int(4.9 * 3600))
            await ada.extend(instance.id, time=60)
        await service.house.instances.stop(instance.id)
        await ended(service.house, instance.id)


async def test_offers_tell_what_a_budget_forbids_before_anything_starts(tmp_path: Path) -> None:
    providers = {
        "dear": {"driver": "fake", "price": 1, "shapes": [{"name": "a", "cpus": 2, "price": 3}]},
        "cheap": {"driver": "fake", "price": 1},
    }
    budgets = {"ada": {"user": "ada", "money": 10}}
    async with (
        open_service(tmp_path, providers, budgets=budgets) as service,
        await service.user("ada") as ada,
    ):
        found = await ada.offers(Request(time=4 * 3600))
        assert [(one.provider, one.available) for one in found.offers] == [("cheap", True), ("dear", False)]
        assert "The budget ada is 10.00 EUR" in found.offers[1].why_not
        assert found.offers[1].refusal == "Budget"
        found = await ada.offers(Request(time=11 * 3600))
        assert "12.00 asked" not in found.problem
        assert "11.00 asked" in found.problem
        assert not await service.house.instances.records.find()
