"""Stories as streams: each event once, whoever cuts the line, and nobody else's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gridcloud.client.wire import Wire
from gridcloud.errors import Unreachable
from gridcloud.instances.model import Instance
from gridcloud.service import events
from gridcloud.service.documents import Event
from gridcloud.store import Entry
from tests.houses import ended
from tests.services import SMALL, Service, open_service


async def tell(service: Service, instance: Instance, *words: str) -> list[int]:
    """Add lines to an instance's story; return their places."""
    entries = [Entry("told", word) for word in words]
    told = await service.house.store.append("instance", instance.id, instance.owner, entries)
    return [event.seq for event in told]


async def read(answer: aiohttp.ClientResponse, count: int) -> list[dict[str, Any]]:
    """Return the next events of a stream."""
    found = []
    async with asyncio.timeout(20):
        async for line in answer.content:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
                if len(found) == count:
                    break
    return found


async def test_a_story_resumes_where_it_was_cut(service: Service) -> None:
    instance = await service.obtain()
    seen: list[int] = []
    async with service.browser() as browser:
        url = f"/v1/instances/{instance.id}/events?follow=true"
        for turn in range(5):
            headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
            answer = await browser.get(url, headers=headers)
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            await tell(service, instance, f"{turn} a", f"{turn} b")
            seen += [event["seq"] for event in await read(answer, 3)]
            answer.close()
    story = [event.seq for event in await service.house.store.events(subject=instance.id)]
    assert seen == story[: len(seen)]


async def test_many_follow_to_the_end(service: Service) -> None:
    instance = await service.obtain()
    async with service.admin() as client:

        async def follow(after: int) -> list[Event]:
            return [event async for event in client.instance_events(instance.id, follow=True, after=after)]

        following = [asyncio.create_task(follow(0)) for _ in range(50)]
        await tell(service, instance, "more")
        await client.stop(instance.id)
        async with asyncio.timeout(30):
            stories = await asyncio.gather(*following)
        assert all(story == stories[0] for story in stories)
        assert stories[0][-1].type == "stopped"
        async with asyncio.timeout(10):
            assert await follow(stories[0][-1].seq) == []
            assert await follow(0) == stories[0]
        assert [event async for event in client.instance_events(instance.id)] == stories[0]
    assert service.house.store._watchers == set()


async def test_who_leaves_is_forgotten(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the number: nobody wants to wait that long here.
    monkeypatch.setattr(events, "HEARTBEAT", 0.1)
    instance = await service.obtain()
    watchers = service.house.store._watchers
    async with service.browser() as browser:
        answers = [await browser.get("/v1/events?follow=true") for _ in range(5)]
        answers.append(await browser.get(f"/v1/instances/{instance.id}/events?follow=true"))
        for answer in answers:
            async with asyncio.timeout(10):
                while not (await answer.content.readline()).startswith(b": still here"):
                    pass
        assert len(watchers) == 6
        for answer in answers:
            answer.close()
    async with asyncio.timeout(20):
        while watchers:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


async def test_nobody_elses_events_appear(service: Service) -> None:
    instance = await service.obtain("ada")
    other = await service.obtain("bob")
    async with service.browser(await service.token("ada")) as ada, service.browser() as admin:
        following = await ada.get("/v1/events?follow=true")
        await tell(service, other, "of bob")
        await tell(service, instance, "of ada")
        mine: list[dict[str, Any]] = []
        while not mine or mine[-1]["message"] != "of ada":
            mine += await read(following, 1)
        following.close()
        assert {event["subject"] for event in mine if event["kind"] == "instance"} == {instance.id}
        async with ada.get("/v1/events") as answer:
            assert "of bob" not in await answer.text()
        async with admin.get("/v1/events") as answer:
            assert "of bob" in await answer.text()


@pytest.mark.parametrize("after", ["-1", "99999999999999999999", "x", "1.5"])
async def test_places_that_are_none(service: Service, after: str) -> None:
    instance = await service.obtain()
    async with service.browser() as browser:
        for more in ({"params": {"after": after}}, {"headers": {"Last-Event-ID": after}}):
            async with browser.get(f"/v1/instances/{instance.id}/events", **more) as answer:  # type: ignore[arg-type]
                assert answer.status == 422


async def test_a_follower_outlives_the_service(tmp_path: Path) -> None:
    """The service ends and another takes its place: who follows misses nothing, and hears nothing twice."""
    seen: list[Event] = []
    wire: Wire | None = None

    async def follow(instance_id: str) -> None:
        assert wire is not None
        async for event in wire.events(f"/instances/{instance_id}/events", follow=True, after=0):
            seen.append(event)  # noqa: PERF401 - what was seen is looked at meanwhile

    async with open_service(tmp_path) as service:
        instance = await service.obtain()
        wire = Wire(socket=service.socket)
        following = asyncio.create_task(follow(instance.id))
        async with asyncio.timeout(10):
            while not any(event.type == "ready" for event in seen):  # noqa: ASYNC110 - a list tells nobody
                await asyncio.sleep(0.01)
    async with open_service(tmp_path) as service:
        await service.house.instances.stop(instance.id)
        await ended(service.house, instance.id)
        async with asyncio.timeout(30):
            await following
        story = await service.house.store.events(subject=instance.id)
    assert [event.seq for event in seen] == [event.seq for event in story]
    await wire.close()


async def test_a_service_that_stays_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the number: nobody wants to wait that long here.
    monkeypatch.setattr("gridcloud.client.wire.PATIENCE", 0.2)
    async with open_service(tmp_path) as service:
        client = service.admin()
        instance = await client.start(SMALL)
        await client.wait_ready(instance.id)
        waiting = asyncio.create_task(client.wait_ended(instance.id))
        await asyncio.sleep(0.05)
    async with asyncio.timeout(20):
        with pytest.raises(Unreachable):
            await waiting
        with pytest.raises(Unreachable, match="Nobody answers"):
            await client.version()
    await client.close()
