"""The container driver on real engines: the contract, and what only containers do."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import docker
import pytest
from pydantic import ValidationError
from tests.labs.containers import SESSION_IMAGE, TINY_IMAGE, Engine

from gridcloud import connections
from gridcloud.connections.driver import Command
from gridcloud.drivers.instances.container import ContainerDriver
from gridcloud.drivers.instances.container_settings import ContainerSettings
from gridcloud.errors import ConnectionLost, InvalidRequest, NoCapacity, Rejected, Unreachable
from gridcloud.instances.model import Handle, Observation, Offer, Phase, Request, Shape, Spec
from gridcloud.testing.instances import (
    HOSTILE_TEXTS,
    InstanceDriverContract,
    driver_context,
    open_connection,
    read_output,
)

pytestmark = pytest.mark.needs_root


def make_driver(engine: Engine, folder: Path, installation: str = "", **settings: Any) -> ContainerDriver:
    values = {
        "image": TINY_IMAGE,
        "pull": "never",
        "network": "none",
        "cpus": 2,
        "memory": "512MiB",
    } | settings
    context = driver_context(folder, installation=installation or f"test-{secrets.token_hex(4)}")
    return ContainerDriver(ContainerSettings(driver="container", engine=engine.url, **values), context)


def make_spec(owner: str = "ada", **asked: Any) -> Spec:
    request = Request(**({"cpus": 1, "memory": "64MiB"} | asked))
    shape = Shape(cpus=request.cpus, memory=request.memory)
    offer = Offer(provider="under-test", kind="container", shape=shape)
    return Spec(id=f"t-{secrets.token_hex(5)}", owner=owner, request=request, offer=offer)


async def running(driver: ContainerDriver, spec: Spec) -> tuple[Handle, Observation]:
    handle = await driver.create(spec)
    seen = (await driver.observe({spec.id: handle}))[spec.id]
    assert seen.phase is Phase.RUNNING, seen.detail
    return handle, seen


async def gone(driver: ContainerDriver, spec: Spec, handle: Handle) -> str:
    """Return why an instance ended, once it has."""
    async with asyncio.timeout(30):
        while True:
            seen = (await driver.observe({spec.id: handle}))[spec.id]
            if seen.phase is Phase.GONE:
                return seen.detail
            await asyncio.sleep(0.1)


async def clear(driver: ContainerDriver) -> None:
    for holding in await driver.holdings():
        await driver.destroy(holding.instance_id, None)
    await driver.close()


@pytest.fixture
async def driver(container_engine: Engine, tmp_path: Path) -> AsyncIterator[ContainerDriver]:
    driver = make_driver(container_engine, tmp_path / "driver")
    yield driver
    await clear(driver)


class TestContainerDriver(InstanceDriverContract):
    @pytest.fixture
    def driver(self, driver: ContainerDriver) -> ContainerDriver:
        return driver


async def test_an_image_that_is_not_there_is_rejected_with_those_that_are(
    container_engine: Engine, tmp_path: Path
) -> None:
    driver = make_driver(container_engine, tmp_path, images=["no-such/*"])
    offers = await driver.offers(Request(memory="64MiB", image="no-such/image:1"))
    assert not offers[0].possible
    assert TINY_IMAGE in offers[0].why_not
    with pytest.raises(Rejected, match=TINY_IMAGE):
        await driver.create(make_spec(image="no-such/image:1"))
    assert await driver.holdings() == []
    await driver.close()


async def test_an_image_that_cannot_be_fetched_is_rejected(container_engine: Engine, tmp_path: Path) -> None:
    driver = make_driver(container_engine, tmp_path, images=["*"], pull="missing")
    with pytest.raises(Rejected, match="there is no image"):
        await driver.create(make_spec(image="127.0.0.1:1/none/image:1"))
    assert await driver.holdings() == []
    await driver.close()


@pytest.mark.parametrize("image", [SESSION_IMAGE, "../../etc", "a b; touch /tmp/x", "x" * 300, "-v", "ünï"])
async def test_an_image_that_is_not_allowed_is_refused(driver: ContainerDriver, image: str) -> None:
    offers = await driver.offers(Request(memory="64MiB", image=image))
    assert not offers[0].possible
    assert TINY_IMAGE in offers[0].why_not
    with pytest.raises(InvalidRequest, match="allowed are"):
        await driver.create(make_spec(image=image))
    assert await driver.holdings() == []


async def test_an_image_of_another_name_is_given_when_allowed(
    container_engine: Engine, tmp_path: Path
) -> None:
    driver = make_driver(container_engine, tmp_path, images=["gridcloud-sess*"])
    assert any(SESSION_IMAGE in name for name in await driver.images())
    spec = make_spec(image=SESSION_IMAGE)
    _, seen = await running(driver, spec)
    assert seen.address is not None
    connection = await open_connection(seen.address)
    assert (await read_output(connection, "sh", "-c", "pwd; echo $HOME; id -u; touch x")) == (
        "/gridcloud\n/gridcloud/home\n1000\n"
    )
    await connection.close()
    await driver.destroy(spec.id, None)
    await driver.close()


async def says(seen: Observation, program: str) -> str:
    """Return what a shell program prints within an instance."""
    assert seen.address is not None
    connection = await open_connection(seen.address)
    try:
        return await read_output(connection, "sh", "-c", program)
    finally:
        await connection.close()


def volumes_of(engine: Engine, driver: ContainerDriver) -> dict[str, dict[str, str]]:
    client = docker.APIClient(base_url=engine.url)
    label = f"gridcloud.installation={driver.context.installation}"
    listed = client.volumes(filters={"label": [label]})["Volumes"] or []
    client.close()
    return {one["Name"]: one["Labels"] for one in listed}


async def test_a_home_is_shared_by_its_owners_instances_and_outlives_them(
    driver: ContainerDriver, container_engine: Engine
) -> None:
    first, second, third = make_spec(), make_spec(), make_spec()
    handle, seen = await running(driver, first)
    assert seen.address is not None
    assert seen.address.home == "/gridcloud/home"
    status = await says(
        seen, 'cd && stat -c "%a %u %n" "$PWD"; echo kept >notebook; echo lost >/gridcloud/scratch'
    )
    assert status == "700 1000 /gridcloud/home\n"
    _, beside = await running(driver, second)
    assert await says(beside, "cat ~/notebook; ls /gridcloud; echo both >~/beside") == "kept\nhome\n"
    assert await says(seen, "cat ~/beside") == "both\n"
    for spec in (first, second):
        await driver.destroy(spec.id, handle if spec is first else None)
    assert await driver.holdings() == []
    assert len(volumes_of(container_engine, driver)) == 1
    _, later = await running(driver, third)
    assert (
        await says(later, 'cd; ls; cat notebook; stat -c "%a %u" .') == "beside\nnotebook\nkept\n700 1000\n"
    )
    findings = await driver.check()
    assert any(finding.ok and finding.message.startswith("1 home is kept") for finding in findings)


async def test_a_home_is_closed_to_other_owners(driver: ContainerDriver, container_engine: Engine) -> None:
    _, ours = await running(driver, make_spec("ada"))
    _, theirs = await running(driver, make_spec("Ada"))
    await says(ours, "echo secret >~/diary")
    assert await says(theirs, "ls -A ~; find / -name diary 2>/dev/null || :") == ""
    assert len(volumes_of(container_engine, driver)) == 2


@pytest.mark.parametrize("owner", [*HOSTILE_TEXTS, "/etc:/gridcloud/home:rw", "../ada", "a\nb\x1b[2J"])
async def test_what_an_owner_is_called_never_reaches_the_name_of_a_home(
    driver: ContainerDriver, container_engine: Engine, owner: str
) -> None:
    _, seen = await running(driver, make_spec(owner))
    assert await says(seen, "cd && touch x && ls") == "x\n"
    ((name, labels),) = volumes_of(container_engine, driver).items()
    assert re.fullmatch(r"gridcloud-home-[a-z0-9]{1,8}-[0-9a-f]{16}", name)
    assert labels["gridcloud.owner"].isprintable()


@pytest.mark.parametrize("guest", [False, True])
async def test_without_kept_homes_a_home_goes_with_its_container(
    container_engine: Engine, tmp_path: Path, guest: bool
) -> None:
    """Nor is one kept of a guest, whatever is kept of others."""
    driver = make_driver(container_engine, tmp_path, keep_homes=guest)
    for _ in range(2):
        spec = make_spec().model_copy(update={"guest": guest})
        _, seen = await running(driver, spec)
        assert (
            await says(seen, 'cd; ls -A; stat -c "%a %u %n" "$PWD"; touch x') == "700 1000 /gridcloud/home\n"
        )
        await driver.destroy(spec.id, None)
    assert volumes_of(container_engine, driver) == {}
    await driver.close()


async def test_a_home_made_by_a_start_that_failed_is_given_to_the_next(
    driver: ContainerDriver, container_engine: Engine, tmp_path: Path
) -> None:
    wrong = make_driver(
        container_engine, tmp_path / "wrong", driver.context.installation, user="nobody-known"
    )
    with pytest.raises(Rejected, match=r"no (such )?user.*nobody-known"):
        await wrong.create(make_spec())
    await wrong.close()
    assert len(volumes_of(container_engine, driver)) == 1
    _, seen = await running(driver, make_spec())
    assert await says(seen, 'cd; touch x; stat -c "%a %u" .') == "700 1000\n"


async def test_a_home_that_its_owner_opened_stays_theirs(
    driver: ContainerDriver, container_engine: Engine, tmp_path: Path
) -> None:
    spec = make_spec()
    _, seen = await running(driver, spec)
    await says(seen, "chmod 755 ~; touch ~/x")
    await driver.destroy(spec.id, None)
    other = make_driver(container_engine, tmp_path / "other", driver.context.installation, user="2000:2000")
    with pytest.raises(Rejected, match="belongs to user 1000"):
        await other.create(make_spec())
    await other.close()
    _, seen = await running(driver, make_spec())
    assert await says(seen, "ls ~") == "x\n"


async def test_a_home_of_another_user_is_refused_and_left_alone(
    driver: ContainerDriver, container_engine: Engine, tmp_path: Path
) -> None:
    spec = make_spec()
    _, seen = await running(driver, spec)
    await says(seen, "echo kept >~/notebook")
    await driver.destroy(spec.id, None)
    installation = driver.context.installation
    for settings in ({"user": "2000:2000"}, {"user": "0", "allow_root": True}):
        other = make_driver(container_engine, tmp_path / "other", installation, **settings)
        with pytest.raises(Rejected, match="belongs to user 1000"):
            await other.create(make_spec())
        assert await other.holdings() == []
        await other.close()
    _, again = await running(driver, make_spec())
    assert await says(again, 'cat ~/notebook; stat -c "%a %u" ~') == "kept\n700 1000\n"


async def test_root_has_a_home_that_nobody_else_gets(container_engine: Engine, tmp_path: Path) -> None:
    root = make_driver(container_engine, tmp_path / "root", user="0", allow_root=True)
    spec = make_spec()
    _, seen = await running(root, spec)
    assert await says(seen, 'cd && touch x && stat -c "%a %u" .') == "700 0\n"
    await root.destroy(spec.id, None)
    other = make_driver(container_engine, tmp_path / "other", root.context.installation)
    with pytest.raises(Rejected, match="belongs to user 0"):
        await other.create(make_spec())
    await root.close()
    await other.close()


async def test_installations_whose_ids_begin_alike_share_no_home(
    container_engine: Engine, tmp_path: Path
) -> None:
    one = make_driver(container_engine, tmp_path / "one", f"{secrets.token_hex(4)}-one")
    other = make_driver(
        container_engine, tmp_path / "other", one.context.installation.replace("one", "other")
    )
    spec = make_spec()
    await running(one, spec)
    with pytest.raises(Rejected, match="not this owner's home"):
        await other.create(make_spec())
    assert await other.holdings() == []
    await one.destroy(spec.id, None)
    await one.close()
    await other.close()


async def test_nobody_is_root_or_becomes_it(driver: ContainerDriver, container_engine: Engine) -> None:
    handle, seen = await running(driver, make_spec())
    assert seen.address is not None
    connection = await open_connection(seen.address)
    status = await read_output(connection, "cat", "/proc/self/status")
    await connection.close()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert fields["Uid"].split() == ["1000"] * 4
    assert {fields[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
    assert fields["NoNewPrivs"].strip() == "1"
    client = docker.APIClient(base_url=container_engine.url)
    ports = client.inspect_container(handle.data["container"])["NetworkSettings"]["Ports"]
    client.close()
    assert not ports


async def test_more_memory_than_given_ends_the_program_not_the_computer(driver: ContainerDriver) -> None:
    _, seen = await running(driver, make_spec())
    assert seen.address is not None
    connection = await open_connection(seen.address)
    greedy = 'exec 2>&1; x=$(head -c 200000000 /dev/zero | tr "\\0" x); echo ${#x}'
    done = await connections.run(connection, Command(("sh", "-c", greedy)), timeout=60)
    await connection.close()
    assert done.stdout.strip() != b"200000000"


async def test_a_killed_container_is_told_of(driver: ContainerDriver, container_engine: Engine) -> None:
    spec = make_spec()
    handle, seen = await running(driver, spec)
    assert seen.address is not None
    connection = await open_connection(seen.address)
    process = await connection.start(Command(("sleep", "60")))
    client = docker.APIClient(base_url=container_engine.url)
    client.kill(handle.data["container"])
    client.close()
    with pytest.raises(ConnectionLost, match="137"):
        await process.wait()
    with pytest.raises(ConnectionLost):
        await connection.check()
    with pytest.raises(ConnectionLost):
        await connection.start(Command(("true",)))
    await connection.close()
    assert "137" in await gone(driver, spec, handle)


async def test_it_ends_itself_when_its_time_is_over(driver: ContainerDriver) -> None:
    spec = make_spec()
    handle, _ = await running(driver, spec)
    await driver.arm(spec.id, handle, datetime.now(UTC) + timedelta(hours=1))
    await driver.arm(spec.id, handle, datetime.now(UTC) - timedelta(seconds=1))
    assert "its time is over" in await gone(driver, spec, handle)


async def test_two_installations_share_what_an_engine_has(
    driver: ContainerDriver, container_engine: Engine, tmp_path: Path
) -> None:
    other = make_driver(container_engine, tmp_path / "other")
    spec = make_spec(cpus=2)
    handle, _ = await running(driver, spec)
    with pytest.raises(NoCapacity):
        await other.create(make_spec())
    assert await other.holdings() == []
    assert (await other.observe({spec.id: handle}))[spec.id].phase is Phase.GONE
    await other.destroy(spec.id, handle)
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.RUNNING
    await other.close()


async def test_an_engine_that_is_gone_says_nothing_of_instances(tmp_path: Path) -> None:
    class Nowhere:
        url = f"unix://{tmp_path}/nowhere.sock"

    driver = make_driver(Nowhere(), tmp_path)  # type: ignore[arg-type]
    handle = Handle(data={"container": "x"})
    with pytest.raises(Unreachable, match=r"nowhere\.sock"):
        await driver.observe({"t-some": handle})
    with pytest.raises(Unreachable):
        await driver.destroy("t-some", handle)
    findings = await driver.check()
    assert not findings[0].ok
    assert findings[0].remedy
    await driver.close()


async def test_an_engine_killed_under_a_command_is_a_lost_connection(tmp_path: Path) -> None:
    engine = Engine("podman").open()
    try:
        driver = make_driver(engine, tmp_path)
        spec = make_spec()
        handle, seen = await running(driver, spec)
        assert seen.address is not None
        connection = await open_connection(seen.address)
        process = await connection.start(Command(("sleep", "60")))
        engine.kill()
        with pytest.raises(ConnectionLost):
            await process.wait()
        with pytest.raises(ConnectionLost):
            await connection.check()
        await connection.close()
        with pytest.raises(Unreachable):
            await driver.observe({spec.id: handle})
        await driver.close()
    finally:
        engine.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"engine": "tcp://192.0.2.1:2375"},
        {"engine": "ssh://somewhere"},
        {"network": "host"},
        {"network": "container:abc"},
        {"mounts": {"../etc": "/etc"}},
        {"mounts": {"/data": "/gridcloud/home/"}},
        {"user": "a b"},
        {"image": ""},
        {"privileged": True},
    ],
)
def test_unsafe_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ContainerSettings(**({"driver": "container", "image": TINY_IMAGE} | wrong))
