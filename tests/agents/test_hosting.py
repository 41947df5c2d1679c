"""A machine that dialled us is a provider of instances, within what its owner allows."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gridcloud import connections
from gridcloud.agents.hosting import Host
from gridcloud.agents.hours import Hours
from gridcloud.agents.listing import Listing
from gridcloud.agents.membership import Membership
from gridcloud.agents.model import Caps, Terms
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.drivers.instances.agent import AgentDriver, AgentSettings
from gridcloud.errors import Forbidden, GridcloudError, InvalidRequest, NoCapacity, Unavailable, Unreachable
from gridcloud.instances.driver import Context
from gridcloud.instances.model import Offer, Phase, Request, Spec
from gridcloud.testing.instances import InstanceDriverContract, read_output
from tests.agents.machines import admit, dialling, until
from tests.labs.containers import TINY_IMAGE, Engine
from tests.services import Service, open_service

TERMS = Terms(share=True, cpus=2, memory=512 << 20, labels={"room": "4.1"})
SMALL = Request(cpus=0.25, memory=64 << 20)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path) as opened:
        yield opened


def make_driver(service: Service, folder: Path, **settings: Any) -> AgentDriver:
    house = service.house

    async def connect(address: Address) -> Connection:
        return await connections.open(address, house.credentials)

    folder.mkdir(mode=0o700, exist_ok=True)
    context = Context(
        "machines",
        house.store.installation,
        folder,
        connect,
        "",
        agents=Listing(house.agents, house.switchboard),
    )
    return AgentDriver(AgentSettings(driver="agent", **settings), context)


class TestAgentDriver(InstanceDriverContract):
    request_: ClassVar[Request] = SMALL

    @pytest.fixture
    async def driver(self, service: Service, tmp_path: Path) -> AsyncIterator[AgentDriver]:
        way, membership, place = await admit(service, tmp_path / "machine")
        host = Host(membership.model_copy(update={"terms": TERMS}), tmp_path / "machine")
        await host.start()
        async with dialling(service, way, membership, place, host):
            driver = make_driver(service, tmp_path / "provider")
            yield driver
            await driver.close()
        await host.close()


def member(**terms: Any) -> Membership:
    return Membership(
        url="https://hub",
        name="lab-pc",
        installation="here",
        authority="",
        invitation="v-0",
        caps=Caps(cpus=1),
        terms=Terms.model_validate({"cpus": 4, "memory": 256 << 20} | terms),
    )


def spec(owner: str = "ada") -> dict[str, Any]:
    offer = Offer.model_validate({"provider": "x", "kind": "bare_metal", "shape": {"cpus": 1, "memory": 1}})
    made = Spec(id=f"t-{secrets.token_hex(4)}", owner=owner, request=SMALL, offer=offer)
    return {"spec": made.model_dump(mode="json")}


async def test_terms_hold_on_the_machine_itself(tmp_path: Path) -> None:
    host = Host(member(users=["ada*", "grace"]), tmp_path)
    first = spec("ada@uni")
    await host.answer("create", first)
    with pytest.raises(Forbidden, match="does not let 'eve' use it"):
        await host.answer("create", spec("eve"))
    with pytest.raises(NoCapacity, match="one person at a time"):
        await host.answer("create", spec("grace"))
    offers = await host.answer("offers", {"request": {"cpus": 2, "memory": 1 << 20}})
    assert not offers[0]["possible"], "the invitation's limit holds too"
    assert (await host.report()).free.cpus == 0.75
    await host.answer("create", first)
    await host.answer("destroy", {"id": first["spec"]["id"]})
    await host.answer("create", spec("grace"))
    await host.answer("remove", {})
    assert (await host.report()).running == ()


async def test_hours_hold_and_end_what_runs(tmp_path: Path) -> None:
    now = datetime(2026, 11, 20, 20, 0).astimezone()  # a Friday evening
    host = Host(member(hours="Mon-Fri 18:00-08:00"), tmp_path, now=lambda: now)
    wish = spec()
    handle = await host.answer("create", wish)
    handles = {"handles": {wish["spec"]["id"]: handle}}
    assert (await host.answer("observe", handles))[wish["spec"]["id"]]["phase"] == "running"
    now += timedelta(hours=12)
    assert not (await host.answer("offers", {"request": {}}))[0]["available"]
    with pytest.raises(Unavailable, match="Mon-Fri 18:00-08:00"):
        await host.answer("create", spec())
    await host.start()
    async with asyncio.timeout(10):
        while (await host.report()).running:  # noqa: ASYNC110 - the machine tells nobody
            await asyncio.sleep(0.02)
    assert (await host.answer("observe", handles))[wish["spec"]["id"]]["phase"] == "gone"
    await host.close()


async def test_ends_by_itself_and_survives_a_restart_of_the_agent(tmp_path: Path) -> None:
    host = Host(member(), tmp_path)
    wish = spec()
    handle = await host.answer("create", wish)
    name = wish["spec"]["id"]
    await host.answer("arm", {"id": name, "at": (datetime.now(UTC) + timedelta(hours=1)).isoformat()})
    await host.close()
    again = Host(member(), tmp_path)
    await again.start()
    account = again.find(name)
    assert account is not None
    assert account.principal == f"gridcloud-{name}"
    assert (await again.report()).running == (name,)
    await again.answer("arm", {"id": name, "at": (datetime.now(UTC) - timedelta(1)).isoformat()})
    async with asyncio.timeout(10):
        while (await again.report()).running:  # noqa: ASYNC110 - the machine tells nobody
            await asyncio.sleep(0.02)
    assert again.find(name) is None
    assert (await again.answer("observe", {"handles": {name: handle}}))[name]["phase"] == "gone"
    await again.close()


async def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    host = Host(member(), tmp_path)
    for call, arguments in (
        ("offers", {}),
        ("create", {"spec": 3}),
        ("observe", {"handles": []}),
        ("sudo", {}),
    ):
        with pytest.raises(GridcloudError):
            await host.answer(call, arguments)
    assert host.find("../../etc") is None
    await host.close()


async def test_a_service_that_went_astray_gets_no_more_than_the_terms(tmp_path: Path) -> None:
    """Limits of nothing are limits, moments without a zone stop no clock, claimed offers do not count."""
    now = datetime(2026, 11, 20, 20, 0).astimezone()
    nothing = member().model_copy(update={"caps": Caps(cpus=0, memory=0)})
    host = Host(nothing, tmp_path / "nothing")
    assert not (await host.answer("offers", {"request": {"cpus": 0.1, "memory": 1 << 20}}))[0]["possible"]
    with pytest.raises(GridcloudError, match="never serves"):
        await host.answer("create", spec())
    await host.close()
    host = Host(member(hours="Mon-Fri 18:00-08:00"), tmp_path / "clock", now=lambda: now)
    wish = spec()
    await host.answer("create", wish)
    await host.start()
    with pytest.raises(InvalidRequest, match="time zone"):
        await host.answer("arm", {"id": wish["spec"]["id"], "at": "2026-11-20T21:00:00"})
    now += timedelta(hours=12)
    async with asyncio.timeout(10):
        while (await host.report()).running:  # noqa: ASYNC110 - the machine tells nobody
            await asyncio.sleep(0.02)
    await host.close()
    boxed = Host(member(containers_only=True, image="busybox"), tmp_path / "boxed")
    offer = {"provider": "x", "kind": "container", "shape": {"cpus": 0, "memory": 0, "gpus": 9}}
    told = boxed._narrow(Spec.model_validate({**spec("grace")["spec"], "offer": offer}))
    assert (told.offer.shape.cpus, told.offer.shape.memory, told.offer.shape.gpus) == (0.25, 64 << 20, 0)
    assert told.owner == "grace", "each has a home of their own"
    await boxed.close()


async def test_machines_stand_in_for_each_other(service: Service, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        hosts = []
        for name, users in (("closed", ("grace",)), ("open", ("*",)), ("small", ("*",))):
            way, membership, place = await admit(service, tmp_path / name, name)
            terms = TERMS.model_copy(update={"users": users, "cpus": 0.5 if name == "small" else 2})
            host = Host(membership.model_copy(update={"terms": terms}), tmp_path / name)
            hosts.append(host)
            _ = await stack.enter_async_context(dialling(service, way, membership, place, host))
        driver = make_driver(service, tmp_path / "provider")
        request = SMALL.model_copy(update={"cpus": 1.5})
        offers = {offer.shape.name: offer for offer in await driver.offers(request)}
        assert sorted(offers) == ["closed", "open"], "what never fits is left out where something does"
        wish = Spec(id="t-x1", owner="ada", request=request, offer=offers["closed"])
        with pytest.raises(Forbidden, match="does not let 'ada' use it"):
            await driver.create(wish)
        await driver.destroy(wish.id, None)
        for number, raised in ((2, None), (3, NoCapacity)):
            wish = Spec(id=f"t-x{number}", owner="ada", request=request, offer=offers["open"])
            with pytest.raises(raised) if raised else contextlib.nullcontext():
                await driver.create(wish)
        assert list((tmp_path / "provider" / "made").iterdir()) == [tmp_path / "provider" / "made" / "t-x2"]
        await driver.destroy("t-x2", None)
        assert len(await driver.check()) >= 3
    for host in hosts:
        await host.close()


async def test_a_machine_that_is_away_is_waited_for(service: Service, tmp_path: Path) -> None:
    way, membership, place = await admit(service, tmp_path / "machine")
    host = Host(membership.model_copy(update={"terms": TERMS}), tmp_path / "machine")
    driver = make_driver(service, tmp_path / "provider", labels={"owner.room": "4.*"})
    everywhere = make_driver(service, tmp_path / "p2")
    assert "has not connected" in (await everywhere.offers(SMALL))[0].why_not
    async with dialling(service, way, membership, place, host):
        offer = (await driver.offers(SMALL))[0]
        assert offer.available, offer
        others = make_driver(service, tmp_path / "p3", labels={"room": "4.1"})
        assert "no machine has joined" in (await others.offers(SMALL))[0].why_not
        wish = Spec(id="t-1234", owner="ada", request=SMALL, offer=offer)
        handle = await driver.create(wish)
        assert (await driver.observe({wish.id: handle}))[wish.id].phase is Phase.RUNNING
    await until(lambda: not service.house.switchboard.present())
    seen = (await driver.observe({wish.id: handle}))[wish.id]
    assert seen.phase is Phase.PENDING
    assert "not connected" in seen.detail
    away = (await driver.offers(SMALL))[0]
    assert away.possible
    assert not away.available
    assert [one.instance_id for one in await driver.holdings()] == [wish.id]
    with pytest.raises(Unreachable):
        await driver.destroy(wish.id, None)
    with pytest.raises(Unavailable):
        await driver.create(wish.model_copy(update={"id": "t-5678"}))
    await driver.destroy("t-5678", None)
    async with dialling(service, way, membership, place, host):
        assert (await driver.observe({wish.id: handle}))[wish.id].phase is Phase.RUNNING
        await service.house.agents.drain("lab-pc", "admin")
        assert "nothing new" in (await driver.offers(SMALL))[0].why_not
        await driver.destroy(wish.id, None)
        assert await driver.holdings() == []
    await service.house.agents.remove("lab-pc", "admin")
    assert (await driver.observe({wish.id: handle}))[wish.id].phase is Phase.GONE
    await host.close()


@pytest.mark.parametrize(
    ("text", "at", "open_"),
    [
        ("", "2026-11-21 12:00", True),
        ("Mon-Fri 18:00-08:00", "2026-11-20 17:59", False),
        ("Mon-Fri 18:00-08:00", "2026-11-20 18:00", True),
        ("Mon-Fri 18:00-08:00", "2026-11-21 07:59", True),
        ("Mon-Fri 18:00-08:00", "2026-11-21 08:00", False),
        ("Mon-Fri 18:00-08:00, Sat-Sun", "2026-11-22 12:00", True),
        ("Fri-Mon 9:00-17:00", "2026-11-22 12:00", True),
        ("22:00-6:00", "2026-11-23 03:00", True),
        ("Sun 22:00-6:00", "2026-11-23 03:00", True),
    ],
)
def test_hours(text: str, at: str, open_: bool) -> None:
    assert Hours.parse(text).is_open(datetime.fromisoformat(at).astimezone()) is open_


def test_hours_that_touch_are_one(tmp_path: Path) -> None:
    hours = Hours.parse("Fri 18:00-24:00, Sat-Sun, Mon 0:00-8:00")
    friday = datetime(2026, 11, 20, 20, 0).astimezone()
    assert hours.closes(friday) == datetime(2026, 11, 23, 8, 0).astimezone()
    assert Hours.parse("Mon-Sun").closes(friday) is None
    for wrong in ("Mo 8:00-9:00", "18-8", "Mon 25:00-26:00", "-Fri", "Mon 8:00"):
        with pytest.raises(ValueError, match=r"hours|days|time"):
            Hours.parse(wrong)


@pytest.mark.needs_root
async def test_in_containers_all_is_of_the_container(
    service: Service, tmp_path: Path, container_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", container_engine.url)
    way, membership, place = await admit(service, tmp_path / "machine")
    terms = Terms(containers_only=True, image=TINY_IMAGE, cpus=1, memory=256 << 20)
    host = Host(membership.model_copy(update={"terms": terms}), tmp_path / "machine")
    async with dialling(service, way, membership, place, host):
        driver = make_driver(service, tmp_path / "provider")
        offer = (await driver.offers(SMALL))[0]
        assert offer.kind == "container"
        wish = Spec(id="t-inside", owner="ada", request=SMALL, offer=offer)
        handle = await driver.create(wish)
        async with asyncio.timeout(60):
            while (seen := (await driver.observe({wish.id: handle}))[wish.id]).address is None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        connection = await driver.context.connect(seen.address)
        try:
            assert "t-inside" not in await read_output(connection, "ls", "/")
            assert Path("/etc/hostname").read_text() != await read_output(connection, "hostname")
            (tmp_path / "file").write_text("x")
            await connection.put(tmp_path / "file", str(tmp_path / "escaped"))
            assert not (tmp_path / "escaped").exists(), "the same path within the container"
            assert await read_output(connection, "cat", str(tmp_path / "escaped")) == "x"
        finally:
            await connection.close()
        await driver.destroy(wish.id, handle)
        assert await driver.holdings() == []
    await host.close()
