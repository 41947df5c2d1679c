"""The `openstack` driver where nova's listings leave things out, and where its credentials are refused meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.labs.openstack_answers import OpenStackAnswers, server

from gridcloud.drivers.instances.openstack import OpenStackDriver
from gridcloud.drivers.instances.openstack_settings import OpenStackSettings
from gridcloud.errors import InvalidSettings
from gridcloud.instances.model import Handle, Phase
from gridcloud.testing.instances import driver_context

pytestmark = [
    # The SDK says of its own calls that they will go, whatever is called.
    pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning"),
]

OURS = ("gridcloud-test", "under-test")


@pytest.fixture
def cloud() -> Iterator[OpenStackAnswers]:
    """A cloud that holds two machines of ours."""
    with OpenStackAnswers() as cloud:
        for number in ("1", "2"):
            cloud.servers[f"s{number}"] = server(f"s{number}", f"i-{number}", *OURS)
        yield cloud


@pytest.fixture
async def driver(cloud: OpenStackAnswers, tmp_path: Path) -> AsyncIterator[OpenStackDriver]:
    """A driver of it."""
    clouds = tmp_path / "clouds.yaml"
    cloud.write_clouds(clouds)
    words = {"driver": "openstack", "cloud": "answers", "clouds_file": clouds, "image": "debian-*"}
    settings = OpenStackSettings.model_validate({**words, "allow_from": "192.0.2.0/24"})
    driver = OpenStackDriver(settings, driver_context(tmp_path / "provider"))
    yield driver
    await driver.close()


def handle(number: int, **more: str) -> Handle:
    """What the driver gave for a machine when it was made."""
    return Handle(data={"server": f"s{number}", "host": "192.0.2.1", "host_key": "ssh-ed25519 A", **more})


HANDLES = {"i-1": handle(1), "i-2": handle(2)}


async def phases(driver: OpenStackDriver) -> list[Phase]:
    """What the two machines are."""
    seen = await driver.observe(HANDLES)
    return [seen[instance_id].phase for instance_id in HANDLES]


async def test_a_machine_that_no_listing_shows_is_asked_for_by_itself(
    driver: OpenStackDriver, cloud: OpenStackAnswers
) -> None:
    assert await phases(driver) == [Phase.RUNNING, Phase.RUNNING]
    assert "GET /compute/v2.1/servers/s2" not in cloud.asked, "one listing says all"
    cloud.unlisted.add("s2")
    assert await phases(driver) == [Phase.RUNNING, Phase.RUNNING]
    cloud.servers["s2"]["name"] = "renamed-by-others"
    assert await phases(driver) == [Phase.RUNNING, Phase.RUNNING]
    del cloud.servers["s2"]
    assert await phases(driver) == [Phase.RUNNING, Phase.GONE]


async def test_of_a_machine_in_a_cell_that_is_down_nothing_is_known(
    driver: OpenStackDriver, cloud: OpenStackAnswers
) -> None:
    cloud.unlisted.add("s2")
    cloud.broken.add("s2")
    seen = await driver.observe(HANDLES)
    assert [one.phase for one in seen.values()] == [Phase.RUNNING, Phase.PENDING]
    assert "not responding" in seen["i-2"].detail
    cloud.broken.clear()
    cloud.servers["s2"] = {"id": "s2", "status": "UNKNOWN"}  # from 2.69 on
    assert await phases(driver) == [Phase.RUNNING, Phase.PENDING]


async def test_what_is_not_ours_any_more_is_gone_and_left_alone(
    driver: OpenStackDriver, cloud: OpenStackAnswers
) -> None:
    cloud.servers["s2"] = server("s2", "i-2", "another", "under-test")
    assert await phases(driver) == [Phase.RUNNING, Phase.GONE]
    await driver.destroy("i-2", handle(2))
    assert "s2" in cloud.servers


async def test_an_unlisted_machine_is_ended_all_the_same(
    driver: OpenStackDriver, cloud: OpenStackAnswers
) -> None:
    cloud.unlisted.add("s2")
    await driver.destroy("i-2", handle(2))
    assert list(cloud.servers) == ["s1"]
    assert await phases(driver) == [Phase.RUNNING, Phase.GONE]


async def test_a_machine_that_was_being_made_is_gone_when_it_does_not_show_up_again(
    driver: OpenStackDriver, cloud: OpenStackAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not to wait for seconds: that it is looked for again is what is tried.
    monkeypatch.setattr("gridcloud.drivers.instances.openstack.SETTLING", 0.1)
    monkeypatch.setattr("gridcloud.drivers.instances.openstack.PAUSE", 0.1)
    cloud.servers["s2"]["status"] = "BUILD"
    cloud.reappearing.add("s2")
    await driver.destroy("i-2", handle(2))
    assert cloud.ghosts["s2"] == []
    assert list(cloud.servers) == ["s1"]


async def test_credentials_that_are_put_right_are_read_again(
    driver: OpenStackDriver, cloud: OpenStackAnswers, tmp_path: Path
) -> None:
    assert await phases(driver) == [Phase.RUNNING, Phase.RUNNING]
    cloud.expire()
    assert await phases(driver) == [Phase.RUNNING, Phase.RUNNING], "the SDK logs in again"
    cloud.password = "another"
    cloud.expire()
    for _ in range(2):
        with pytest.raises(InvalidSettings, match="credentials are refused"):
            await driver.observe(HANDLES)
        with pytest.raises(InvalidSettings, match="credentials are refused"):
            await driver.destroy("i-1", handle(1))
    cloud.write_clouds(tmp_path / "clouds.yaml", password="another")
    assert await phases(driver) == [Phase.RUNNING, Phase.RUNNING]


async def test_credentials_of_another_project_say_nothing_of_our_machines(
    driver: OpenStackDriver, cloud: OpenStackAnswers
) -> None:
    mine = handle(1, project="project")
    assert (await driver.observe({"i-1": mine}))["i-1"].phase is Phase.RUNNING
    cloud.project = "another"
    cloud.servers.clear()
    await driver.close()  # as after a restart
    with pytest.raises(InvalidSettings, match="another project"):
        await driver.observe({"i-1": mine})
    with pytest.raises(InvalidSettings, match="another project"):
        await driver.destroy("i-1", mine)
