"""The `openstack` driver on OpenStack itself; only the machines behind its servers are stood in for."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.labs.ground import Ground
from tests.labs.openstack import OpenStack, Project

from gridcloud.drivers.instances.openstack import OpenStackDriver
from gridcloud.drivers.instances.openstack_settings import OpenStackSettings
from gridcloud.errors import InvalidRequest, InvalidSettings, QuotaExceeded, Rejected, Unreachable
from gridcloud.instances.model import SHARED, Handle, Observation, Offer, Phase, Request, Spec
from gridcloud.testing.instances import InstanceDriverContract, driver_context

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(600),  # the first test may set the cloud up, and OpenStack is slow on few processors
    # The SDK says of its own calls that they will go, whatever is called.
    pytest.mark.filterwarnings("ignore::openstack.warnings.OpenStackDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning"),
]

IMAGE = "debian-12-*"
GIB = 1024**3

OpenDriver = Callable[..., OpenStackDriver]


@pytest.fixture(scope="session")
def project(openstack_cloud: OpenStack) -> Project:
    """A project in which two of the largest machines fit."""
    return openstack_cloud.make_project(cores=8, ram=16 * 1024, instances=6, floating_ips=6)


def settings_of(lab: OpenStack, project: Project, **more: Any) -> OpenStackSettings:
    """The settings of a provider in a project."""
    words = {
        "driver": "openstack",
        "cloud": project.cloud,
        "clouds_file": lab.clouds_file,
        "image": IMAGE,
        "allow_from": "192.0.2.0/24",
    }
    return OpenStackSettings.model_validate(words | more)


@pytest.fixture
async def open_driver(openstack_cloud: OpenStack, tmp_path: Path) -> AsyncIterator[OpenDriver]:
    """Makes drivers that are closed with the test, whatever they hold removed."""
    opened: list[OpenStackDriver] = []

    def make(project: Project, *, installation: str = "gridcloud-test", **settings: Any) -> OpenStackDriver:
        context = driver_context(tmp_path / installation, installation=installation)
        opened.append(OpenStackDriver(settings_of(openstack_cloud, project, **settings), context))
        return opened[-1]

    yield make
    for driver in opened:
        try:
            for instance_id in sorted({one.instance_id for one in await driver.holdings()} - {SHARED}):
                await driver.destroy(instance_id, None)
        except (InvalidSettings, Unreachable):
            pass  # a driver that was made to be refused
        await driver.close()


@pytest.fixture
def sdk(openstack_cloud: OpenStack) -> Any:
    """Opens connections of a project's own user, past the driver."""
    return openstack_cloud.connect


def user_data_by_address(cloud: Any) -> dict[str, str]:
    """What each server that runs was told at its first boot, by each of its addresses; only administrators see it."""
    return {
        one["addr"]: base64.b64decode(server.user_data).decode()
        for server in cloud.compute.servers(details=True, all_projects=True, status="ACTIVE")
        for addresses in server.addresses.values()
        for one in addresses
        if server.user_data
    }


async def best(driver: OpenStackDriver, **asked: Any) -> Offer:
    """The first offer for a request."""
    return (await driver.offers(Request(**({"cpus": 1, "memory": "512MiB"} | asked))))[0]


async def spec_of(driver: OpenStackDriver, **asked: Any) -> Spec:
    """A specification from the best offer, which is free."""
    offer = await best(driver, **asked)
    assert offer.available, offer.why_not
    request = Request(**({"cpus": 1, "memory": "512MiB"} | asked))
    return Spec(id=f"t-{secrets.token_hex(5)}", owner="ada", request=request, offer=offer)


async def settled(driver: OpenStackDriver, spec: Spec, handle: Handle) -> Observation:
    """What an instance has become."""
    async with asyncio.timeout(60):
        while True:
            seen = (await driver.observe({spec.id: handle}))[spec.id]
            if seen.phase is not Phase.PENDING:
                return seen
            await asyncio.sleep(0.3)


