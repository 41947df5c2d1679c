"""Machines whose provider refuses to tell of them, as where credentials have expired: they stay as they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.houses import ended, open_house
from tests.labs.moto import REGION, moto_server
from tests.labs.moto_proxy import MotoProxy, refusal
from tests.labs.openstack_answers import OpenStackAnswers, server
from tests.labs.oracle import Oracle

from gridcloud.drivers.instances import ec2_wire
from gridcloud.drivers.instances.fake import FakeDriver
from gridcloud.drivers.instances.oci import OCIDriver
from gridcloud.drivers.instances.oci_settings import OCISettings
from gridcloud.errors import NotAuthenticated, Transient
from gridcloud.instances.model import (
    SHARED,
    Handle,
    Instance,
    Kind,
    Observation,
    Offer,
    Phase,
    Request,
    Shape,
    Spec,
    State,
)
from gridcloud.instances.observer import Observer
from gridcloud.service.house import House
from gridcloud.testing.instances import driver_context

pytestmark = [
    # The SDK says of its own calls that they will go, whatever is called.
    pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning"),
]

QUICK = {"retry_first": 0.1, "retry_longest": 0.5}


async def told(house: House, instance_id: str) -> list[tuple[str, str]]:
    """Type and message of an instance's events."""
    return [(event.type, event.message) for event in await house.store.events(subject=instance_id)]


async def until_told(house: House, instance_id: str, type: str) -> str:
    """Return the message of the first event of a type."""
    async with asyncio.timeout(30):
        while True:
            for kind, message in await told(house, instance_id):
                if kind == type:
                    return message
            await asyncio.sleep(0.1)


async def take_up(house: House, provider: str, handle: dict[str, Any], instance_id: str = "") -> Instance:
    """Store a ready instance, which the watch takes up."""
    await house.providers.remember(provider)
    now = house.clock.now()
    offer = Offer(provider=provider, kind=Kind.VIRTUAL_MACHINE, shape=Shape(cpus=1, memory=1 << 30), price=0)
    instance = Instance(
        id=instance_id or house.clock.new_id("i"),
        owner="ada",
        request=Request(),
        state=State.READY,
        offer=offer,
        handle=Handle(data=handle),
        created=now,
        ready_at=now,
    )
    house.instances.timing = replace(house.instances.timing, watch=0.2)
    return await house.instances.records.insert(instance, "ready", "As an earlier run left it.")


@pytest.fixture
def answers() -> Iterator[OpenStackAnswers]:
    with OpenStackAnswers() as cloud:
        yield cloud


@pytest.fixture
async def campus(answers: OpenStackAnswers, tmp_path: Path) -> AsyncIterator[House]:
    """A house with a provider `campus` that is an OpenStack."""
    clouds = tmp_path / "clouds.yaml"
    answers.write_clouds(clouds)
    entry = {"driver": "openstack", "cloud": "answers", "clouds_file": str(clouds), "image": "debian-*"}
    async with open_house(
        tmp_path, {"campus": {**entry, "allow_from": "192.0.2.0/24"}}, limits=QUICK
    ) as house:
        yield house


async def test_a_ready_machine_outlives_a_password_that_expired(
    campus: House, answers: OpenStackAnswers, tmp_path: Path
) -> None:
    answers.password = "new"
    data = {"server": "s1", "host": "127.0.0.1", "host_key": "ssh-ed25519 A"}
    instance = await take_up(campus, "campus", data)
    marks = (campus.store.installation, "campus")
    answers.servers["s1"] = server("s1", instance.id, *marks)
    message = await until_told(campus, instance.id, "shut-out")
    assert message.startswith("The credentials of campus are refused")
    assert "The password has expired" in message
    await asyncio.sleep(1)
    logins = answers.asked.count("POST /v3/auth/tokens")
    assert logins < 20, "nobody is asked in a hurry"
    assert (await campus.instances.records.get(instance.id)).state is State.READY
    assert [kind for kind, _ in await told(campus, instance.id)].count("shut-out") == 1
    answers.write_clouds(tmp_path / "clouds.yaml", password="new")
    assert "campus tells of the machine again" in await until_told(campus, instance.id, "answering")
    assert (await campus.instances.records.get(instance.id)).state is State.READY
    del answers.servers["s1"]
    last = await ended(campus, instance.id)
    assert last.state is State.FAILED
    assert "The machine is gone" in last.detail


