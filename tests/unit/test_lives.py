"""Things with a life: what is kept of them in memory, and what is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gridcloud.clock import ManualClock
from gridcloud.errors import Conflict, NotFound
from gridcloud.instances.lifecycle import Event, step
from gridcloud.instances.model import FINAL, Instance, Reason, Request, State
from gridcloud.store import Record, Store, open_store
from gridcloud.store.lives import Lives, Overtaken


class LateStore:
    """A store whose writers hear last that they have written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.going_on = asyncio.Event()
        self.going_on.set()
        self.writing = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def update(self, record: Record, **changes: Any) -> Record:
        """Write, and return once it may go on."""
        self.writing.set()
        stored = await self._store.update(record, **changes)
        await self.going_on.wait()
        return stored


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LateStore]:
    async with await open_store(str(tmp_path / "store.sqlite"), ManualClock()) as store:
        yield LateStore(store)


@pytest.fixture
def lives(store: LateStore) -> Lives[Instance]:
    return Lives(store, "instance", Instance, step, FINAL)  # type: ignore[arg-type]


async def one(lives: Lives[Instance]) -> Instance:
    """A new instance."""
    asked = Instance(id="i-1", owner="ada", request=Request(cpus=1), created=ManualClock().now())
    return await lives.insert(asked, "requested", "Asked for.")


async def test_who_hears_of_a_change_sees_it(lives: Lives[Instance], store: LateStore) -> None:
    made = await one(lives)
    store.going_on.clear()
    failing = asyncio.create_task(lives.happen(made, Event.NO_OFFER, "None.", reason=Reason.NO_OFFER))
    async for event in lives.store.watch(subject="i-1"):
        if event.type == State.FAILED:
            break
    asked = asyncio.create_task(lives.get("i-1"))
    await asyncio.sleep(0)
    store.going_on.set()
    assert (await asked).state is State.FAILED
    await failing
    assert (await lives.get("i-1")).reason is Reason.NO_OFFER


async def test_a_change_whose_writer_was_cancelled(lives: Lives[Instance], store: LateStore) -> None:
    made = await one(lives)
    store.going_on.clear()
    saving = asyncio.create_task(lives.save(made, "warning", "Soon.", notice="Soon."))
    async for event in lives.store.watch(subject="i-1"):
        if event.type == "warning":
            break
    saving.cancel()
    await asyncio.sleep(0)
    saving.cancel()
    store.going_on.set()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert (await lives.get("i-1")).notice == "Soon."


async def test_who_follows_hears_of_a_change_whose_writer_was_cancelled(
    lives: Lives[Instance], store: LateStore
) -> None:
    made = await one(lives)
    following = lives.follow("i-1")
    assert await anext(following) == made
    following_on = asyncio.ensure_future(anext(following))
    store.going_on.clear()
    failing = asyncio.create_task(lives.happen(made, Event.NO_OFFER, "None.", reason=Reason.NO_OFFER))
    await store.writing.wait()
    failing.cancel()
    store.going_on.set()
    with pytest.raises(asyncio.CancelledError):
        await failing
    async with asyncio.timeout(5):
        assert (await following_on).state is State.FAILED
    with pytest.raises(StopAsyncIteration):
        await anext(following)


async def test_many_changes_at_once(lives: Lives[Instance]) -> None:
    await one(lives)

    async def extend() -> None:
        while True:
            now = await lives.get("i-1")
            try:
                await lives.save(now, "", "", notice=f"{now.notice}x")
                return
            except Conflict:
                continue

    async with asyncio.timeout(30):
        await asyncio.gather(*(extend() for _ in range(20)))
    assert (await lives.get("i-1")).notice == "x" * 20


async def test_none(lives: Lives[Instance]) -> None:
    with pytest.raises(NotFound, match="no instance 'i-2'"):
        await lives.get("i-2")


async def test_a_new_owner_finds_it_and_its_story(lives: Lives[Instance]) -> None:
    made = await one(lives)
    await lives.save(made, "handed", "Handed to bob.", owner="bob")
    assert [found.owner for found in await lives.find(owner="bob")] == ["bob"]
    assert await lives.find(owner="ada") == []
    assert [event.type for event in await lives.store.events(owner="bob")] == ["handed"]


async def test_who_began_with_what_a_verb_made_of_it_is_not_overtaken() -> None:
    overtaken = Overtaken()
    overtaken.by(3)
    working = asyncio.create_task(overtaken.wait(3))
    for version in (2, 3):
        overtaken.by(version)
        await asyncio.sleep(0)
        assert not working.done()
    overtaken.by(4)
    await working
    await overtaken.wait(3)