async def until(met: Callable[[], bool]) -> None:
    """Return when something is so; fail the test when it does not come to that."""
    for _ in range(100):
        if met():
            return
        await asyncio.sleep(0.3)
    pytest.fail("it did not come to that")


async def held(driver: OpenStackDriver) -> list[tuple[str, str]]:
    """What is held: id and kind of each."""
    return sorted((one.instance_id, one.what) for one in await driver.holdings())


class TestOpenStack(InstanceDriverContract):
    """The contract."""

    request_: ClassVar[Request] = Request(cpus=1, memory=512 * 1024**2)
    poll_seconds: ClassVar[float] = 0.3

    @pytest.fixture
    async def ground(self, openstack_cloud: OpenStack) -> AsyncIterator[Ground]:
        """The machines behind the servers."""
        with openstack_cloud.administrator() as cloud:
            async with Ground(lambda: user_data_by_address(cloud)) as ground:
                yield ground

    @pytest.fixture
    async def driver(
        self, openstack_cloud: OpenStack, project: Project, ground: Ground, tmp_path: Path
    ) -> AsyncIterator[OpenStackDriver]:
        driver = OpenStackDriver(settings_of(openstack_cloud, project, user="root"), ground.context(tmp_path))
        yield driver
        await driver.close()

    async def test_armed_machines_note_when_they_end(self, driver: OpenStackDriver, ground: Ground) -> None:
        spec = await self.spec(driver)
        handle = await driver.create(spec)
        await self.running(driver, spec, handle)
        at = datetime.now(UTC) + timedelta(hours=2)
        await driver.arm(spec.id, handle, at)
        noted = int(ground.armed(str(handle.data["host"])).read_text().split()[0])
        assert abs(noted - at.timestamp()) < 60


# What is chosen, and why


async def test_four_choices_are_told(open_driver: OpenDriver, project: Project) -> None:
    offer = await best(open_driver(project))
    steps = {one.step: one for one in offer.steps}
    assert set(steps) == {"image", "shape", "location", "network"}
    assert steps["image"].chosen.startswith("debian-12-2026-")
    assert "the newest of 2" in steps["image"].why
    assert steps["shape"].chosen == "m1.tiny"
    assert steps["location"].chosen == "RegionOne"
    assert steps["network"].chosen.startswith(project.network)
    assert "addresses from outside" in steps["network"].why


async def test_all_there_is_can_be_discovered(open_driver: OpenDriver, project: Project) -> None:
    driver = open_driver(project, images=["ubuntu-*"])
    seen = await driver.discover()
    assert {one.name for one in seen.images} == {"debian-12-2026-01", "debian-12-2026-03", "ubuntu-24.04"}
    assert {one.name for one in seen.networks} == {project.network, "outside"}
    assert [one.id for one in seen.locations] == ["zone-a"]
    gpus = {one.name: one.shape for one in seen.shapes if one.shape and one.shape.gpus}
    assert {name: (shape.gpus, shape.gpu_model) for name, shape in gpus.items()} == {
        "v1.a10": (1, "NVIDIA A10"),
        "g1.h100": (1, "NVIDIA H100"),
        "g1.h100x2": (2, "NVIDIA H100"),
    }
    assert list(await driver.images()) == [IMAGE, "debian-12-2026-01", "debian-12-2026-03", "ubuntu-24.04"]


async def test_a_location_can_be_asked_for(open_driver: OpenDriver, project: Project, sdk: Any) -> None:
    driver = open_driver(project)
    assert (await best(driver, location="zone-a")).location == "RegionOne/zone-a"
    nowhere = await best(driver, location="zone-b")
    assert not nowhere.possible
    assert "zone-a" in nowhere.why_not
    spec = await spec_of(driver, location="zone-a")
    handle = await driver.create(spec)
    assert (await settled(driver, spec, handle)).phase is Phase.RUNNING
    with sdk(project) as cloud:
        assert cloud.compute.get_server(handle.data["server"]).availability_zone == "zone-a"


