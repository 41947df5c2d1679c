"""Stacks over a real house: all of them or none, ended together, taken up again after a death."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gridcloud.errors import Conflict, InvalidRequest, NotFound
from gridcloud.instances.model import State as InstanceState
from gridcloud.service.house import House
from gridcloud.stacks.model import Definition, Stack, State
from gridcloud.stacks.reading import read_definition
from tests.houses import open_house, story

CLOUD = {
    "driver": "fake",
    "shapes": [{"name": "small", "cpus": 2, "memory": "4GiB", "count": 3, "price": 0.5}],
}


def define(instances: dict[str, Any], **pools: list[str]) -> Definition:
    return read_definition({"instances": instances, "pools": pools})


THREE = define({"node[1-3]": {"request": {"cpus": 1}}}, front=["node1"])
FOUR = define({"node[1-4]": {"request": {"cpus": 1}}})


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path, {"cloud": CLOUD}) as house:
        yield house


async def settled(house: House, stack: Stack) -> Stack:
    async with asyncio.timeout(30):
        async for now in house.stacks.lives.follow(stack.id):
            if now.state in (State.DEFINED, State.DEPLOYED, State.PARTIAL, State.GONE):
                return now
    raise AssertionError("it never settled")


async def held(house: House) -> int:
    return len(await house.providers.get("cloud").holdings())


async def test_lives_and_goes(house: House) -> None:
    stack = await house.stacks.define("ada", "lab", THREE)
    assert (stack.state, await held(house)) == (State.DEFINED, 0)
    await house.stacks.deploy(stack.id)
    stack = await settled(house, stack)
    assert stack.state is State.DEPLOYED
    assert await held(house) == 3
    instance = await house.instances.records.get(stack.members["node2"].instance_id)
    assert (instance.owner, instance.name, instance.state) == ("ada", "lab/node2", InstanceState.READY)
    assert await house.stacks.deploy(stack.id) == stack
    await house.stacks.destroy(stack.id)
    assert (await settled(house, stack)).state is State.GONE
    assert await held(house) == 0
    assert (await house.stacks.destroy(stack.id)).state is State.GONE


async def test_all_or_none(house: House) -> None:
    stack = await house.stacks.define("ada", "lab", FOUR)
    await house.stacks.deploy(stack.id)
    stack = await settled(house, stack)
    assert stack.state is State.DEFINED
    assert "1 of 4 instances could not be had" in stack.detail
    assert [name for name, member in stack.members.items() if member.problem]
    assert await held(house) == 0
    assert "clearing" in await story(house, stack.id)


async def test_some_are_kept_when_asked(house: House) -> None:
    stack = await house.stacks.define("ada", "lab", FOUR)
    await house.stacks.deploy(stack.id, keep_going=True)
    stack = await settled(house, stack)
    assert stack.state is State.PARTIAL
    assert (await held(house), sum(bool(one.instance_id) for one in stack.members.values())) == (3, 3)
    await house.stacks.update(stack.id, definition=THREE)
    await house.stacks.deploy(stack.id)
    assert (await settled(house, stack)).state is State.DEPLOYED
    assert await held(house) == 3
    await house.stacks.destroy(stack.id)
    await settled(house, stack)
    assert await held(house) == 0


async def test_update_leaves_what_stays_the_same_alone(house: House) -> None:
    stack = await house.stacks.define("ada", "lab", THREE)
    await house.stacks.deploy(stack.id)
    before = await settled(house, stack)
    changed = define({"node1": {"request": {"cpus": 1}}, "node2": {"request": {"cpus": 2}}})
    await house.stacks.update(stack.id, definition=changed, name="new")
    await house.stacks.deploy(stack.id)
    after = await settled(house, stack)
    assert (after.name, after.state, list(after.members)) == ("new", State.DEPLOYED, ["node1", "node2"])
    assert after.members["node1"].instance_id == before.members["node1"].instance_id
    assert after.members["node2"].instance_id != before.members["node2"].instance_id
    assert await held(house) == 2
    await house.stacks.destroy(stack.id)
    await settled(house, stack)
    assert await held(house) == 0


async def test_an_update_that_cannot_be_had_keeps_what_was_there(house: House) -> None:
    stack = await house.stacks.define("ada", "lab", THREE)
    await house.stacks.deploy(stack.id)
    await settled(house, stack)
    await house.stacks.update(stack.id, definition=FOUR)
    await house.stacks.deploy(stack.id)
    after = await settled(house, stack)
    assert after.state is State.PARTIAL
    assert (after.members["node4"].instance_id, await held(house)) == ("", 3)


async def test_an_instance_that_ends_is_told(house: House) -> None:
    stack = await house.stacks.define("ada", "lab", THREE)
    await house.stacks.deploy(stack.id)
    stack = await settled(house, stack)
    await house.instances.stop(stack.members["node1"].instance_id)
    async with asyncio.timeout(20):
        async for now in house.stacks.lives.follow(stack.id):
            if now.state is State.PARTIAL:
                break
    assert "node1: Stopped as asked." in now.detail
    await house.stacks.deploy(stack.id)
    assert (await settled(house, stack)).state is State.DEPLOYED
    assert await held(house) == 3


async def test_destroyed_while_it_is_deployed(tmp_path: Path) -> None:
    slow = CLOUD | {"boot_seconds": 30, "latency": 50}
    async with open_house(tmp_path, {"cloud": slow}) as house:
        stack = await house.stacks.define("ada", "lab", THREE)
        await house.stacks.deploy(stack.id)
        await asyncio.sleep(0.2)
        await house.stacks.destroy(stack.id)
        assert (await settled(house, stack)).state is State.GONE
        assert await held(house) == 0
        assert not await house.instances.records.live()


async def test_taken_up_again_where_it_was_left(tmp_path: Path) -> None:
    slow = CLOUD | {"boot_seconds": 1}
    async with open_house(tmp_path, {"cloud": slow}) as house:
        stack = await house.stacks.define("ada", "lab", THREE)
        await house.stacks.deploy(stack.id)
    async with open_house(tmp_path, {"cloud": slow}) as house:
        assert (await settled(house, stack)).state is State.DEPLOYED
        assert await held(house) == 3
        await house.stacks.destroy(stack.id)
    async with open_house(tmp_path, {"cloud": slow}) as house:
        assert (await settled(house, stack)).state is State.GONE
        assert await held(house) == 0


async def test_names_and_versions(house: House) -> None:
    stack = await house.stacks.define("ada", "lab", THREE)
    with pytest.raises(InvalidRequest, match="a stack lab already"):
        await house.stacks.define("ada", "lab", THREE)
    other = await house.stacks.define("bob", "lab", THREE)
    assert (await house.stacks.find("ada", "lab")).id == stack.id != other.id
    await house.stacks.update(stack.id, name="laboratory", version=stack.version)
    with pytest.raises(Conflict):
        await house.stacks.update(stack.id, name="lab", version=stack.version)
    with pytest.raises(NotFound):
        await house.stacks.find("ada", "lab")
    empty = await house.stacks.define("ada", "empty", Definition())
    with pytest.raises(InvalidRequest, match="no instances"):
        await house.stacks.deploy(empty.id)


async def test_no_update_is_lost_between_many(house: House) -> None:
    stack = await house.stacks.define("ada", "lab", THREE)

    async def add(pool: str) -> None:
        while True:
            now = await house.stacks.lives.get(stack.id)
            definition = now.definition()
            changed = definition.model_copy(update={"pools": {**definition.pools, pool: ("node1",)}})
            try:
                await house.stacks.update(stack.id, definition=changed, version=now.version)
                return
            except Conflict:
                continue

    await asyncio.gather(*(add(f"p{number}") for number in range(40)))
    assert len((await house.stacks.lives.get(stack.id)).pools) == 41
