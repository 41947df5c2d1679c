"""The ec2 driver on a bad day of Amazon's: refusals, lost and broken answers, things that went meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import pytest
from tests.labs.moto import REGION, Moto, moto_server
from tests.labs.moto_proxy import MotoProxy, refusal

from gridcloud.drivers.instances import ec2, ec2_wire
from gridcloud.drivers.instances.ec2 import EC2Driver
from gridcloud.drivers.instances.ec2_settings import EC2Settings
from gridcloud.errors import (
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NoCapacity,
    QuotaExceeded,
    Throttled,
    Transient,
    Unreachable,
)
from gridcloud.instances.model import SHARED, Handle, Phase, Request, Spec
from gridcloud.testing.instances import driver_context

EMPTY = (
    '<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId>'
    "<reservationSet/></DescribeInstancesResponse>"
)
JSON = "application/x-amz-json-1.1"
LISTING = "Action=DescribeInstances&"
Make = Callable[..., EC2Driver]


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with moto_server() as moto:
        yield moto


@pytest.fixture
def proxy(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> Iterator[MotoProxy]:
    # Amazon's library pauses for seconds between its tries; that it tries again has a test of its own.
    monkeypatch.setattr(ec2_wire, "TRIES", 1)
    with MotoProxy(moto.url) as proxy:
        yield proxy


@pytest.fixture
async def make(moto: Moto, proxy: MotoProxy, tmp_path: Path) -> AsyncIterator[Make]:
    """Make drivers that reach the account through the proxy; what they hold is removed, and they are closed."""
    made: list[EC2Driver] = []

    def driver(installation: str = "gridcloud-test", **more: Any) -> EC2Driver:
        values = {"driver": "ec2", "region": REGION, "endpoint": proxy.url, "image": moto.image()["ImageId"]}
        values |= {"shapes": ["t3.small"], "prices": {"t3.small": 0.02}, "price_list": False}
        values |= {"allow_from": "192.0.2.0/24", "user": "root"}
        authority = "ssh-ed25519 AAAA"
        context = driver_context(tmp_path / installation, installation=installation, user_authority=authority)
        made.append(EC2Driver(EC2Settings(**(values | more)), context))
        return made[-1]

    yield driver
    proxy.heal()
    for one in made:
        for holding in sorted(await one.holdings(), key=lambda held: held.instance_id == SHARED):
            await one.destroy(holding.instance_id, holding.handle)
        await one.close()
    assert moto.machines() == []


async def test_credentials_of_another_account_say_nothing_of_our_machines(
    moto: Moto, make: Make, proxy: MotoProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = make()
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    later = Handle(data={**handle.data, "made": 0})  # no listing that lags behind
    assert handle.data["account"] == "123456789012"
    strangers = "111122223333"
    with contextlib.closing(boto3.client("sts", region_name=REGION, endpoint_url=moto.url)) as sts:
        role = sts.assume_role(RoleArn=f"arn:aws:iam::{strangers}:role/r", RoleSessionName="test")[
            "Credentials"
        ]
    names = {"AWS_ACCESS_KEY_ID": "AccessKeyId", "AWS_SECRET_ACCESS_KEY": "SecretAccessKey"}
    with monkeypatch.context() as changed:
        for name, key in {**names, "AWS_SESSION_TOKEN": "SessionToken"}.items():
            changed.setenv(name, role[key])
        other = make()  # as after a restart
        old = Handle(data={key: value for key, value in later.data.items() if key != "account"})
        assert (await other.observe({spec.id: old}))[spec.id].phase is Phase.GONE, "nobody knows whose it was"
        for _ in range(2):
            with pytest.raises(
                InvalidSettings, match=f"another account, {strangers}; its machines are in 1234"
            ):
                await other.observe({spec.id: later})
        with pytest.raises(InvalidSettings, match="another account"):
            await other.destroy(spec.id, later)
    assert (await other.observe({spec.id: later}))[spec.id].phase is not Phase.GONE, "they were put right"
    await driver.destroy(spec.id, handle)
    proxy.fail("Action=GetCallerIdentity", 9, status=400, body=refusal("InvalidAction", "Not here."))
    gone = Handle(data={**later.data, "machine": "i-0123456789abcdef0"})
    assert (await driver.observe({spec.id: gone}))[spec.id].phase is Phase.GONE, "a cloud that does not tell"
    await driver.destroy(spec.id, gone)


async def spec_of(driver: EC2Driver, **asked: Any) -> Spec:
    request = Request(**({"memory": "1GiB"} | asked))
    offers = [one for one in await driver.offers(request) if one.available]
    assert offers
    return Spec(id=f"t-{secrets.token_hex(5)}", owner="ada", request=request, offer=offers[0])


# Refusals

REFUSALS = [
    (500, "InsufficientInstanceCapacity", NoCapacity),
    (400, "Unsupported", NoCapacity),
    (400, "SpotMaxPriceTooLow", NoCapacity),
    (400, "InstanceLimitExceeded", QuotaExceeded),
    (400, "VcpuLimitExceeded", QuotaExceeded),
    (400, "MaxSpotInstanceCountExceeded", QuotaExceeded),
    (503, "RequestLimitExceeded", Throttled),
    (400, "Throttling", Throttled),
    (429, "SomethingNew", Throttled),
    (500, "InternalError", Transient),
    (503, "Unavailable", Transient),
    (401, "AuthFailure", InvalidSettings),
    (400, "ExpiredToken", InvalidSettings),
    (400, "RequestExpired", InvalidSettings),
    (403, "UnauthorizedOperation", InvalidSettings),
    (400, "OptInRequired", InvalidSettings),
    (400, "InvalidAMIID.NotFound", InvalidRequest),
    (400, "InvalidParameterValue", InvalidRequest),
]


async def test_refusals_in_our_words_and_amazons(make: Make, proxy: MotoProxy, moto: Moto) -> None:
    driver = make()
    spec = await spec_of(driver)
    for status, code, kind in REFUSALS:
        proxy.fail("Action=RunInstances", status=status, body=refusal(code, "It cannot be."))
        with pytest.raises(GridcloudError, match=f"It cannot be.*{code}") as caught:
            await driver.create(spec)
        assert type(caught.value) is kind, code
        assert caught.value.__cause__ is not None
        assert caught.value.remedy or kind is Throttled or code in ("InternalError", "Unavailable")
    await driver.destroy(spec.id, None)
    assert moto.machines() == []
    assert {one.instance_id for one in await driver.holdings()} <= {SHARED}


async def test_amazons_library_tries_again(
    make: Make, proxy: MotoProxy, moto: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As it is outside of these tests.
    monkeypatch.setattr(ec2_wire, "TRIES", 3)
    driver = make()
    spec = await spec_of(driver)
    proxy.fail("Action=RunInstances", forward=True, drop=True)
    handle = await driver.create(spec)
    assert proxy.count("Action=RunInstances") == 2
    assert [one["InstanceId"] for one in moto.machines()] == [handle.data["machine"]]


async def test_an_offer_that_was_refused_does_not_spoil_the_next(
    make: Make, proxy: MotoProxy, moto: Moto
) -> None:
    driver = make()
    spec = await spec_of(driver)
    second = (await driver.offers(spec.request))[1]
    proxy.fail("Action=RunInstances", status=500, body=refusal("InsufficientInstanceCapacity", "Full."))
    with pytest.raises(NoCapacity):
        await driver.create(spec)
    await driver.create(spec.model_copy(update={"offer": second}))
    [machine] = moto.machines()
    assert machine["Placement"]["AvailabilityZone"] == second.location
    tokens = {
        one.partition("ClientToken=")[2].partition("&")[0] for one in proxy.asked if "RunInstances" in one
    }
    assert len(tokens) == 2, "a token stands for one offer: with another one Amazon would refuse it"


async def test_a_quota_is_told_with_figures_before_anything_is_asked_for(
    make: Make, proxy: MotoProxy
) -> None:
    driver = make()
    proxy.fail("L-1216C47A", status=200, body=json.dumps({"Quota": {"Value": 1.0}}), content=JSON)
    for offer in await driver.offers(Request(memory="1GiB")):
        assert offer.possible
        assert not offer.available
        assert "1 vCPUs" in offer.why_not


async def test_prices_from_the_list_are_kept_for_a_day(make: Make, proxy: MotoProxy) -> None:
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": "0.0216"}}
    product = {
        "product": {"attributes": {"instanceType": "t3.small"}},
        "terms": {"OnDemand": {"a": {"priceDimensions": {"b": dimension}}}},
    }
    proxy.fail(
        "AmazonEC2", 1, status=200, body=json.dumps({"PriceList": [json.dumps(product)]}), content=JSON
    )
    driver = make(prices={}, price_list=True, price_factor="0.5")
    for _ in range(400):
        offer = (await driver.offers(Request(memory="1GiB")))[0]
        if offer.priced:
            break
        await asyncio.sleep(0.05)
    assert offer.price == Decimal("0.0108")
    again = make(prices={}, price_list=True)
    assert (await again.offers(Request(memory="1GiB")))[0].price == Decimal("0.0216")
    assert proxy.count("AmazonEC2") == 1


# Answers that are lost or broken

LOST: list[dict[str, Any]] = [
    {"forward": True, "drop": True},
    {"forward": True, "cut": 0.5},
    {"forward": True, "cut": 0.5, "garble": True},
    {"forward": True, "status": 500, "body": refusal("InternalError", "Oh.")},
    {"forward": True, "status": 502, "body": "<html>Bad gateway</html>"},
]


@pytest.mark.parametrize("how", LOST, ids=["drop", "cut", "half", "500", "502"])
async def test_a_launch_whose_answer_is_lost_makes_one_machine(
    make: Make, proxy: MotoProxy, moto: Moto, how: dict[str, Any]
) -> None:
    driver = make()
    spec = await spec_of(driver)
    proxy.fail("Action=RunInstances", **how)
    try:
        first: Handle | None = await driver.create(spec)
    except Transient:
        first = None
    handle = await driver.create(spec)
    assert first in (None, handle) or (first and first.data["machine"] == handle.data["machine"])
    assert [one["InstanceId"] for one in moto.machines()] == [handle.data["machine"]]
    await driver.destroy(spec.id, None)
    assert moto.machines() == []


BROKEN: list[dict[str, Any]] = [
    {"drop": True},
    {"forward": True, "cut": 0.5},
    {"forward": True, "cut": 0.5, "garble": True},
    {"forward": True, "cut": 0.0, "garble": True},
    {"status": 500, "body": refusal("InternalError", "Oh.")},
    {"status": 503, "body": refusal("RequestLimitExceeded", "Slow down.")},
    {"status": 200, "body": "<html><body>Please log in</body></html>"},
]


@pytest.mark.parametrize("how", BROKEN, ids=["drop", "cut", "half", "nothing", "500", "throttled", "portal"])
async def test_a_broken_answer_is_never_taken_for_an_empty_account(
    make: Make, proxy: MotoProxy, moto: Moto, how: dict[str, Any]
) -> None:
    driver = make()
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: driver.observe({spec.id: handle}),
        driver.holdings,
        lambda: driver.destroy(spec.id, None),
    ]
    for call in calls:
        proxy.fail(LISTING, **how)
        with pytest.raises(Transient):
            await call()
        proxy.heal()
    assert len(moto.machines()) == 1


async def test_silence_ends_in_time(make: Make, proxy: MotoProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not to wait for real seconds: that the limit counts is what is tried.
    monkeypatch.setattr(ec2_wire, "READ", 0.3)
    driver = make()
    spec = await spec_of(driver)
    proxy.fail("Action=RunInstances", seconds=1, drop=True)
    with pytest.raises(Unreachable):
        await driver.create(spec)


async def test_credentials_that_expire_meanwhile(make: Make, proxy: MotoProxy, moto: Moto) -> None:
    driver = make()
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    proxy.fail("", 1000, status=403, body=refusal("ExpiredToken", "The token has expired."))
    for call in (lambda: driver.observe({spec.id: handle}), driver.holdings):
        with pytest.raises(GridcloudError, match="expired"):
            await call()
    [finding] = await driver.check()
    assert not finding.ok
    assert "aws sso login" in finding.remedy
    proxy.heal()
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.RUNNING


# Listings that lag behind, and things that go


async def test_a_machine_that_is_not_listed_yet_is_not_gone(
    make: Make, proxy: MotoProxy, moto: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = make()
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    # Each look asks twice: for what lives, and for this one.
    proxy.fail(LISTING, 5, status=200, body=EMPTY)
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.PENDING
    assert (await driver.create(spec)).data["machine"] == handle.data["machine"], "the token finds it"
    # As if much time had gone by.
    monkeypatch.setattr(ec2, "APPEARING", -1)
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.GONE
    assert len(moto.machines()) == 1
    proxy.fail(LISTING, 1, status=200, body=EMPTY)
    await driver.destroy(spec.id, handle)
    assert moto.machines() == []


async def test_settings_that_changed_between_two_tries_of_one_launch(
    make: Make, proxy: MotoProxy, moto: Moto
) -> None:
    driver, changed = make(), make(disk="50GiB")
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    proxy.fail(LISTING, 1, status=200, body=EMPTY)  # so that the second tries to launch, too
    assert (await changed.create(spec)).data["machine"] == handle.data["machine"]
    assert proxy.count("Action=RunInstances") == 2
    assert len(moto.machines()) == 1


async def test_a_subnet_that_went_since_the_offer(make: Make, proxy: MotoProxy, moto: Moto) -> None:
    vpc = moto.ec2.create_vpc(CidrBlock="10.99.0.0/16")["Vpc"]["VpcId"]
    subnet = moto.ec2.create_subnet(VpcId=vpc, CidrBlock="10.99.1.0/24")["Subnet"]["SubnetId"]
    driver = make(subnets=subnet)
    spec = await spec_of(driver)
    moto.ec2.delete_subnet(SubnetId=subnet)
    with pytest.raises(InvalidSettings, match=subnet):
        await driver.create(spec)
    await driver.destroy(spec.id, None)
    with pytest.raises(InvalidSettings, match=subnet):
        await driver.offers(Request(memory="1GiB"))
    await driver.destroy(SHARED, None)
    moto.ec2.delete_vpc(VpcId=vpc)


async def test_a_spot_machine_that_amazon_took_back_says_so(make: Make, proxy: MotoProxy, moto: Moto) -> None:
    driver = make()
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    why = b"Server.SpotInstanceTermination: Spot instance termination"
    moto.ec2.terminate_instances(InstanceIds=[handle.data["machine"]])
    proxy.fail(
        LISTING,
        2,
        forward=True,
        rewrite=lambda body: body.replace(
            b"Client.UserInitiatedShutdown: User initiated shutdown", why
        ).replace(b"Client.UserInitiatedShutdown", b"Server.SpotInstanceTermination"),
    )
    seen = (await driver.observe({spec.id: handle}))[spec.id]
    assert seen.phase in (Phase.FAILED, Phase.GONE)
    assert "Server.SpotInstanceTermination" in seen.detail


async def test_listings_are_read_to_the_last_page(make: Make, proxy: MotoProxy, moto: Moto) -> None:
    driver = make()
    specs = [await spec_of(driver) for _ in range(3)]
    handles = {spec.id: await driver.create(spec) for spec in specs}
    asked = proxy.fail(LISTING, 100, forward=True, ask=lambda body: body + b"&MaxResults=1")
    seen = await driver.observe(handles)
    assert {one.phase for one in seen.values()} == {Phase.RUNNING}
    assert len(asked.seen) >= 3  # moto tells of terminated ones, too
    assert {one.instance_id for one in await driver.holdings()} == {*handles, SHARED}
