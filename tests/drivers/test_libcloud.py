"""The `libcloud` driver, on a driver of libcloud's kind whose nodes are machines here, and on EC2 as moto keeps it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import libcloud.compute.drivers.ec2
import pytest
from libcloud.common.exceptions import BaseHTTPError, RateLimitReachedError
from libcloud.common.types import InvalidCredsError, MalformedResponseError, ServiceUnavailableError
from libcloud.compute.types import NodeState
from tests.labs.ground import Ground, missing_for_ground
from tests.labs.libcloud_nodes import Account
from tests.labs.moto import CREDENTIALS, REGION, Moto, moto_server

from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.drivers.instances import libcloud_nodes
from gridcloud.drivers.instances.libcloud import LibcloudDriver
from gridcloud.drivers.instances.libcloud_settings import LibcloudSettings
from gridcloud.drivers.instances.libcloud_words import translate
from gridcloud.errors import (
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    Throttled,
    Transient,
    Unreachable,
)
from gridcloud.instances.driver import InstanceDriver
from gridcloud.instances.model import Handle, Phase, Request, Spec
from gridcloud.testing.instances import InstanceDriverContract, driver_context

ACCOUNT = "tests.labs.libcloud_nodes:AccountNodeDriver"
PLAIN = "tests.labs.libcloud_nodes:PlainNodeDriver"
SMALL = Request(cpus=1, memory=64 << 20)

needs_ground = pytest.mark.skipif(missing_for_ground() is not None, reason=str(missing_for_ground()))


@pytest.fixture
def account() -> Iterator[Account]:
    """An account at a provider, empty."""
    key = f"key-{secrets.token_hex(4)}"  # libcloud's own kind takes a number for how many nodes it has
    account = Account.of(key)
    account.key = key  # type: ignore[attr-defined]
    yield account
    del Account.accounts[key]


def settings(account: Account, compute: str = ACCOUNT, **more: Any) -> LibcloudSettings:
    words = {"driver": "libcloud", "compute": compute, "image": "Ubuntu*", "user": "root", "price_factor": 2}
    arguments = {"key": f"env:{more.pop('variable', 'LIBCLOUD_TEST_KEY')}"}
    return LibcloudSettings.model_validate({**words, "arguments": arguments, **more})


@pytest.fixture
async def open_driver(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    """Makes drivers that are closed with the test."""
    # The key is a secret, which settings only refer to.
    monkeypatch.setenv("LIBCLOUD_TEST_KEY", account.key)  # type: ignore[attr-defined]
    opened = []

    def make(installation: str = "gridcloud-test", **more: Any) -> LibcloudDriver:
        context = driver_context(tmp_path / installation, installation=installation)
        opened.append(LibcloudDriver(settings(account, **more), context))
        return opened[-1]

    yield make
    for driver in opened:
        await driver.close()


async def spec_of(driver: LibcloudDriver, **asked: Any) -> Spec:
    request = SMALL.model_copy(update=asked)
    offer = (await driver.offers(request))[0]
    return Spec(id=f"t-{secrets.token_hex(5)}", owner="ada", request=request, offer=offer)


@needs_ground
class TestNodes(InstanceDriverContract):
    """On nodes with tags."""

    request_: ClassVar[Request] = SMALL
    most: ClassVar[int] = 0
    compute: ClassVar[str] = ACCOUNT
    more: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    async def driver(
        self, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[LibcloudDriver]:
        monkeypatch.setenv("LIBCLOUD_TEST_KEY", account.key)  # type: ignore[attr-defined]  # read by reference
        async with Ground(account.look) as ground:
            self.ground = ground
            context = ground.context(tmp_path / "provider")
            driver = LibcloudDriver(settings(account, self.compute, **self.more), context)
            yield driver
            await driver.close()

    async def connect(self, driver: InstanceDriver, address: Address) -> Connection:
        return await self.ground.connect(address)


class TestPlainNodes(TestNodes):
    """On nodes that have but a name, and whose user data goes by an unusual word."""

    compute: ClassVar[str] = PLAIN
    more: ClassVar[dict[str, Any]] = {"user_data": "user_data"}


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with moto_server() as moto:
        yield moto


@needs_ground
class TestEC2(InstanceDriverContract):
    """Through libcloud's EC2 driver."""

    request_: ClassVar[Request] = Request(cpus=1, memory=256 << 20)
    most: ClassVar[int] = 0

    @pytest.fixture
    async def driver(
        self, moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[LibcloudDriver]:
        # moto answers in the newer of the two versions of Amazon's document; libcloud reads the one it asked for.
        space = "http://ec2.amazonaws.com/doc/2016-11-15"
        monkeypatch.setattr(libcloud.compute.drivers.ec2, "NAMESPACE", space)
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        host, port = moto.url.removeprefix("http://").split(":")
        arguments = {
            "key": "env:AWS_ACCESS_KEY_ID",
            "secret": "env:AWS_SECRET_ACCESS_KEY",
            "region": REGION,
            "host": host,
            "port": int(port),
            "secure": False,
            "signature_version": "4",
        }
        words = {"driver": "libcloud", "compute": "ec2", "user": "root", "image": moto.image()["ImageId"]}
        async with Ground(moto.look) as ground:
            self.ground = ground
            entry = LibcloudSettings.model_validate({**words, "arguments": arguments, "shapes": ["t3.*"]})
            driver = LibcloudDriver(entry, ground.context(tmp_path / "provider"))
            yield driver
            await driver.close()

    async def connect(self, driver: InstanceDriver, address: Address) -> Connection:
        return await self.ground.connect(address)


async def test_without_user_data_nothing_is_offered_and_check_says_why(open_driver: Any) -> None:
    driver = open_driver(compute="dummy", arguments={"creds": "0"}, image="1")
    with pytest.raises(InvalidSettings, match="host key could not be pinned"):
        await driver.offers(SMALL)
    findings = await driver.check()
    assert any("could not be pinned" in one.message for one in findings if not one.ok)


async def test_check_tells_what_the_driver_can_do(open_driver: Any) -> None:
    told = "\n".join(one.message for one in await open_driver().check())
    assert "ours by their tags" in told
    assert "user data (ex_userdata)" in told
    assert "logs in by ssh_key" in told
    plain = open_driver(compute=PLAIN, user_data="user_data")
    assert "ours by their names" in "\n".join(one.message for one in await plain.check())
    assert all(one.ok for one in await plain.check())


async def test_what_is_configured_wrong_is_said(open_driver: Any) -> None:
    for more, words in (
        ({"compute": "no_such"}, "no libcloud compute driver 'no_such'"),
        ({"user_data": "nowhere"}, "has no argument 'nowhere'"),
        ({"image": "Windows"}, "no image 'Windows'"),
        ({"locations": ["Moon"]}, "no location 'Moon'"),
        ({"arguments": {"key": "env:LIBCLOUD_TEST_KEY", "colour": "red"}}, "does not take what it is given"),
        ({"arguments": {"key": "env:NO_SUCH_VARIABLE"}}, "NO_SUCH_VARIABLE is not set"),
    ):
        driver = open_driver(**more)
        with pytest.raises(GridcloudError, match=words):
            await driver.offers(SMALL)
        assert not all(one.ok for one in await driver.check())


def test_a_secret_never_stands_in_the_entry(account: Account) -> None:
    for arguments in ({"key": "abc"}, {"key": "a", "secret": "b"}, {"key": "a", "auth_token": "b"}):
        with pytest.raises(ValueError, match="must refer to a secret"):
            settings(account, arguments=arguments)
    settings(account, arguments={"key": "identifier", "secret": "file:/etc/key"})
    with pytest.raises(ValueError, match="is not to be set here"):
        settings(account, create={"ex_admin_password": "x"})


async def test_prices_and_sizes(open_driver: Any) -> None:
    driver = open_driver(
        sizes={"Small": {"cpus": 16, "gpus": 1, "gpu_model": "T4"}}, shapes=["Small", "Medium"]
    )
    first = (await driver.offers(SMALL))[0]
    assert (first.shape.name, first.price, first.priced) == ("Medium", 16, True)
    gpu = (await driver.offers(SMALL.model_copy(update={"gpus": 1})))[0]
    assert (gpu.shape.name, gpu.shape.cpus, gpu.shape.gpu_model) == ("Small", 16, "T4")
    found = await driver.discover()
    assert {one.name for one in found.shapes} == {"Small", "Medium", "Big", "XXL Big"}
    assert "London Loft" in {one.name for one in found.locations}


async def test_locations_are_asked_for(open_driver: Any, account: Account) -> None:
    driver = open_driver(locations=["London Loft", "Paul's Room"])
    offers = await driver.offers(SMALL)
    assert offers[0].location == "London Loft"
    spec = await spec_of(driver, location="paul")
    await driver.create(spec)
    assert account.nodes[0].extra["location"] == "Paul's Room"
    await driver.destroy(spec.id, None)


async def test_what_is_not_ours_is_left_alone(open_driver: Any, account: Account) -> None:
    ours, theirs = open_driver(), open_driver(installation="another")
    spec = await spec_of(ours)
    handle = await ours.create(spec)
    assert await theirs.holdings() == []
    await theirs.destroy(spec.id, handle)
    assert [one.instance_id for one in await ours.holdings()] == [spec.id]
    account.nodes[0].extra["tags"]["gridcloud-installation"] = "another"  # its name is ours still
    assert await ours.holdings() == []
    account.nodes.clear()


async def test_an_answer_that_was_lost_makes_one(open_driver: Any, account: Account) -> None:
    driver = open_driver()
    spec = await spec_of(driver)
    lost = ConnectionError("cut")
    lost.after = True  # type: ignore[attr-defined]
    account.errors.append(lost)
    with pytest.raises(Unreachable):
        await driver.create(spec)
    handle = await driver.create(spec)
    assert len(account.nodes) == 1
    assert handle.data["node"] == account.nodes[0].id
    await driver.destroy(spec.id, None)
    assert account.nodes == []


async def test_two_of_one_id_become_one(open_driver: Any, account: Account) -> None:
    driver = open_driver()
    spec = await spec_of(driver)
    await driver.create(spec)
    twin = account.nodes[0]
    account.nodes.append(
        type(twin)("n999", twin.name, twin.state, ["198.51.100.99"], [], twin.driver, extra=twin.extra)
    )
    await driver.create(spec)
    assert [node.id for node in account.nodes] == [twin.id]
    await driver.destroy(spec.id, None)


async def test_full(open_driver: Any, account: Account) -> None:
    driver = open_driver(instances=1)
    spec = await spec_of(driver)
    await driver.create(spec)
    assert (await driver.offers(SMALL))[0].why_not == "1 of 1 instances are taken"
    with pytest.raises(QuotaExceeded):
        await driver.create(spec.model_copy(update={"id": "t-another"}))
    await driver.destroy(spec.id, None)
    account.most = 1
    driver = open_driver()
    await driver.create(spec)
    with pytest.raises(QuotaExceeded, match="limit"):
        await driver.create(spec.model_copy(update={"id": "t-another"}))
    await driver.destroy(spec.id, None)


async def test_a_machine_that_was_powered_off_has_failed(open_driver: Any, account: Account) -> None:
    driver = open_driver()
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    for state, phase in (
        (NodeState.STOPPED, Phase.FAILED),
        (NodeState.ERROR, Phase.FAILED),
        (NodeState.REBOOTING, Phase.RUNNING),
        (NodeState.UNKNOWN, Phase.PENDING),
        (NodeState.TERMINATED, Phase.GONE),
    ):
        account.nodes[0].state = state
        assert (await driver.observe({spec.id: handle}))[spec.id].phase is phase
    account.nodes[0].state = NodeState.UNKNOWN
    account.nodes[0].extra["status"] = "shutting-down"
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.GONE
    account.nodes.clear()


# Nodes that listings do not show


async def test_a_node_that_is_not_listed_is_asked_for_by_itself(open_driver: Any, account: Account) -> None:
    driver = open_driver()
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    account.unlisted.add("*")
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.RUNNING
    await open_driver(installation="another").destroy(spec.id, handle)
    assert len(account.nodes) == 1, "it is not theirs"
    await driver.destroy(spec.id, handle)
    assert account.nodes == []
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.GONE
    await driver.destroy(spec.id, handle)


async def test_a_node_that_was_just_made_may_be_listed_later(
    open_driver: Any, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = open_driver(compute=PLAIN, user_data="user_data")
    spec = await spec_of(driver)
    account.unlisted.add("*")
    handle = await driver.create(spec)
    seen = (await driver.observe({spec.id: handle}))[spec.id]
    assert (seen.phase, "not listed yet" in seen.detail) == (Phase.PENDING, True)
    account.unlisted.clear()
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.RUNNING
    account.unlisted.add("*")
    # As if much time had gone by.
    monkeypatch.setattr(libcloud_nodes, "APPEARING", -1)
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.GONE
    account.nodes.clear()


async def test_a_node_that_is_not_listed_yet_is_ended_by_its_handle(
    open_driver: Any, account: Account
) -> None:
    driver = open_driver(compute=PLAIN, user_data="user_data")
    spec = await spec_of(driver)
    account.unlisted.add("*")
    handle = await driver.create(spec)
    await open_driver(installation="another", compute=PLAIN, user_data="user_data").destroy(spec.id, handle)
    assert len(account.nodes) == 1, "it is not theirs"
    await driver.destroy(spec.id, handle)
    assert account.nodes == []
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.GONE
    await driver.destroy(spec.id, handle)
    with pytest.raises(Transient, match="not listed yet"):  # another one cannot know that it was ended
        await open_driver(compute=PLAIN, user_data="user_data").destroy(spec.id, handle)


async def test_a_twin_that_is_listed_first_does_not_hide_the_one_that_was_made(
    open_driver: Any, account: Account
) -> None:
    driver, other = open_driver(), open_driver()
    spec = await spec_of(driver)
    await other.create(spec)
    twin = account.nodes[0]
    account.unlisted |= {"*"}
    handle = await driver.create(spec)
    assert len(account.nodes) == 2
    account.unlisted.clear()
    await driver.destroy(spec.id, handle)
    assert twin not in account.nodes
    assert account.nodes == []


async def test_a_key_that_is_put_right_is_read_again(
    open_driver: Any, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = open_driver()
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    account.refused = True
    for _ in range(2):
        with pytest.raises(InvalidSettings, match="credentials are refused"):
            await driver.observe({spec.id: handle})
    account.refused = False
    # The key is a secret, which settings only refer to: by another one it is another account.
    monkeypatch.setenv("LIBCLOUD_TEST_KEY", "another")
    unnamed = Handle(data={**handle.data, "account": ""})  # of a provider that does not tell whose they are
    assert (await driver.observe({spec.id: unnamed}))[spec.id].phase is Phase.GONE
    del Account.accounts["another"]
    account.nodes.clear()


async def test_a_key_of_another_account_says_nothing_of_our_nodes(
    open_driver: Any, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = open_driver()
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    mine = f"account of {account.key}"  # type: ignore[attr-defined]
    assert handle.data["account"] == mine
    handle = Handle(data={**handle.data, "listed": True})
    monkeypatch.setenv("LIBCLOUD_TEST_KEY", "strangers")
    other = open_driver()  # as after a restart
    for _ in range(2):
        with pytest.raises(InvalidSettings, match=f"another account, account of strangers; its .* in {mine}"):
            await other.observe({spec.id: handle})
    with pytest.raises(InvalidSettings, match="another account"):
        await other.destroy(spec.id, handle)
    del Account.accounts["strangers"]
    monkeypatch.setenv("LIBCLOUD_TEST_KEY", account.key)  # type: ignore[attr-defined]
    assert (await other.observe({spec.id: handle}))[spec.id].phase is Phase.RUNNING, "it was put right"
    await other.destroy(spec.id, handle)
    plain = open_driver(compute=PLAIN, user_data="user_data")
    assert (await plain.create(await spec_of(plain))).data["account"] == "", "this one does not tell"


def test_errors_are_told_in_our_words() -> None:
    for error, kind in (
        (InvalidCredsError("no"), InvalidSettings),
        (RateLimitReachedError(), Throttled),
        (MalformedResponseError("not XML"), Transient),
        (ServiceUnavailableError(), Transient),
        (BaseHTTPError(403, "Quota exceeded for cores"), QuotaExceeded),
        (BaseHTTPError(500, "No valid host was found"), NoCapacity),
        (BaseHTTPError(404, "no"), NotFound),
        (BaseHTTPError(503, "busy"), Transient),
        (BaseHTTPError(422, "name is too long"), InvalidRequest),
        (Exception("InstanceLimitExceeded: more than 0 instances"), QuotaExceeded),
        (Exception("InsufficientInstanceCapacity: We have insufficient capacity"), NoCapacity),
        (ConnectionRefusedError("no"), Unreachable),
        (NotImplementedError("list_nodes"), InvalidSettings),
    ):
        assert type(translate(error, "it")) is kind, error
        assert "it" in translate(error, "it").message