async def test_an_image_that_is_not_there(open_driver: OpenDriver, project: Project) -> None:
    driver = open_driver(project, images=["*"])
    offer = await best(driver, image="debian-13")
    assert not offer.possible
    assert "debian-12" in offer.why_not
    with pytest.raises(InvalidSettings, match="no-such"):
        await best(open_driver(project, image="no-such"))
    not_allowed = await best(open_driver(project), image="ubuntu-24.04")
    assert not not_allowed.possible
    assert "may not be asked for" in not_allowed.why_not


# GPUs


async def test_gpus_are_given_until_the_host_has_no_more(
    open_driver: OpenDriver, openstack_cloud: OpenStack
) -> None:
    rich = openstack_cloud.make_project(cores=100, ram=1024 * 1024, instances=10)
    driver = open_driver(rich)
    assert (await best(driver, gpus=2, gpu_model="h100")).shape.name == "g1.h100x2"
    specs = [await spec_of(driver, gpus=2, gpu_model="H100") for _ in range(3)]
    handles = [await driver.create(spec) for spec in specs]
    seen = [await settled(driver, spec, handle) for spec, handle in zip(specs, handles, strict=True)]
    assert [one.phase for one in seen] == [Phase.RUNNING, Phase.RUNNING, Phase.FAILED]
    assert "No valid host" in seen[2].detail
    await driver.destroy(specs[2].id, handles[2])
    assert specs[2].id not in {one for one, _ in await held(driver)}


# Quotas


async def test_a_quota_is_told_with_figures_before_anything_is_made(
    open_driver: OpenDriver, openstack_cloud: OpenStack
) -> None:
    driver = open_driver(openstack_cloud.make_project(cores=2, ram=8 * 1024, instances=5))
    spec = await spec_of(driver, cpus=2)
    handle = await driver.create(spec)
    assert (await settled(driver, spec, handle)).phase is Phase.RUNNING
    offer = await best(driver, cpus=2)
    assert offer.possible
    assert not offer.available
    assert offer.why_not == "the project's quota: 0 of 2 CPUs left, 2 needed"
    before = await held(driver)
    with pytest.raises(QuotaExceeded, match="0 of 2 CPUs left"):
        await driver.create(spec.model_copy(update={"id": "t-too-much"}))
    assert await held(driver) == before
    never = await best(driver, cpus=4)
    assert not never.possible
    assert "beyond the project's quota: 2 CPUs at most" in never.why_not


async def test_floating_addresses_that_are_used_up(
    open_driver: OpenDriver, openstack_cloud: OpenStack
) -> None:
    project = openstack_cloud.make_project(floating_ips=1)
    driver = open_driver(project)
    spec = await spec_of(driver)
    await driver.create(spec)
    offer = await best(driver)
    assert not offer.available
    assert "0 of 1 floating addresses left, 1 needed" in offer.why_not
    inside = open_driver(project, public_address=False)
    other = await spec_of(inside)
    handle = await inside.create(other)
    assert str(handle.data["host"]).startswith("10.20.0.")


async def test_no_more_machines_than_the_configuration_says(
    open_driver: OpenDriver, project: Project
) -> None:
    driver = open_driver(project, instances=1)
    spec = await spec_of(driver)
    await driver.create(spec)
    assert "1 of 1 machines are taken" in (await best(driver)).why_not
    with pytest.raises(QuotaExceeded):
        await driver.create(spec.model_copy(update={"id": "t-one-more"}))


# What is wrong is said


async def test_a_wrong_password(
    open_driver: OpenDriver, openstack_cloud: OpenStack, project: Project
) -> None:
    wrong = openstack_cloud.describe(project, cloud="wrong-password", password="no")
    driver = open_driver(project, cloud=wrong)
    with pytest.raises(InvalidSettings, match="credentials are refused") as caught:
        await best(driver)
    assert "clouds.yaml" in caught.value.remedy
    findings = await driver.check()
    assert [(one.subject, one.ok) for one in findings] == [("credentials", False)]


