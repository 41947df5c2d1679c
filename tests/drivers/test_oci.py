"""The oci driver against a server that verifies Oracle's signatures and holds every body to Oracle's models."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from tests.labs.oracle import Oracle
from tests.labs.oracle_drivers import OracleDrivers, lab_of, live, running, spec_of

from gridcloud.drivers.instances.oci import INSTALLATION, INSTANCE, OCIDriver
from gridcloud.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    InvalidSettings,
    NoCapacity,
    NotAuthenticated,
    QuotaExceeded,
    Throttled,
    TimedOut,
    Transient,
    Unreachable,
)
from gridcloud.instances.model import SHARED, Handle, Phase, Request, Spec


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


# What a machine is told and given


async def test_a_machine_gets_what_was_asked_and_no_more(cloud: Oracle, driver: OCIDriver) -> None:
    spec = await spec_of(driver, cpus=3, memory="7GiB", disk="80GiB", time=3600)
    assert [step.step for step in spec.offer.steps] == ["image", "location", "network"] or len(
        spec.offer.steps
    ) == 4
    assert spec.offer.shape.cpus == 4  # two OCPUs
    assert not spec.offer.priced
    handle = await driver.create(spec)
    assert (await running(driver, spec, handle)).phase is Phase.RUNNING
    (machine,) = live(cloud)
    words = machine.words
    assert words["shapeConfig"]["ocpus"] == 2
    assert words["shapeConfig"]["memoryInGBs"] == 7
    assert words["sourceDetails"]["bootVolumeSizeInGBs"] == 80
    assert words["instanceOptions"] == {"areLegacyImdsEndpointsDisabled": True}
    assert machine.tags[INSTALLATION] == "gridcloud-test"
    assert machine.tags[INSTANCE] == spec.id
    told = yaml.safe_load(base64.b64decode(words["metadata"]["user_data"]))
    assert told["ssh_keys"]["ed25519_public"].strip() == handle.data["host_key"]
    assert "preemptibleInstanceConfig" not in words
    (volume,) = live(cloud, "bootvolume")
    assert volume.tags == machine.tags
    await driver.destroy(spec.id, handle)
    assert not live(cloud, "bootvolume")


async def test_the_network_is_made_once_lets_in_ssh_from_where_it_is_told_and_goes_with_the_last(
    cloud: Oracle, driver: OCIDriver, make_driver: OracleDrivers
) -> None:
    specs = [await spec_of(driver) for _ in range(3)]
    second = make_driver(config_file=driver.settings.config_file)
    await asyncio.gather(driver.create(specs[0]), driver.create(specs[1]), second.create(specs[2]))
    assert [len(live(cloud, kind)) for kind in ("vcn", "subnet", "internetgateway")] == [1, 1, 1]
    (doors,) = live(cloud, "securitylist")
    assert [
        (rule["source"], rule["tcpOptions"]["destinationPortRange"], rule["protocol"])
        for rule in doors.words["ingressSecurityRules"]
    ] == [("192.0.2.0/24", {"min": 22, "max": 22}, "6")]
    with pytest.raises(Transient, match="3 machines are still"):
        await driver.destroy(SHARED, None)
    assert len(live(cloud, "subnet")) == 1
    for spec in specs:
        await driver.destroy(spec.id, None)
    await driver.destroy(SHARED, None)
    await driver.destroy(SHARED, None)
    assert await driver.holdings() == []
    for kind in ("vcn", "subnet", "internetgateway", "routetable", "securitylist"):
        assert not live(cloud, kind)
    again = await spec_of(driver)
    await driver.create(again)  # the retry tokens of the first network are used up
    assert len(live(cloud, "vcn")) == 1


async def test_a_network_that_went_is_made_again_by_the_create_that_finds_it_gone(
    cloud: Oracle, driver: OCIDriver, make_driver: OracleDrivers
) -> None:
    first = await spec_of(driver)
    await driver.create(first)
    await driver.destroy(first.id, None)
    other = make_driver(config_file=driver.settings.config_file)
    await other.destroy(SHARED, None)
    assert not live(cloud, "vcn")
    await driver.create(await spec_of(driver))
    assert len(live(cloud, "vcn")) == 1
    assert len(live(cloud)) == 1


PARTS = ("vcns", "internetGateways", "routeTables", "securityLists", "subnets")


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize("part", PARTS)
async def test_half_a_network_is_finished_by_the_next_and_removed_by_anybody(
    cloud: Oracle, driver: OCIDriver, part: str, lost: bool
) -> None:
    spec = await spec_of(driver)
    cloud.tenancy.fail("POST", f"/{part}$", done=lost)
    with pytest.raises(Transient):
        await driver.create(spec)
    holdings = await driver.holdings()
    assert {one.instance_id for one in holdings} <= {SHARED}
    await driver.create(spec)
    assert len(live(cloud, "vcn")) == 1
    await driver.destroy(spec.id, None)
    cloud.tenancy.fail("DELETE", f"/{part}/", done=lost)
    with pytest.raises(Transient):
        await driver.destroy(SHARED, None)
    await driver.destroy(SHARED, None)
    assert await driver.holdings() == []
    assert not live(cloud, "vcn")


async def test_a_changed_allow_from_reaches_the_network_that_is_there(
    cloud: Oracle, driver: OCIDriver, make_driver: OracleDrivers
) -> None:
    await driver.create(await spec_of(driver))
    changed = make_driver(
        config_file=driver.settings.config_file, allow_from=["198.51.100.0/24", "192.0.2.7/32"]
    )
    await changed.create(await spec_of(changed))
    (doors,) = live(cloud, "securitylist")
    sources = {rule["source"] for rule in doors.words["ingressSecurityRules"]}
    assert sources == {"198.51.100.0/24", "192.0.2.7/32"}


# Choices


@pytest.mark.parametrize(
    ("shape", "asked", "ocpus", "memory", "cpus"),
    [
        ("VM.Standard.E4.Flex", {"cpus": 1, "memory": "512MiB"}, 1, 1, 2),
        ("VM.Standard.E4.Flex", {"cpus": 5, "memory": "3GiB"}, 3, 3, 6),
        ("VM.Standard.E4.Flex", {"cpus": 1, "memory": "100GiB"}, 2, 100, 4),
        ("VM.Standard.A1.Flex", {"cpus": 3, "memory": "1GiB"}, 3, 3, 3),
        ("VM.Standard.E4.Flex", {"cpus": 228, "memory": "1760GiB"}, 114, 1760, 228),
    ],
)
async def test_a_flexible_shape_is_cut_to_what_is_asked(
    make_driver: OracleDrivers, shape: str, asked: dict[str, Any], ocpus: float, memory: float, cpus: float
) -> None:
    driver = make_driver(shapes=[shape])
    offer = (await driver.offers(Request(**asked)))[0]
    assert offer.available, offer.why_not
    assert (offer.choice["ocpus"], offer.choice["memory"]) == (ocpus, memory)
    assert offer.shape.cpus == cpus
    assert ("aarch64" in offer.image) == (".A1." in shape)


async def test_gpus_by_model_and_memory_with_the_image_that_has_their_drivers(
    make_driver: OracleDrivers,
) -> None:
    driver = make_driver(shapes=["*"], image="Oracle Linux 9*")
    offer = (await driver.offers(Request(gpus=1, gpu_model="A10", gpu_memory="24GiB")))[0]
    assert offer.shape.name == "VM.GPU.A10.1"
    assert offer.shape.gpu_model == "NVIDIA A10"
    assert "GPU" in offer.image
    beyond = await driver.offers(Request(gpus=1, gpu_model="A10", gpu_memory="40GiB"))
    assert [one.possible for one in beyond] == [False]
    plain = (await driver.offers(Request()))[0]
    assert "GPU" not in plain.image
    assert plain.shape.gpus == 0


async def test_an_image_is_found_by_a_release_that_only_its_name_has(make_driver: OracleDrivers) -> None:
    for asked, found in (
        ("Oracle Linux 9.6", "Oracle-Linux-9.6-2026"),
        ("oracle linux 7.8", "Oracle-Linux-7.8-2020"),
    ):
        offer = (await make_driver(image=asked).offers(Request()))[0]
        assert offer.image.startswith(found)


async def test_prices_are_the_configurations_and_half_of_it_where_oracle_may_take_it_back(
    cloud: Oracle, make_driver: OracleDrivers
) -> None:
    rates = {"VM.Standard.E4.*": {"ocpu": "0.025", "memory": "0.0015"}}
    driver = make_driver(rates=rates, price_factor="1.19")
    spot, plain = (await driver.offers(Request(cpus=4, memory="8GiB", spot=True, location="AD-1")))[:2]
    assert not plain.spot
    assert float(plain.price) == pytest.approx(0.062)
    assert float(spot.price) == pytest.approx(0.031)
    assert spot.spot
    request = Request(cpus=4, memory="8GiB", spot=True)
    await driver.create(Spec(id="t-spot", owner="ada", request=request, offer=spot))
    action = live(cloud)[0].words["preemptibleInstanceConfig"]["preemptionAction"]
    assert action == {"type": "TERMINATE", "preserveBootVolume": False}


async def test_an_image_may_be_named_by_name_by_system_or_by_id(make_driver: OracleDrivers) -> None:
    driver = make_driver(images=["*"])
    newest = "Canonical-Ubuntu-24.04-2026.09.30-0"
    offer = (await driver.offers(Request(image="canonical ubuntu 24.04")))[0]
    assert newest in offer.image
    id_ = offer.choice["image"]
    assert (await driver.offers(Request(image=id_)))[0].choice["image"] == id_
    assert (await driver.offers(Request(image="Oracle-Linux-9.6-2026.09.16-0")))[0].available
    (never,) = await driver.offers(Request(image="Canonical-Ubuntu-26.04"))
    assert not never.possible
    assert "Canonical-Ubuntu-24.04" in never.why_not
    (wrong,) = await driver.offers(Request(image="Oracle-Linux-9.6-aarch64-2026.09.16-0"))
    assert "runs on none" in wrong.why_not
    assert newest in await driver.images()


async def test_a_named_network_is_used_and_never_removed(
    cloud: Oracle, driver: OCIDriver, make_driver: OracleDrivers
) -> None:
    await driver.create(await spec_of(driver))
    theirs = live(cloud, "subnet")[0]
    theirs.words.update(displayName="campus", freeformTags={})
    live(cloud, "vcn")[0].words.update(freeformTags={}, displayName="campus-net")
    for name in ("campus", "campus-net", theirs.id, theirs.words["vcnId"]):
        other = make_driver(network=name, allow_from=None, installation=f"other-{secrets.token_hex(2)}")
        spec = await spec_of(other)
        assert spec.offer.choice["subnet"] == theirs.id
        await other.create(spec)
        await other.destroy(spec.id, None)
        await other.destroy(SHARED, None)
        assert await other.holdings() == []
    assert len(live(cloud, "subnet")) == 1
    with pytest.raises(InvalidSettings, match="no subnet or VCN 'nowhere'"):
        await make_driver(network="nowhere", allow_from=None).offers(Request())


async def test_a_named_network_that_went_is_said_and_looked_for_anew(
    cloud: Oracle, driver: OCIDriver, make_driver: OracleDrivers
) -> None:
    await driver.create(await spec_of(driver))
    (theirs,) = live(cloud, "subnet")
    theirs.words.update(displayName="campus", freeformTags={})
    other = make_driver(network="campus", allow_from=None, installation="other")
    spec = await spec_of(other)
    theirs.become("TERMINATED")
    with pytest.raises(Forbidden, match="not found"):
        await other.create(spec)
    with pytest.raises(InvalidSettings, match="no subnet or VCN 'campus'"):
        await other.offers(Request())


async def test_what_limits_and_hosts_cannot_say_is_left_out(cloud: Oracle, driver: OCIDriver) -> None:
    cloud.tenancy.fail("POST", "/computeCapacityReports", times=9, status=400, code="InvalidParameter")
    cloud.tenancy.fail("GET", "/limits/", times=9, status=429, code="TooManyRequests")
    assert all(one.available for one in await driver.offers(Request()))


async def test_discovery_names_all_there_is(driver: OCIDriver) -> None:
    found = await driver.discover()
    assert len(found.images) == 9
    assert {one.id for one in found.shapes} >= {"VM.Standard.E4.Flex", "BM.GPU.H100.8"}
    assert len(found.locations) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"allow_from": None},
        {"allow_from": ["everywhere"]},
        {"network": "campus"},
        {"public_address": False},
        {"address_range": "10.0.0.0/8"},
        {"currency": "dollars"},
    ],
    ids=lambda one: next(iter(one)),
)
def test_settings_that_cannot_work_are_refused(make_driver: OracleDrivers, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_driver(**wrong)


# What goes wrong


REFUSALS = [
    (500, "InternalError", "Out of host capacity.", NoCapacity),
    (400, "LimitExceeded", "The following service limits were exceeded: x.", QuotaExceeded),
    (400, "QuotaExceeded", "The following compartment quotas were exceeded: x.", QuotaExceeded),
    (429, "TooManyRequests", "Too many requests for the user.", Throttled),
    (500, "InternalError", "An internal error has occurred.", Transient),
    (503, "ServiceUnavailable", "The service is unavailable.", Transient),
    (409, "IncorrectState", "It is being changed.", Conflict),
    (404, "NotAuthorizedOrNotFound", "Authorization failed or requested resource not found.", Forbidden),
    (400, "InvalidParameter", "A parameter is wrong.", InvalidRequest),
]


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"), REFUSALS, ids=[f"{one[0]} {one[1]}" for one in REFUSALS]
)
async def test_refusals_in_our_words_and_oracles(
    cloud: Oracle, driver: OCIDriver, status: int, code: str, message: str, kind: type[Exception]
) -> None:
    spec = await spec_of(driver)
    cloud.tenancy.fail("POST", "/instances$", status=status, code=code, message=message)
    with pytest.raises(kind, match=message.rstrip(".")) as caught:
        await driver.create(spec)
    assert type(caught.value) is kind
    await driver.destroy(spec.id, None)
    assert not live(cloud)


async def test_limits_are_read_before_anything_is_asked_for(cloud: Oracle, driver: OCIDriver) -> None:
    cloud.tenancy.limits = {"standard-e4-core-count": 4, "standard-e4-memory-count": 1000}
    assert all(one.available for one in await driver.offers(Request(cpus=8, memory="8GiB")))
    for one in await driver.offers(Request(cpus=10, memory="8GiB")):
        assert one.possible
        assert one.why_not == "the service limit standard-e4-core-count leaves 4 of 4, 5 are needed"
    await driver.create(await spec_of(driver, cpus=4, location="AD-2"))
    offers = await driver.offers(Request(cpus=6))
    assert {one.location[-1]: one.available for one in offers} == {"1": True, "2": False}


async def test_full_hosts_show_in_the_offers_unless_one_may_not_ask(
    cloud: Oracle, make_driver: OracleDrivers
) -> None:
    cloud.tenancy.hosts["VM.Standard.E4.Flex"] = 0
    driver = make_driver()
    assert {one.why_not.split(" ", 1)[1] for one in await driver.offers(Request())} == {
        "has no hosts left for VM.Standard.E4.Flex"
    }
    blind = make_driver(user={"forbidden": ["capacityreport"]})
    spec = await spec_of(blind)
    with pytest.raises(NoCapacity):
        await blind.create(spec)


@pytest.mark.parametrize("how", [{}, {"half": True}, {"done": True}, {"done": True, "status": 500}], ids=str)
async def test_a_launch_whose_answer_is_lost_makes_one_machine(
    cloud: Oracle, driver: OCIDriver, how: dict[str, Any]
) -> None:
    spec = await spec_of(driver)
    cloud.tenancy.fail("POST", "/instances$", **how)
    with pytest.raises(Transient):
        await driver.create(spec)
    handle = await driver.create(spec)
    assert [one.id for one in live(cloud)] == [handle.data["id"]]


@pytest.mark.parametrize("how", [{}, {"half": True}, {"status": 500}, {"status": 429}], ids=str)
async def test_an_answer_that_is_cut_off_is_never_taken_for_an_empty_cloud(
    cloud: Oracle, driver: OCIDriver, how: dict[str, Any]
) -> None:
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    for ask in (
        lambda: driver.observe({spec.id: handle}),
        driver.holdings,
        lambda: driver.destroy(spec.id, handle),
    ):
        fault = cloud.tenancy.fail("GET", "/instances", **how)
        with pytest.raises(Transient):
            await ask()
        assert not fault.times
    assert len(live(cloud)) == 1


async def test_listings_are_read_to_the_last_page(cloud: Oracle, driver: OCIDriver) -> None:
    cloud.tenancy.page = 2
    specs = [await spec_of(driver) for _ in range(5)]
    handles = dict(zip([one.id for one in specs], [await driver.create(one) for one in specs], strict=True))
    assert {one.phase for one in (await driver.observe(handles)).values()} <= {Phase.RUNNING, Phase.PENDING}
    assert len({one.instance_id for one in await driver.holdings()} - {SHARED}) == 5
    cloud.tenancy.asked.clear()
    await driver.observe(handles)
    assert len([one for one in cloud.tenancy.asked if "/vnics/" in one]) <= 5
    cloud.tenancy.asked.clear()
    await driver.observe(handles)
    assert all("/instances?" in one for one in cloud.tenancy.asked), "what is known is not asked again"


async def test_silence_is_a_timeout(
    cloud: Oracle, driver: OCIDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not to wait for real seconds: the limit itself is what is tried.
    monkeypatch.setattr("gridcloud.drivers.oracle.SECONDS", (0.5, 0.2))
    spec = await spec_of(driver)
    cloud.tenancy.fail("POST", "/instances$", silent=1)
    with pytest.raises(TimedOut):
        await driver.create(spec)
    cloud.stop()
    with pytest.raises(Unreachable):
        await driver.create(spec)


async def test_a_key_that_is_not_known_and_a_clock_that_is_wrong(
    cloud: Oracle, make_driver: OracleDrivers
) -> None:
    stranger = make_driver(user={"known": False})
    with pytest.raises(NotAuthenticated, match="fingerprint"):
        await stranger.offers(Request())
    (finding,) = await stranger.check()
    assert not finding.ok
    assert "key file" in finding.remedy
    late = make_driver()
    cloud.offset = 3600
    with pytest.raises(NotAuthenticated, match="Set this computer's clock"):
        await late.offers(Request())


async def test_a_configuration_file_that_is_not_there_or_has_no_such_profile(
    make_driver: OracleDrivers, tmp_path: Path
) -> None:
    for wrong in ({"config_file": tmp_path / "none"}, {"profile": "NOBODY"}):
        (finding,) = await make_driver(**wrong).check()
        assert not finding.ok
        assert "configuration cannot be used" in finding.message


async def test_a_region_that_is_not_subscribed_to(make_driver: OracleDrivers) -> None:
    (finding,) = await make_driver(region="ap-tokyo-1").check()
    assert "not subscribed to the region ap-tokyo-1" in finding.message
    assert "eu-frankfurt-1" in finding.remedy


async def test_a_compartment_without_rights(cloud: Oracle, make_driver: OracleDrivers) -> None:
    driver = make_driver(user={"compartments": [cloud.tenancy.id]}, compartment=lab_of(cloud))
    with pytest.raises(InvalidSettings, match="policy"):
        await driver.offers(Request())
    with pytest.raises(Transient):
        await driver.holdings()
    with pytest.raises(Transient):
        await driver.observe({"t-some": Handle(data={"id": "ocid1.instance.x", "host_key": "x"})})
    with pytest.raises(InvalidSettings, match="no compartment named 'lab'"):
        await make_driver(user={"compartments": [cloud.tenancy.id]}).offers(Request())


async def test_check_says_what_can_be_had(cloud: Oracle, driver: OCIDriver) -> None:
    cloud.tenancy.limits = {"standard-e4-core-count": 4}
    findings = await driver.check()
    assert all(one.ok for one in findings), findings
    words = " ".join(one.message for one in findings)
    assert "standard-e4-core-count: 4 of 4 left" in words
    assert "192.0.2.0/24" in words


async def test_a_machine_that_shut_itself_down_has_failed_and_one_taken_back_is_gone(
    cloud: Oracle, driver: OCIDriver
) -> None:
    spec = await spec_of(driver)
    handle = await driver.create(spec)
    (machine,) = live(cloud)
    machine.become("STOPPED")
    seen = (await driver.observe({spec.id: handle}))[spec.id]
    assert seen.phase is Phase.FAILED
    assert "shut itself down" in seen.detail
    assert spec.id in {one.instance_id for one in await driver.holdings()}
    machine.become("TERMINATED")
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.GONE


async def test_no_more_machines_than_the_configuration_says(make_driver: OracleDrivers) -> None:
    driver = make_driver(instances=2)
    specs = [await spec_of(driver) for _ in range(3)]
    results = await asyncio.gather(*(driver.create(one) for one in specs), return_exceptions=True)
    assert sorted(type(one).__name__ for one in results) == ["Handle", "Handle", "NoCapacity"]


async def test_user_data_that_is_too_long_is_refused_before_it_is_sent(make_driver: OracleDrivers) -> None:
    driver = make_driver(boot_script="# " + "x" * 32000)
    with pytest.raises(InvalidSettings, match="boot_script"):
        await driver.create(await spec_of(driver))


async def test_limits_that_may_not_be_read_are_no_finding_of_fault(cloud: Oracle, driver: OCIDriver) -> None:
    cloud.tenancy.fail("GET", "/limits/", times=99, status=404, code="NotAuthorizedOrNotFound")
    (limits,) = [one for one in await driver.check() if one.subject == "limits"]
    assert limits.ok
    assert not limits.known
    assert "resource-availability" in limits.remedy
