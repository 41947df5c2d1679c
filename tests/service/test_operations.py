"""What administrators see of a service: all sessions page by page, its condition, its figures; and nobody else does."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gridcloud.errors import Rejected
from gridcloud.instances.model import Reason
from gridcloud.sessions.model import Plan, Session, State
from tests.houses import here, open_house
from tests.services import SMALL, Service, open_service
from tests.sessions.visit import PLAN, begin, over

NOW = datetime(2026, 5, 1, tzinfo=UTC)
EVIL = "<script>alert(1)</script>"


@pytest.fixture
async def figures(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with a budget, whose money nobody has."""
    budgets = {"physics": {"user": "ada", "money": 10}}
    async with open_service(tmp_path, {"there": here()}, budgets=budgets) as opened:
        yield opened


async def fill(service: Service, count: int) -> None:
    """Store sessions that were."""
    sessions = (
        Session(
            id=f"s-{number:05}",
            owner=f"user{number % 50}",
            profile="small" if number % 2 else "large",
            request=SMALL,
            plan=Plan(words=("x",)),
            instance_id=f"i-{number:05}",
            state=State.FAILED if number % 10 == 0 else State.ENDED,
            reason=Reason.ABANDONED if number % 10 == 0 else Reason.ASKED,
            error="Rejected" if number % 10 == 0 else "",
            detail=f"The disk of {EVIL} is full." if number % 10 == 0 else "Stopped as asked.",
            created=NOW + timedelta(seconds=number),
            ended=NOW + timedelta(seconds=number + 60),
        )
        for number in range(count)
    )
    store = service.house.store
    await asyncio.gather(
        *(store.insert("session", one.id, one.owner, one.state, one.body()) for one in sessions)
    )


async def test_five_thousand_sessions_page_by_page(service: Service) -> None:
    await fill(service, 5000)
    async with service.admin() as client:
        began = time.monotonic()
        first = await client.operations.sessions(show="all")
        seconds = time.monotonic() - began
        assert (first.found, first.pages, len(first.rows)) == (5000, 100, 50)
        assert first.states == {"ended": 4500, "failed": 500}
        assert seconds < 20, "0.3 s on a quiet computer"
        last = await client.operations.sessions(show="all", page=10**6)
        assert last.page == 100
        ids = {
            row.id
            for page in (1, 2)
            for row in (await client.operations.sessions(show="all", page=page)).rows
        }
        assert len(ids) == 100
        failed = await client.operations.sessions(show="failed", text="USER30", size=200)
        assert failed.found == 100
        assert {row.owner for row in failed.rows} == {"user30"}
        assert failed.rows[0].error == "Rejected"
        assert "is full" in failed.rows[0].detail
        assert (await client.operations.sessions()).found == 0, "none lives"


async def test_who_may_know_what(service: Service) -> None:
    async with service.browser(await service.token("ada")) as ada:
        for path in ("overview", "metrics", "condition"):
            async with ada.get(f"/v1/{path}") as answer:
                assert answer.status == 403, path
    async with service.browser("gc_wrong") as nobody:
        for path in ("overview", "metrics", "condition"):
            async with nobody.get(f"/v1/{path}") as answer:
                assert answer.status == 401, path
        async with nobody.get("/v1/health/live") as answer:
            assert await answer.json() == {"alive": True}
        async with nobody.get("/v1/health/ready") as answer:
            assert (answer.status, await answer.json()) == (200, {"ready": True, "store": True})
        await service.house.store.close()
        service.house.asked_store = float("-inf"), "", 0.0
        async with nobody.get("/v1/health/ready") as answer:
            assert (answer.status, await answer.json()) == (503, {"ready": False, "store": False})
        async with nobody.get("/v1/health/live") as answer:
            assert answer.status == 200


def values(text: bytes) -> dict[str, float]:
    """Return all figures by name and labels, those of histograms' bounds left out."""
    return {
        f"{one.name} {' '.join(f'{key}={value}' for key, value in sorted(one.labels.items()))}".strip(): one.value
        for family in text_string_to_metric_families(text.decode())
        for one in family.samples
        if "le" not in one.labels
    }


async def test_figures(figures: Service) -> None:
    house = figures.house
    async with figures.admin() as client:
        session = await begin(house, PLAN, profile="small")
        broken = PLAN.model_copy(update={"words": ("no-such-program-here",)})
        failing = await house.sessions.submit("ada", SMALL, broken, profile=EVIL)
        with pytest.raises(Rejected):
            await house.sessions.wait(failing.id)
        assert (await over(house, failing)).error == "Rejected"
        text = await client.operations.metrics()
        found = values(text)
        assert found["gridcloud_sessions profile=small provider=there state=running"] == 1
        assert found["gridcloud_session_starts_total profile=small provider=there"] == 1
        assert 0 < found["gridcloud_session_start_seconds_sum profile=small provider=there"] < 100
        [failure] = [key for key in found if key.startswith("gridcloud_session_failures_total")]
        assert "error=Rejected" in failure
        assert "phase=starting" in failure
        assert found["gridcloud_instances provider=there state=ready"] == 1
        assert found["gridcloud_budget budget=physics unit=money what=limit"] == 10
        assert found["gridcloud_tunnels state=down"] == 0
        assert found["gridcloud_store_seconds_count action=write"] > 3
        condition = await client.operations.condition()
        assert (condition.ready, condition.problem) == (True, "")
        assert [(one.name, one.problem) for one in condition.providers] == [("there", "")]
        assert "ada" not in re.findall(r'"([^"]*)"', text.decode()), "nobody's name is a label"
        await house.sessions.stop(session.id)
        await over(house, session)


async def test_labels_are_few_whatever_names_there_are(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"there": here()}) as house:
        for number in range(1000):
            session = Session(
                id=f"s-{number}",
                owner=f"u{number}",
                profile=f"p{number}",
                request=SMALL,
                plan=PLAN,
                instance_id=f"i-{number}",
                created=NOW,
                state=State.FAILING,
                error=f"E{number}",
            )
            house.metrics.hear(session)
        found = [key for key in values(await house.metrics.text()) if "session_failures_total" in key]
        assert len(found) == 201
        assert {re.findall(r"error=(\S+)", key)[0] for key in found} == {"other"}
