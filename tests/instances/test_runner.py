"""Instances through their lives, over the fake provider."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.houses import open_house

from gridcloud import connections
from gridcloud.connections.driver import Command
from gridcloud.errors import ConfigurationFailed, Conflict, InvalidRequest, NoOffer, NotFound
from gridcloud.instances.model import FINAL, Instance, Reason, Request, State
from gridcloud.instances.paths import find_programs
from gridcloud.service.house import House

SMALL = {"name": "small", "cpus": 2, "memory": "4GiB", "count": 2}


def fake(**settings: Any) -> dict[str, Any]:
    return {"driver": "fake", "shapes": [SMALL], **settings}


async def ended(house: House, instance_id: str) -> Instance:
    async with asyncio.timeout(20):
        async for instance in house.instances.records.follow(instance_id):
            if instance.state in FINAL:
                return instance
    raise AssertionError("it never ended")


async def story(house: House, instance_id: str) -> list[str]:
    return [event.type for event in await house.store.events(subject=instance_id)]


async def test_a_whole_life(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        instance = await house.instances.submit("ada", Request(time=3600), name="first")
        ready = await house.instances.wait(instance.id)
        assert ready.offer
        assert ready.offer.provider == "cloud"
        assert ready.address
        assert ready.expires == (ready.ready_at or ready.created) + timedelta(hours=1)
        connection = await house.links.get(ready.id, ready.address)
        assert (await connections.run(connection, Command(("echo", "hello")))).stdout == b"hello\n"
        await house.instances.stop(instance.id)
        last = await ended(house, instance.id)
        assert (last.state, last.reason) == (State.STOPPED, Reason.ASKED)
        assert last.handle is None
        assert last.address is None
        states = ["requested", "creating", "starting", "configuring", "ready", "stopping", "stopped"]
        assert await story(house, instance.id) == states
        assert await house.reconciliation.examine() == []


async def test_refused_offers_fall_over_to_the_next_provider_and_are_told(tmp_path: Path) -> None:
    providers = {
        "full": fake(price=0.1, faults=[{"call": "create", "error": "no-capacity"}]),
        "poor": fake(price=0.2, faults=[{"call": "create", "error": "quota"}]),
        "gone": fake(price=0.3, faults=[{"call": "create", "error": "crash-after"}]),
        "good": fake(price=0.4),
    }
    async with open_house(tmp_path, providers) as house:
        ready = await house.instances.wait((await house.instances.submit("ada", Request())).id)
        assert ready.offer
        assert ready.offer.provider == "good"
        assert [offer.provider for offer in ready.refused] == ["full", "poor", "gone"]
        assert all(offer.why_not for offer in ready.refused)
        # What the third made before its answer was lost is gone.
        assert await house.reconciliation.examine() == []
        driver = house.providers.get("gone")
        assert await driver.holdings() == []
        await house.instances.stop(ready.id)
        await ended(house, ready.id)


async def test_when_all_refuse_the_reasons_are_told_and_nothing_is_left(tmp_path: Path) -> None:
    faults = [{"call": "create", "error": "no-capacity", "times": "always"}]
    async with open_house(tmp_path, {"a": fake(faults=faults), "b": fake(faults=faults)}) as house:
        instance = await house.instances.submit("ada", Request())
        with pytest.raises(NoOffer, match=r"a: .*b: "):
            await house.instances.wait(instance.id)
        assert await house.reconciliation.examine() == []


async def test_a_request_that_nobody_can_serve_fails_at_once(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        instance = await house.instances.submit("ada", Request(gpus=9000))
        with pytest.raises(NoOffer, match="The largest available is 2 CPUs, 4GiB on cloud"):
            await house.instances.wait(instance.id)


@pytest.mark.parametrize("fault", ["unreachable", "throttled", "hang"])
async def test_a_provider_that_does_not_answer_keeps_nobody_waiting(tmp_path: Path, fault: str) -> None:
    faults = [{"call": "offers", "error": fault, "times": "always"}]
    providers = {"silent": fake(faults=faults), "good": fake()}
    async with open_house(tmp_path, providers, limits={"offers": 1}) as house:
        offers = await house.providers.offers(Request())
        assert [offer.provider for offer in offers if offer.available] == ["good"]
        assert next(offer for offer in offers if offer.provider == "silent").why_not


async def test_stopped_while_it_boots(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake(boot_seconds=60)}) as house:
        instance = await house.instances.submit("ada", Request())
        async for now in house.instances.records.follow(instance.id):
            if now.state is State.STARTING:
                break
        await house.instances.stop(instance.id)
        last = await ended(house, instance.id)
        assert (last.state, last.reason) == (State.STOPPED, Reason.CANCELLED)
        assert await house.providers.get("cloud").holdings() == []


async def test_stopped_while_the_provider_is_making_it(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake(latency=200)}) as house:
        instance = await house.instances.submit("ada", Request())
        async for now in house.instances.records.follow(instance.id):
            if now.state is State.CREATING:
                break
        await asyncio.sleep(0.02)
        await house.instances.stop(instance.id)
        assert (await ended(house, instance.id)).state is State.STOPPED
        assert await house.providers.get("cloud").holdings() == []


async def test_a_removal_that_fails_is_tried_again(tmp_path: Path) -> None:
    faults = [{"call": "destroy", "error": "unreachable", "times": 2}]
    async with open_house(tmp_path, {"cloud": fake(faults=faults)}, limits={"retry_longest": 0.1}) as house:
        ready = await house.instances.wait((await house.instances.submit("ada", Request())).id)
        await house.instances.stop(ready.id)
        assert (await ended(house, ready.id)).state is State.STOPPED
        assert "retrying" in await story(house, ready.id)


async def test_another_run_takes_up_what_the_last_one_left(tmp_path: Path) -> None:
    providers = {"cloud": fake(boot_seconds=1)}
    async with open_house(tmp_path, providers) as house:
        ready = await house.instances.submit("ada", Request())
        await house.instances.wait(ready.id)
        starting = await house.instances.submit("ada", Request())
        async for now in house.instances.records.follow(starting.id):
            if now.state is State.STARTING:
                break
    async with open_house(tmp_path, providers) as house:
        assert (await house.instances.wait(ready.id)).state is State.READY
        assert (await house.instances.wait(starting.id)).state is State.READY
        for instance_id in (ready.id, starting.id):
            await house.instances.stop(instance_id)
            await ended(house, instance_id)


async def test_a_provider_that_left_the_configuration_still_gives_its_machines_back(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        ready = await house.instances.wait((await house.instances.submit("ada", Request())).id)
    async with open_house(tmp_path, {"other": fake()}) as house:
        await house.instances.stop(ready.id)
        assert (await ended(house, ready.id)).state is State.STOPPED


async def test_configuration_that_fails_tells_why_and_gives_the_machine_back(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        wrong = [{"use": "script", "text": "echo too bad; exit 7"}]
        instance = await house.instances.submit("ada", Request(), configure=wrong)
        with pytest.raises(ConfigurationFailed, match="too bad"):
            await house.instances.wait(instance.id)
        assert (await ended(house, instance.id)).reason is Reason.CONFIGURATION
        assert await house.providers.get("cloud").holdings() == []


async def test_configuration_is_told_as_it_goes(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        steps = [{"use": "script", "text": "echo one; echo two"}]
        ready = await house.instances.wait(
            (await house.instances.submit("ada", Request(), configure=steps)).id
        )
        events = await house.store.events(subject=ready.id)
        told = "\n".join(event.message for event in events if event.type == "output")
        assert "one" in told
        assert "two" in told
        await house.instances.stop(ready.id)
        await ended(house, ready.id)


async def test_expiry_is_warned_of_and_kept(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        house.instances.timing = type(house.instances.timing)(watch=0.05, warning=60)
        ready = await house.instances.wait((await house.instances.submit("ada", Request(time=6))).id)
        last = await ended(house, ready.id)
        assert (last.state, last.reason) == (State.STOPPED, Reason.EXPIRED)
        assert "expiring" in await story(house, ready.id)


async def test_extending(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        ready = await house.instances.wait((await house.instances.submit("ada", Request(time=60))).id)
        later = house.clock.now() + timedelta(hours=2)
        assert (await house.instances.extend(ready.id, later)).expires == later
        with pytest.raises(InvalidRequest, match="has passed"):
            await house.instances.extend(ready.id, house.clock.now() - timedelta(seconds=1))
        await house.instances.stop(ready.id)
        await ended(house, ready.id)
        with pytest.raises(InvalidRequest, match="has ended"):
            await house.instances.extend(ready.id, later)


async def test_a_machine_that_vanishes_is_noticed(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        house.instances.timing = type(house.instances.timing)(watch=0.05)
        ready = await house.instances.wait((await house.instances.submit("ada", Request())).id)
        await house.providers.get("cloud").destroy(ready.id, ready.handle)
        last = await ended(house, ready.id)
        assert (last.state, last.reason) == (State.FAILED, Reason.LOST)
        assert "gone" in last.detail


async def test_the_same_id_is_taken_once(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        instance_id = house.clock.new_id("i")
        await house.instances.submit("ada", Request(), instance_id=instance_id)
        with pytest.raises(Conflict):
            await house.instances.submit("ada", Request(), instance_id=instance_id)
        await house.instances.wait(instance_id)
        await house.instances.stop(instance_id)
        await ended(house, instance_id)


async def test_unknown_instances(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        with pytest.raises(NotFound, match="i-none"):
            await house.instances.stop("i-none")


async def test_what_nothing_accounts_for_is_found_and_removed_and_nothing_else(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        kept = await house.instances.wait((await house.instances.submit("ada", Request())).id)
        lost = await house.instances.wait((await house.instances.submit("ada", Request())).id)
        record = await house.store.get("instance", lost.id)
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        await house.store.delete(await house.store.get("instance", record.id))
        house.instances.records._known.pop(lost.id, None)
        found = await house.reconciliation.examine()
        assert [difference.subject for difference in found] == [lost.id]
        assert [difference.mended for difference in await house.reconciliation.mend(found)] == [True]
        assert [holding.instance_id for holding in await house.providers.get("cloud").holdings()] == [kept.id]
        await house.instances.stop(kept.id)
        await ended(house, kept.id)


async def test_what_configurers_installed_comes_first_on_the_path(tmp_path: Path) -> None:
    script = (
        "mkdir -p bin .gridcloud; printf '#!/bin/sh\\necho mine\\n' >bin/tool; chmod +x bin/tool;"
        " echo $PWD/bin >.gridcloud/path"
    )
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        wish = await house.instances.submit("ada", Request(), configure=[{"use": "script", "text": script}])
        ready = await house.instances.wait(wish.id)
        connection = await house.connection_to(ready)
        command = await find_programs(ready, connection, Command(("tool",), {"A": "b"}))
        assert (await connections.run(connection, command)).stdout == b"mine\n"
        assert command.environment["A"] == "b"
        given = Command(("tool",), {"PATH": "/bin"})
        assert await find_programs(ready, connection, given) == given
        await house.instances.stop(ready.id)
        await ended(house, ready.id)
