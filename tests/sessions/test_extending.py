"""A session's end is moved: by how much, how far, and once for all who ask at the same time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gridcloud.client import AsyncClient
from gridcloud.errors import Forbidden, InvalidRequest, NotFound, QuotaExceeded
from gridcloud.instances.model import Instance, Request
from gridcloud.sessions.extending import Longer, is_extended, new_expiry
from gridcloud.sessions.model import Session
from tests.houses import here
from tests.services import Service, open_service
from tests.sessions.visit import PLAN, SMALL

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def instance(expires: datetime | None = NOW, idle_since: datetime | None = None) -> Instance:
    request = Request(idle=7200)
    return Instance(
        id="i-1",
        owner="ada",
        request=request,
        created=NOW - 8 * HOUR,
        ready_at=NOW - 7 * HOUR,
        expires=expires,
        idle_since=idle_since,
    )


def test_an_end_is_moved_by_a_step_and_not_beyond_what_is_allowed() -> None:
    assert new_expiry(instance(), Longer(3600, after=NOW), NOW) == NOW + HOUR
    assert new_expiry(instance(), Longer(3600, longest=7 * 3600 + 1800), NOW) == NOW + HOUR / 2
    with pytest.raises(InvalidRequest, match=r"7:00:30 in all, until 2030-01-01 12:00 UTC"):
        new_expiry(instance(), Longer(3600, longest=7 * 3600 + 30), NOW)
    late = Longer(3600, longest=5 * 3600, began=NOW - 5 * HOUR + HOUR)
    assert new_expiry(instance(), late, NOW) == NOW + HOUR, "its machine was there before"


def test_a_time_from_now_is_named() -> None:
    assert new_expiry(instance(), Longer(0, time=600), NOW) == NOW + timedelta(minutes=10)
    with pytest.raises(InvalidRequest, match="later anyway"):
        new_expiry(instance(NOW + HOUR), Longer(0, time=600), NOW)
    with pytest.raises(InvalidRequest, match=r"8:00:00 in all"):
        new_expiry(instance(), Longer(0, time=7200, longest=8 * 3600), NOW)


def test_what_ends_for_not_being_used_counts_as_used_and_keeps_its_time() -> None:
    idle = instance(NOW + 9 * HOUR, NOW - HOUR)
    assert not is_extended(idle, NOW + HOUR)
    assert new_expiry(idle, Longer(3600, after=NOW + HOUR), NOW) is None
    assert new_expiry(instance(None), Longer(3600), NOW) is None


def test_who_was_told_of_an_earlier_end_changes_nothing() -> None:
    assert is_extended(instance(NOW + HOUR), NOW)
    assert is_extended(instance(None), NOW), "it is used again"
    assert not is_extended(instance(), NOW)
    assert not is_extended(instance(), None)
    assert not is_extended(instance(NOW + HOUR, NOW - 3 * HOUR), NOW), "it still ends for not being used"


async def begin(hub: AsyncClient, longest: int = 0, **asked: Any) -> Session:
    session = await hub.start_session(SMALL.model_copy(update=asked), PLAN, owner="ada", longest=longest)
    await hub.wait_session(session.id)
    return session


async def end_of(client: AsyncClient, session: Session) -> datetime | None:
    return (await client.instance(session.instance_id)).expires


async def test_two_pages_and_two_clicks_are_one_extension_which_the_store_keeps(tmp_path: Path) -> None:
    providers = {"here": here()}
    async with open_service(tmp_path, providers) as service, service.admin() as hub:
        session = await begin(hub, time=300)
        before = await end_of(hub, session)
        async with await service.user("ada") as ada:
            asked = [ada.extend_session(session.id, after=before) for _ in range(5)]
            ends = {one.expires for one in await asyncio.gather(*asked)}
            assert before
            assert ends == {before + HOUR}
            longer = await ada.extend_session(session.id, after=before + HOUR)
            assert longer.expires == before + 2 * HOUR
            told = [event.type async for event in ada.session_events(session.id)]
            assert told.count("extended") == 2
    async with open_service(tmp_path, providers) as service, service.admin() as hub:
        assert await end_of(hub, session) == before + 2 * HOUR
        await hub.stop_session(session.id)
        await hub.wait_ended(session.instance_id)
        with pytest.raises(InvalidRequest):
            await hub.extend_session(session.id)


async def test_only_its_user_extends_a_session_and_only_as_far_as_it_may_live(tmp_path: Path) -> None:
    limits = {"limits": {"time": "10h"}}
    async with open_service(tmp_path, {"here": here()}, **limits) as service, service.admin() as hub:
        session = await begin(hub, time=300, longest=1800)
        async with await service.user("ada") as ada, await service.user("eve") as eve:
            with pytest.raises(NotFound):
                await eve.extend_session(session.id)
            with pytest.raises(Forbidden):
                await ada.extend_session(session.id, longest=36000)
            assert await _left(ada, session, await ada.extend_session(session.id)) == 30
            for refused in (
                ada.extend_session(session.id),
                ada.extend_session(session.id, time=3600),
                ada.extend(session.instance_id, time=3600),
            ):
                with pytest.raises(InvalidRequest, match=r"0:30:00 in all"):
                    await refused
            # The hub knows better what its user may: the profile has changed, say.
            assert await _left(ada, session, await hub.extend_session(session.id, longest=7200)) == 90
            with pytest.raises(InvalidRequest, match=r"10:00:00 in all"):
                await hub.extend_session(session.id, time=36001, longest=0)
            # Administrators are held to no limit of ours.
            assert await _left(ada, session, await hub.extend_session(session.id, time=36060)) == 601
        await hub.stop_session(session.id)
        await hub.wait_ended(session.instance_id)


async def _left(client: AsyncClient, session: Session, instance: Instance) -> int:
    """Return the minutes that it may live in all."""
    assert instance.expires
    assert instance.ready_at
    assert await end_of(client, session) == instance.expires
    return round((instance.expires - instance.ready_at).total_seconds() / 60)


async def test_where_nobody_may_extend_or_no_budget_pays_it_is_said(tmp_path: Path) -> None:
    shape = {"name": "small", "cpus": 2, "memory": "4GiB", "price": 6}
    priced = {"cloud": {"driver": "fake", "shapes": [shape]}}
    budget = {"mine": {"user": "ada", "money": 7, "period": "year"}}
    async with open_service(tmp_path, priced, budgets=budget) as service, service.admin() as hub:
        session = await begin(hub, time=600)
        async with await service.user("ada") as ada:
            assert (await ada.extend_session(session.id, time=1200)).expires
            with pytest.raises(QuotaExceeded, match="mine"):
                await ada.extend_session(session.id)
            _forbid(service)
            for refused in (ada.extend_session(session.id), ada.extend(session.instance_id, time=1300)):
                with pytest.raises(Forbidden, match="not extended here"):
                    await refused
        await hub.stop_session(session.id)
        await hub.wait_ended(session.instance_id)


def _forbid(service: Service) -> None:
    """Change the configuration: from now on nobody extends anything."""
    path = service.house.settings_file.path
    path.write_text(path.read_text() + "session: {extend: 0}\n")


async def test_sessions_go_unused_no_longer_than_the_configuration_says(tmp_path: Path) -> None:
    """Two hours without use, and otherwise for ever, is one line."""
    sections = {"session": {"idle": "2h"}}
    async with open_service(tmp_path, {"here": here()}, **sections) as service, service.admin() as hub:
        session = await begin(hub)
        instance = await hub.instance(session.instance_id)
        assert (instance.request.idle, instance.expires) == (7200, None)
        assert (await hub.extend_session(session.id)).expires is None, "what has no end gets none"
        shorter, longer = await begin(hub, idle=600), await begin(hub, idle=9000)
        assert (shorter.request.idle, longer.request.idle) == (600, 7200)
        for one in (session, shorter, longer):
            await hub.stop_session(one.id)
            await hub.wait_ended(one.instance_id)


async def test_the_limit_of_all_instances_is_one_line_as_well(tmp_path: Path) -> None:
    async with open_service(tmp_path, {"cloud": {"driver": "fake"}}, limits={"idle": "2h"}) as service:
        house = service.house
        request = house.complete(Request())
        assert (request.idle, request.time) == (7200, 0)
        instance = await house.instances.submit("ada", request)
        ready = await house.instances.wait(instance.id)
        assert ready.expires is None
        await house.instances.stop(instance.id)
        async with service.admin() as client:
            await client.wait_ended(instance.id)