async def test_a_wrong_region(open_driver: OpenDriver, openstack_cloud: OpenStack, project: Project) -> None:
    driver = open_driver(project, region="Atlantis")
    with pytest.raises(InvalidSettings, match=r"no region 'Atlantis'.*RegionOne"):
        await best(driver)
    elsewhere = openstack_cloud.describe(project, cloud="elsewhere", region="Lemuria")
    with pytest.raises(InvalidSettings, match="no region 'Lemuria'") as caught:
        await best(open_driver(project, cloud=elsewhere))
    assert "RegionOne" in caught.value.remedy


async def test_a_cloud_that_is_not_in_the_file(
    open_driver: OpenDriver, project: Project, tmp_path: Path
) -> None:
    with pytest.raises(InvalidSettings, match="no-such-cloud"):
        await best(open_driver(project, cloud="no-such-cloud"))
    with pytest.raises(InvalidSettings, match="no file"):
        await best(open_driver(project, clouds_file=tmp_path / "none.yaml"))


async def test_a_cloud_that_does_not_answer(
    open_driver: OpenDriver, openstack_cloud: OpenStack, project: Project
) -> None:
    dead = openstack_cloud.describe(project, cloud="dead", url="http://127.0.0.1:9/v3/")
    driver = open_driver(project, cloud=dead)
    with pytest.raises(Unreachable):
        await best(driver)
    with pytest.raises(Unreachable):
        await driver.destroy("t-unknown", None)
    findings = await driver.check()
    assert not findings[0].ok
    assert findings[0].remedy


async def test_a_network_that_is_gone(open_driver: OpenDriver, openstack_cloud: OpenStack, sdk: Any) -> None:
    project = openstack_cloud.make_project()
    with sdk(project) as cloud:
        spare = cloud.network.create_network(name="spare")
        subnet = cloud.network.create_subnet(network_id=spare.id, ip_version=4, cidr="10.30.0.0/24")
        driver = open_driver(project, network="spare", public_address=False)
        spec = await spec_of(driver)
        cloud.network.delete_subnet(subnet)
        cloud.network.delete_network(spare)
    with pytest.raises(InvalidRequest, match="could not be found"):
        await driver.create(spec)
    await driver.destroy(spec.id, None)
    assert await held(driver) == []
    with pytest.raises(InvalidSettings, match="no network 'spare'") as caught:
        await best(driver)
    assert project.network in caught.value.remedy


async def test_several_networks_and_no_telling_which(
    open_driver: OpenDriver, openstack_cloud: OpenStack, sdk: Any
) -> None:
    project = openstack_cloud.make_project()
    with sdk(project) as cloud:
        other = cloud.network.create_network(name="other")
        cloud.network.create_subnet(network_id=other.id, ip_version=4, cidr="10.30.0.0/24")
    with pytest.raises(InvalidSettings, match="no telling which network") as caught:
        await best(open_driver(project))
    assert "other" in caught.value.remedy
    # No router joins this one to the outside: seen before, and told when it is tried all the same.
    driver = open_driver(project, network="other")
    network = next(one for one in await driver.check() if one.subject == "network")
    assert not network.ok
    spec = await spec_of(driver)
    with pytest.raises(Rejected, match="floating address") as refused:
        await driver.create(spec)
    assert "router" in refused.value.remedy
    await driver.destroy(spec.id, None)
    assert await held(driver) == []


async def test_a_new_project_without_a_network(open_driver: OpenDriver, openstack_cloud: OpenStack) -> None:
    # Neutron shows everybody the outer network, and lets nobody's machine into it.
    project = openstack_cloud.make_project(network=False)
    for words in ({}, {"network": "outside"}):
        with pytest.raises(InvalidSettings, match=r"network for machines.*outside|'outside', which gives"):
            await best(open_driver(project, **words))