async def test_a_ready_machine_of_amazons_outlives_a_token_that_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Amazon's library pauses for seconds between its tries; that it tries again has a test of its own.
    monkeypatch.setattr(ec2_wire, "TRIES", 1)
    with moto_server() as moto, MotoProxy(moto.url) as proxy:
        entry = {"driver": "ec2", "region": REGION, "endpoint": proxy.url, "image": moto.image()["ImageId"]}
        entry |= {"shapes": ["t3.small"], "prices": {"*": 0.01}, "price_list": False}
        async with open_house(
            tmp_path, {"amazon": {**entry, "allow_from": ["192.0.2.0/24"]}}, limits=QUICK
        ) as house:
            driver = house.providers.get("amazon")
            offer = (await driver.offers(Request(memory="1GiB")))[0]
            spec = Spec(id=house.clock.new_id("i"), owner="ada", request=Request(), offer=offer)
            made = await driver.create(spec)
            proxy.fail("", 10_000, status=403, body=refusal("ExpiredToken", "The token has expired."))
            instance = await take_up(house, "amazon", dict(made.data), spec.id)
            assert "The token has expired" in await until_told(house, instance.id, "shut-out")
            # What is asked for now waits, too: nothing is forgotten because it could not be removed.
            await house.instances.stop(instance.id)
            told = await until_told(house, instance.id, "retrying")
            assert "token has expired" in told
            assert told.count("amazon") == 1, told
            assert (await house.instances.records.get(instance.id)).state is State.STOPPING
            assert len(moto.machines()) == 1
            proxy.heal()
            assert (await ended(house, instance.id)).state is State.STOPPED
            assert moto.machines() == []
            await driver.destroy(SHARED, None)


async def test_a_machine_that_starts_meanwhile_is_waited_for(tmp_path: Path) -> None:
    faults = [{"call": "observe", "error": "rejected", "times": 5}]
    limits = {"retry_first": 0.5, "retry_longest": 0.5, "start": "1s"}
    entry = {"driver": "fake", "faults": faults}
    async with open_house(tmp_path, {"cloud": entry}, limits=limits) as house:
        instance = await house.instances.submit("ada", Request())
        async with asyncio.timeout(30):
            ready = await house.instances.wait(instance.id)
        types = [kind for kind, _ in await told(house, ready.id)]
        assert types[:3] == ["requested", "creating", "starting"]
        assert types[3:] == ["shut-out", "answering", "configuring", "ready"]
        assert ready.refused == ()
        await house.instances.stop(ready.id)
        await ended(house, ready.id)


async def test_a_key_at_oracle_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    with Oracle() as oracle:
        oracle.tenancy.add_compartment("lab")
        config = oracle.write_config(tmp_path)
        words = {"driver": "oci", "compartment": "lab", "image": "Canonical-Ubuntu-24.04-*"}
        words |= {"config_file": str(config), "endpoint": oracle.url, "allow_from": "192.0.2.0/24"}
        driver = OCIDriver(OCISettings.model_validate(words), driver_context(tmp_path / "oracle"))
        assert await driver.holdings() == []
        oracle.tenancy.users.clear()
        for _ in range(2):
            with pytest.raises(NotAuthenticated):
                await driver.holdings()
        config.write_text(oracle.write_config(tmp_path / "new").read_text())
        assert await driver.holdings() == []
        await driver.close()


async def test_no_word_of_a_machine_is_not_that_it_is_gone(tmp_path: Path) -> None:
    class Silent(FakeDriver):
        async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
            """Leave one out."""
            return {name: seen for name, seen in (await super().observe(handles)).items() if name != "i-2"}

    driver = Silent(FakeDriver.Settings.model_validate({"driver": "fake"}), driver_context(tmp_path))

    async def give() -> FakeDriver:
        return driver

    observer = Observer(give)
    first, second = await asyncio.gather(
        observer.observe("i-1", Handle(data={})),
        observer.observe("i-2", Handle(data={})),
        return_exceptions=True,
    )
    assert isinstance(first, Observation)
    assert first.phase is Phase.GONE
    assert isinstance(second, Transient)
    await driver.close()
