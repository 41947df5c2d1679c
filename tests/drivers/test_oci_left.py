"""What the oci driver does not touch since it is not ours, and what of ours it finds again and removes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.labs.oracle import Oracle
from tests.labs.oracle_drivers import OracleDrivers, lab_of, live, running, spec_of

from gridcloud.drivers.instances.oci import OCIDriver
from gridcloud.errors import InvalidSettings, Transient
from gridcloud.instances.model import SHARED, Phase


@pytest.fixture
def cloud() -> Iterator[Oracle]:
    with Oracle() as cloud:
        cloud.tenancy.seconds = 0
        cloud.tenancy.add_compartment("lab")
        yield cloud


@pytest.fixture
async def make_driver(cloud: Oracle, tmp_path: Path) -> AsyncIterator[OracleDrivers]:
    drivers = OracleDrivers(cloud, tmp_path)
    yield drivers
    await drivers.close()


@pytest.fixture
def driver(make_driver: OracleDrivers) -> OCIDriver:
    return make_driver()


async def test_two_installations_share_a_compartment_and_touch_nothing_of_each_other(
    cloud: Oracle, make_driver: OracleDrivers
) -> None:
    ours, theirs = make_driver(), make_driver(installation="other")
    foreign = cloud.tenancy.add(
        "bootvolume",
        {
            "availabilityDomain": cloud.tenancy.domains[0],
            "compartmentId": lab_of(cloud),
            "lifecycleState": "AVAILABLE",
        },
    )
    foreign.words.update(sizeInGBs=50, sizeInMBs=51200)
    spec = await spec_of(ours)
    mine = await ours.create(spec)
    other = await theirs.create(spec.model_copy())  # the same id, by chance
    assert mine.data["id"] != other.data["id"]
    await ours.destroy(spec.id, other)
    assert [one.id for one in live(cloud)] == [other.data["id"]]
    await ours.destroy(SHARED, None)
    assert await ours.holdings() == []
    assert len(live(cloud, "vcn")) == 1
    assert foreign.lives


async def test_who_may_not_remove_is_not_told_that_it_is_gone(
    cloud: Oracle, make_driver: OracleDrivers
) -> None:
    driver = make_driver(user={"forbidden": ["delete"]})
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    for known in (handle, None):
        with pytest.raises(Transient, match="still there"):
            await driver.destroy(spec.id, known)
    live(cloud)[0].become("TERMINATED")
    for vnic in cloud.tenancy.of("vnic"):
        vnic.become("TERMINATED")
    with pytest.raises(Transient, match="still there"):
        await driver.destroy(SHARED, None)
    assert len(live(cloud, "vcn")) == 1


async def test_an_orphaned_disk_is_held_and_removed(cloud: Oracle, driver: OCIDriver) -> None:
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    await running(driver, spec, handle)
    (volume,) = live(cloud, "bootvolume")
    (attachment,) = cloud.tenancy.of("bootvolumeattachment")
    attachment.words["lifecycleState"] = "DETACHED"
    live(cloud)[0].become("TERMINATED")
    for vnic in cloud.tenancy.of("vnic"):
        vnic.become("TERMINATED")
    held = [one for one in await driver.holdings() if one.instance_id != SHARED]
    assert [(one.what, one.name, one.instance_id) for one in held] == [("disk", volume.id, spec.id)]
    await driver.destroy(spec.id, None)
    assert not live(cloud, "bootvolume")


def lose_machine(cloud: Oracle, machine_id: str, volume: str = "") -> None:
    """End a machine as Oracle's console does where the boot volume is to be kept."""
    machine = cloud.tenancy.things[machine_id]
    machine.become("TERMINATED")
    for kind in ("vnicattachment", "bootvolumeattachment"):
        for attachment in cloud.tenancy.of(kind, instanceId=machine_id):
            attachment.words["lifecycleState"] = "DETACHED"
            if volume and kind == "bootvolumeattachment":
                attachment.words["bootVolumeId"] = volume
    for vnic in cloud.tenancy.of("vnic"):
        vnic.become("TERMINATED")