async def test_check_tries_everything_and_starts_nothing(open_driver: OpenDriver, project: Project) -> None:
    driver = open_driver(project)
    findings = {one.subject: one for one in await driver.check()}
    assert set(findings) == {"credentials", "image", "shapes", "network", "quota"}
    assert all(one.ok for one in findings.values()), findings
    assert "0 of 8 CPUs" in findings["quota"].message
    assert await held(driver) == []


# Disks


async def test_a_volume_goes_with_its_machine(open_driver: OpenDriver, project: Project, sdk: Any) -> None:
    driver = open_driver(project, volume="always", disk="12GiB")
    spec = await spec_of(driver, disk="15GiB")
    assert spec.offer.shape.disk == 15 * GIB
    handle = await driver.create(spec)
    assert (await settled(driver, spec, handle)).phase is Phase.RUNNING
    with sdk(project) as cloud:
        (volume,) = cloud.block_storage.volumes()
        assert (volume.size, volume.status) == (15, "in-use")
        await driver.destroy(spec.id, handle)
        await until(lambda: not list(cloud.block_storage.volumes()))


async def test_what_a_flavor_lacks_is_on_a_volume(open_driver: OpenDriver, project: Project) -> None:
    small = await best(open_driver(project), disk="1TiB")
    assert (small.shape.name, small.shape.disk) == ("m1.tiny", 1024 * GIB)
    never = await best(open_driver(project, volume="never"), disk="1TiB")
    assert not never.possible
    assert "1TiB of disk asked" in never.why_not
    diskless = await best(open_driver(project, shapes=["m1.diskless"]))
    assert diskless.shape.disk > 0
    assert not (await best(open_driver(project, shapes=["m1.diskless"], volume="never"))).possible


async def test_volumes_beyond_the_quota(open_driver: OpenDriver, project: Project) -> None:
    offer = await best(open_driver(project, volume="always"), disk="5TiB")
    assert not offer.available
    assert "volume storage left, 5TiB needed" in offer.why_not


# Nothing is left, and nothing else is touched


async def test_half_made_things_are_held_and_go(open_driver: OpenDriver, openstack_cloud: OpenStack) -> None:
    driver = open_driver(openstack_cloud.make_project())
    spec = await spec_of(driver)
    broken = spec.model_copy(
        update={"offer": spec.offer.model_copy(update={"choice": spec.offer.choice | {"flavor": "no-such"}})}
    )
    with pytest.raises(InvalidRequest, match="no-such"):
        await driver.create(broken)
    assert await held(driver) == [
        (SHARED, "security group"),
        (spec.id, "address"),
        (spec.id, "network port"),
    ]
    # The next try takes what the first has left.
    handle = await driver.create(spec)
    assert len(await held(driver)) == 4
    assert (await settled(driver, spec, handle)).phase is Phase.RUNNING
    await driver.destroy(spec.id, None)
    assert await held(driver) == []


async def test_a_twin_is_removed(open_driver: OpenDriver, project: Project, sdk: Any) -> None:
    driver = open_driver(project)
    spec = await spec_of(driver)
    first = await driver.create(spec)
    with sdk(project) as cloud:
        elder = cloud.compute.get_server(first.data["server"])
        twin = cloud.compute.create_server(
            name=elder.name,
            flavor_id=spec.offer.choice["flavor"],
            image_id=spec.offer.choice["image"],
            networks=[{"uuid": spec.offer.choice["network"]}],
            metadata=dict(elder.metadata),
        )
        assert (await driver.create(spec)).data["server"] == elder.id
        await until(lambda: cloud.compute.find_server(twin.id) is None)
    assert (await settled(driver, spec, first)).phase is Phase.RUNNING


