"""The ec2 driver on moto's EC2, with real machines behind it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.labs.ground import Ground, missing_for_ground
from tests.labs.moto import CREDENTIALS, REGION, Moto, moto_server

from gridcloud.drivers.instances.ec2 import EC2Driver
from gridcloud.drivers.instances.ec2_prices import read_product
from gridcloud.drivers.instances.ec2_settings import EC2Settings
from gridcloud.drivers.instances.ec2_things import INSTALLATION, INSTANCE, PROVIDER
from gridcloud.drivers.instances.ec2_wire import Wire
from gridcloud.errors import InvalidRequest, InvalidSettings, Rejected, Transient, Unreachable
from gridcloud.instances.driver import Discovering, Expiring, Imaging
from gridcloud.instances.model import SHARED, Phase, Request, Spec
from gridcloud.testing.instances import InstanceDriverContract, driver_context

NEEDS_GROUND = [
    pytest.mark.needs_root,
    pytest.mark.skipif(missing_for_ground() is not None, reason=f"NOT TESTED: {missing_for_ground()}"),
]
PRICES = {"t3.small": 0.02, "t3.medium": 0.04, "t3.*": 0.1}

Make = Callable[..., EC2Driver]


@pytest.fixture(scope="module")
def server() -> Iterator[Moto]:
    with moto_server() as moto:
        yield moto


@pytest.fixture
def moto(server: Moto) -> Iterator[Moto]:
    """The server with nothing running, and nothing left afterwards that a test made itself."""
    yield server
    ids = [one["InstanceId"] for one in server.machines()]
    if ids:
        server.ec2.terminate_instances(InstanceIds=ids)


def settings_of(moto: Moto, **more: Any) -> EC2Settings:
    values: dict[str, Any] = {
        "driver": "ec2",
        "region": REGION,
        "endpoint": moto.url,
        "image": moto.image()["ImageId"],
        "shapes": ["t3.small", "t3.medium"],
        "prices": PRICES,
        "price_list": False,
        "allow_from": "192.0.2.0/24",
        "user": "root",
    }
    return EC2Settings(**(values | more))


@pytest.fixture
async def make(moto: Moto, tmp_path: Path) -> AsyncIterator[Make]:
    """Make drivers of this account, closed afterwards."""
    made: list[EC2Driver] = []
    installations: set[str] = set()

    def driver(installation: str = "gridcloud-test", **more: Any) -> EC2Driver:
        folder = tmp_path / installation
        context = driver_context(folder, installation=installation, user_authority="ssh-ed25519 A")
        installations.add(installation)
        made.append(EC2Driver(settings_of(moto, **more), context))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield driver
        for one in made[:]:
            await one.close()
        for name in installations:
            cleaner = driver(name)
            for holding in sorted(await cleaner.holdings(), key=lambda held: held.instance_id == SHARED):
                await cleaner.destroy(holding.instance_id, holding.handle)
            await cleaner.close()


async def spec_of(driver: EC2Driver, **asked: Any) -> Spec:
    request = Request(**({"memory": "1GiB"} | asked))
    offers = [one for one in await driver.offers(request) if one.available]
    assert offers
    return Spec(id=f"t-{secrets.token_hex(5)}", owner="ada", request=request, offer=offers[0])


@pytest.mark.needs_root
class TestContract(InstanceDriverContract):
    pytestmark = NEEDS_GROUND
    request_ = Request(cpus=1, memory=1 << 30)
    most = 3

    @pytest.fixture
    async def driver(self, moto: Moto, tmp_path: Path) -> AsyncIterator[EC2Driver]:
        async with Ground(moto.look) as ground:
            driver = EC2Driver(settings_of(moto, instances=2), ground.context(tmp_path / "driver"))
            yield driver
            await driver.close()


async def test_capabilities(make: Make) -> None:
    driver = make()
    assert isinstance(driver, Imaging)
    assert isinstance(driver, Expiring)
    assert isinstance(driver, Discovering)


async def test_four_choices_are_told(make: Make, moto: Moto) -> None:
    offers = await make().offers(Request(cpus=1, memory=1 << 30))
    best = offers[0]
    assert [step.step for step in best.steps] == ["image", "shape", "location", "network"]
    assert all(step.chosen and step.why for step in best.steps)
    assert (best.shape.name, best.price, best.priced) == ("t3.small", Decimal("0.02"), True)
    assert {offer.location for offer in offers if offer.shape.name == "t3.small"} == {
        f"{REGION}{zone}" for zone in "abc"
    }


async def test_prices_that_are_not_known_are_not_nothing(make: Make) -> None:
    offers = await make(prices={}, shapes="t3.*").offers(Request())
    assert offers
    assert not any(offer.priced for offer in offers)


async def test_shapes_locations_and_images(make: Make, moto: Moto) -> None:
    driver = make(shapes="*", images=["amzn2-*"], prices={})
    [never] = await driver.offers(Request(gpus=1, gpu_model="nonesuch"))
    assert not never.possible
    gpus = await driver.offers(Request(gpus=1, gpu_model="T4"))
    assert gpus[0].shape.gpus >= 1
    assert "T4" in gpus[0].shape.gpu_model
    [elsewhere] = await driver.offers(Request(location="mars-1a"))
    assert "no location 'mars-1a'" in elsewhere.why_not
    here = await driver.offers(Request(location=f"{REGION}b"))
    assert {offer.location for offer in here} == {f"{REGION}b"}
    [strange] = await driver.offers(Request(image="debian-*"))
    assert "may not be asked for" in strange.why_not
    newest = await driver.offers(Request(image="amzn2-*"))
    assert newest[0].image.startswith("ami-")
    found = await driver.discover()
    assert found.images
    assert len(found.shapes) > 300
    assert [one.id for one in found.locations] == [f"{REGION}{zone}" for zone in "abc"]


async def test_what_is_made_is_closed_tagged_and_encrypted(make: Make, moto: Moto) -> None:
    driver = make()
    spec = await spec_of(driver, disk="30GiB")
    await driver.create(spec)
    [machine] = moto.machines()
    tags = {one["Key"]: one["Value"] for one in machine["Tags"]}
    assert tags[INSTALLATION] == "gridcloud-test"
    assert (tags[PROVIDER], tags[INSTANCE]) == ("under-test", spec.id)
    assert machine["MetadataOptions"]["HttpTokens"] == "required"
    [group] = moto.ec2.describe_security_groups(
        GroupIds=[machine["NetworkInterfaces"][0]["Groups"][0]["GroupId"]]
    )["SecurityGroups"]
    [rule] = group["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
    assert [one["CidrIp"] for one in rule["IpRanges"]] == ["192.0.2.0/24"]
    [disk] = moto.ec2.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [machine["InstanceId"]]}]
    )["Volumes"]
    assert (disk["Size"], disk["Encrypted"]) == (30, True)
    assert {one.what for one in await driver.holdings()} == {"machine", "security group"}


async def test_what_is_not_ours_is_never_touched(make: Make, moto: Moto) -> None:
    theirs = make(installation="another-gridcloud")
    other = await spec_of(theirs)
    held = await theirs.create(other)
    image = moto.image()["ImageId"]
    stranger = moto.ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    volume = moto.ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1)["VolumeId"]
    ours = make()
    assert await ours.holdings() == []
    await ours.destroy(other.id, held)
    await ours.destroy(SHARED, None)
    assert {one["InstanceId"] for one in moto.machines()} == {stranger, held.data["machine"]}
    assert (await theirs.observe({other.id: held}))[other.id].phase is not Phase.GONE
    moto.ec2.delete_volume(VolumeId=volume)


async def test_shared_things_stay_while_they_are_used(make: Make) -> None:
    driver = make()
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    with pytest.raises(Transient, match="still use"):
        await driver.destroy(SHARED, None)
    await driver.destroy(spec.id, handle)
    await driver.destroy(SHARED, None)
    assert await driver.holdings() == []
    again = await spec_of(driver)
    await driver.destroy(again.id, await driver.create(again))


async def test_a_group_that_vanishes_is_made_again(make: Make, moto: Moto) -> None:
    driver = make()
    first = await spec_of(driver)
    await driver.destroy(first.id, await driver.create(first))
    [group] = [one.name for one in await driver.holdings()]
    moto.ec2.delete_security_group(GroupId=group)
    second = await spec_of(driver)
    handle = await driver.create(second)
    await driver.destroy(second.id, handle)


async def test_left_over_disks_and_interfaces_are_removed(make: Make, moto: Moto) -> None:
    driver = make()
    spec = await spec_of(driver)
    tags = [
        {"Key": INSTALLATION, "Value": "gridcloud-test"},
        {"Key": PROVIDER, "Value": "under-test"},
        {"Key": INSTANCE, "Value": spec.id},
    ]
    moto.ec2.create_volume(
        AvailabilityZone=f"{REGION}a", Size=1, TagSpecifications=[{"ResourceType": "volume", "Tags": tags}]
    )
    subnet = moto.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    moto.ec2.create_network_interface(
        SubnetId=subnet, TagSpecifications=[{"ResourceType": "network-interface", "Tags": tags}]
    )
    assert sorted(one.what for one in await driver.holdings()) == ["disk", "network interface"]
    await driver.destroy(spec.id, None)
    assert await driver.holdings() == []


async def test_a_machine_that_was_stopped_has_failed_and_one_taken_back_says_why(
    make: Make, moto: Moto
) -> None:
    driver = make()
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    moto.ec2.stop_instances(InstanceIds=[handle.data["machine"]])
    seen = (await driver.observe({spec.id: handle}))[spec.id]
    assert seen.phase is Phase.FAILED
    assert "stopped" in seen.detail
    moto.ec2.terminate_instances(InstanceIds=[handle.data["machine"]])
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.GONE


async def test_spot(make: Make, moto: Moto) -> None:
    driver = make(prices={})
    offers = await driver.offers(Request(spot=True))
    assert offers[0].spot
    assert offers[0].priced
    spec = Spec(id="t-spot", owner="ada", request=Request(spot=True), offer=offers[0])
    handle = await driver.create(spec)
    [machine] = moto.machines()
    assert machine.get("InstanceLifecycle") == "spot"
    await driver.destroy(spec.id, handle)


async def test_check_tells_what_is_wrong(make: Make) -> None:
    assert all(one.ok for one in await make().check())
    [finding] = [
        one for one in await make(subnets="subnet-0123456789abcdef0").check() if one.subject == "network"
    ]
    assert not finding.ok
    assert "subnet-0123456789abcdef0" in finding.message
    assert finding.remedy
    wrong = {one.subject: one for one in await make(prices={}, image="nonesuch-*").check()}
    assert [one.subject for one in wrong.values() if not one.ok] == ["image"], "one cause is told once"
    for subject, said in (("prices", "budgets"), ("quota", "refused"), ("rights", "not tried")):
        assert not wrong[subject].known
        assert said in wrong[subject].message
        assert wrong[subject].remedy


async def test_an_image_that_went_since_the_offer_is_refused(make: Make) -> None:
    driver = make()
    spec = await spec_of(driver)
    gone = spec.model_copy(update={"offer": spec.offer.model_copy(update={"image": "ami-00000000000000000"})})
    with pytest.raises(InvalidRequest, match="ami-00000000000000000"):
        await driver.create(gone)
    foreign = spec.model_copy(update={"offer": spec.offer.model_copy(update={"choice": {}})})
    with pytest.raises(Rejected, match="did not make this offer"):
        await driver.create(foreign)


async def test_no_answer_and_a_wrong_region_are_told(make: Make) -> None:
    with pytest.raises(Unreachable, match="Does a server answer there"):
        await make(endpoint="http://127.0.0.1:9").offers(Request())


def test_who_may_reach_ssh_has_to_be_said() -> None:
    with pytest.raises(ValueError, match="allow_from"):
        EC2Settings(driver="ec2", region=REGION, image="x")
    with pytest.raises(ValueError, match="no range"):
        EC2Settings(driver="ec2", region=REGION, image="x", allow_from=("everywhere",))


def test_without_credentials(moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    for profile, words in (("", "no credentials"), ("nonesuch", "nonesuch")):
        wire = Wire(settings_of(moto, profile=profile), "cloud")
        with pytest.raises(InvalidSettings, match=words):
            wire.call("describe_instances")
        wire.close()


def test_the_price_list_is_read() -> None:
    product = {
        "product": {"attributes": {"instanceType": "t3.small"}},
        "terms": {
            "OnDemand": {
                "a": {"priceDimensions": {"b": {"unit": "Hrs", "pricePerUnit": {"USD": "0.0216000000"}}}}
            }
        },
    }
    assert read_product(product) == {"t3.small": Decimal("0.0216")}
    assert read_product({}) == {}