async def test_a_disk_whose_machine_went_before_anybody_looked_is_found_by_that_machine(
    cloud: Oracle, make_driver: OracleDrivers
) -> None:
    driver, theirs = make_driver(), make_driver(installation="other")
    specs = [await spec_of(driver) for _ in range(2)]
    handles = [await driver.create(one) for one in specs]
    disks = {
        cloud.tenancy.things[one.words["bootVolumeId"]].words["displayName"]: one.words["bootVolumeId"]
        for one in cloud.tenancy.of("bootvolumeattachment")
    }
    assert not [one for one in live(cloud, "bootvolume") if one.tags], "nobody has looked yet"
    assert {one.what for one in await driver.holdings() if one.instance_id != SHARED} == {"machine"}
    for handle in handles:
        lose_machine(cloud, handle.data["id"])
    held = {one.instance_id: one for one in await driver.holdings() if one.instance_id != SHARED}
    assert {one.name for one in held.values()} == set(disks.values())
    assert {one.what for one in held.values()} == {"disk"}
    for spec in specs:
        assert disks[f"gridcloud-{spec.id} (Boot Volume)"] == held[spec.id].name
        await theirs.destroy(spec.id, None)
    assert await theirs.holdings() == []
    assert len(live(cloud, "bootvolume")) == 2
    await driver.destroy(specs[0].id, None)
    assert [one.id for one in live(cloud, "bootvolume")] == [held[specs[1].id].name]
    await driver.destroy(specs[1].id, handles[1])
    await driver.destroy(SHARED, None)
    assert not live(cloud, "bootvolume")
    assert await driver.holdings() == []


@pytest.mark.parametrize("name", ["my data", "gridcloud-{} (Boot Volume)", "gridcloud-t-0 (Boot Volume)"])
async def test_a_strangers_disk_stays_theirs(cloud: Oracle, driver: OCIDriver, name: str) -> None:
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    words = {"availabilityDomain": spec.offer.location, "compartmentId": lab_of(cloud), "sizeInGBs": 50}
    named = {"displayName": name.format(spec.id), "lifecycleState": "AVAILABLE", "sizeInMBs": 51200}
    strangers = cloud.tenancy.add("bootvolume", words | named)
    # One was put into our machine under a name of its own, one only has the name of ours, one has neither.
    lose_machine(cloud, handle.data["id"], strangers.id if name == "my data" else "")
    await driver.destroy(spec.id, handle)
    assert strangers.id not in {one.name for one in await driver.holdings()}
    assert strangers.lives


async def test_another_tenancy_under_the_same_names_is_not_believed(
    cloud: Oracle, make_driver: OracleDrivers, tmp_path: Path
) -> None:
    config = cloud.write_config(tmp_path)
    driver = make_driver(config_file=config)
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    right = config.read_text()
    # Whose key it is comes to be somebody's who sees another compartment of that name, and not ours.
    other = cloud.tenancy.add_compartment("lab")
    config.write_text(cloud.write_config(tmp_path, compartments=[cloud.tenancy.id, other]).read_text())
    await driver.close()
    driver._choices.forget()
    for known in (handle, handle):
        with pytest.raises(InvalidSettings, match="its machines are in"):
            await driver.observe({spec.id: known})
        with pytest.raises(InvalidSettings, match="its machines are in"):
            await driver.destroy(spec.id, known)
    assert [one.id for one in live(cloud)] == [handle.data["id"]]
    # Once it is put right, nothing has to be started anew.
    del cloud.tenancy.compartments[other]
    config.write_text(right)
    assert (await running(driver, spec, handle)).phase is Phase.RUNNING
    await driver.destroy(spec.id, handle)
    assert not live(cloud)