async def test_what_is_not_ours_is_never_touched(
    open_driver: OpenDriver, openstack_cloud: OpenStack, sdk: Any
) -> None:
    project = openstack_cloud.make_project()
    driver, neighbour = open_driver(project), open_driver(project, installation="another")
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    theirs = await neighbour.create(spec)
    with sdk(project) as cloud:
        # A stranger's, with our names, and words that only look like our marks.
        network = spec.offer.choice["network"]
        port = cloud.network.create_port(
            network_id=network, name=f"gridcloud-{spec.id}", description=f"gridcloud somebody {spec.id}"
        )
        group = cloud.network.create_security_group(name="gridcloud-group", description="gridcloud")
        server = cloud.compute.create_server(
            name=f"gridcloud-{spec.id}",
            flavor_id=spec.offer.choice["flavor"],
            image_id=spec.offer.choice["image"],
            networks=[{"port": port.id}],
        )
        cloud.compute.wait_for_server(server, wait=60, interval=1)
        assert {one for one, _ in await held(driver)} == {spec.id, SHARED}
        await driver.destroy(spec.id, handle)
        assert await held(driver) == []
        assert cloud.compute.get_server(server.id).status == "ACTIVE"
        assert cloud.network.get_port(port.id)
        assert cloud.network.get_security_group(group.id)
        cloud.compute.delete_server(server, force=False)
    assert (await settled(neighbour, spec, theirs)).phase is Phase.RUNNING
    assert {one for one, _ in await held(neighbour)} == {spec.id, SHARED}


async def test_a_machine_that_was_powered_off_has_failed(
    open_driver: OpenDriver, project: Project, sdk: Any
) -> None:
    driver = open_driver(project)
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    await settled(driver, spec, handle)
    with sdk(project) as cloud:
        server = cloud.compute.get_server(handle.data["server"])
        cloud.compute.stop_server(server)
        cloud.compute.wait_for_server(server, status="SHUTOFF", wait=30, interval=0.5)
    seen = (await driver.observe({spec.id: handle}))[spec.id]
    assert seen.phase is Phase.FAILED
    assert "powered off" in seen.detail


async def test_the_security_group_lets_in_only_whom_it_is_told(
    open_driver: OpenDriver, openstack_cloud: OpenStack, sdk: Any
) -> None:
    project = openstack_cloud.make_project()
    first = open_driver(project, allow_from=["198.51.100.0/24", "2001:db8::/32"])
    spec = await spec_of(first)
    await first.create(spec)
    with sdk(project) as cloud:
        assert doors_of(cloud, spec.id) == {("198.51.100.0/24", 22, 22), ("2001:db8::/32", 22, 22)}
        # What the configuration no longer says is taken back with the next machine.
        second = open_driver(project, allow_from="203.0.113.0/24")
        await second.create(spec.model_copy(update={"id": "t-second"}))
        assert doors_of(cloud, "t-second") == {("203.0.113.0/24", 22, 22)}


async def test_security_groups_of_ones_own(
    open_driver: OpenDriver, openstack_cloud: OpenStack, sdk: Any
) -> None:
    project = openstack_cloud.make_project()
    driver = open_driver(project, allow_from=(), security_groups=["doors"])
    spec = await spec_of(driver)
    with pytest.raises(InvalidSettings, match="no security group 'doors'"):
        await driver.create(spec)
    with sdk(project) as cloud:
        group = cloud.network.create_security_group(name="doors")
        await driver.create(spec)
        (port,) = cloud.network.ports(name=f"gridcloud-{spec.id}")
        assert port.security_group_ids == [group.id]
        await driver.destroy(spec.id, None)
        assert await held(driver) == []
        assert cloud.network.get_security_group(group.id)


def doors_of(cloud: Any, instance_id: str) -> set[tuple[str, int, int]]:
    """What may reach a machine: ranges of addresses and of ports."""
    (port,) = cloud.network.ports(name=f"gridcloud-{instance_id}")
    (group,) = port.security_group_ids
    rules = cloud.network.security_group_rules(security_group_id=group, direction="ingress")
    return {(rule.remote_ip_prefix, rule.port_range_min, rule.port_range_max) for rule in rules}
