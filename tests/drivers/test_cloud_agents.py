"""Machines of clouds that nobody reaches: an agent on each dials us at its first boot."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.agents.machines import until
from tests.houses import ended, link
from tests.joined import Agents
from tests.labs.agent_packages import HOST, agent_of, serve_agent
from tests.labs.moto import CREDENTIALS, REGION, moto_server
from tests.labs.openstack import OpenStack
from tests.labs.openstack_machines import OpenStackMachines
from tests.labs.virtual_machines import missing_for_virtual_machines
from tests.services import free_port, make_certificate, open_service
from tests.sessions.visit import fetch, home, over, plan_back

from gridcloud.connections.model import SSHAddress
from gridcloud.drivers.instances.ec2 import EC2Driver
from gridcloud.drivers.instances.ec2_settings import EC2Settings
from gridcloud.errors import NoCapacity, Transient
from gridcloud.instances.driver import JoinedMachine
from gridcloud.instances.model import SHARED, Observation, Phase, Request, Spec
from gridcloud.testing.instances import driver_context, read_output

REQUEST = Request(cpus=1, memory=1 << 30)


async def test_at_ec2_nothing_leads_in_and_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    agents = Agents()
    context = dataclasses.replace(driver_context(tmp_path, user_authority="ssh-ed25519 A"), agents=agents)
    with moto_server() as moto:
        entry = {"driver": "ec2", "region": REGION, "endpoint": moto.url, "image": moto.image()["ImageId"]}
        entry |= {"shapes": ["t3.small"], "prices": {"*": 0.1}, "price_list": False, "instances": 1}
        driver = EC2Driver(
            EC2Settings.model_validate(entry | {"agent": {"url": "https://hub.example"}}), context
        )
        offers = await driver.offers(REQUEST)
        spec = Spec(id="i-dials", owner="ada", request=REQUEST, offer=offers[0])

        async def look() -> Observation:
            return (await driver.observe({spec.id: handle}))[spec.id]

        handle = await driver.create(spec)
        try:
            assert (await driver.create(spec)).data["machine"] == handle.data["machine"]
            assert agents.count == 1, "asked twice, it is one machine with one token"
            [group] = moto.ec2.describe_security_groups(
                Filters=[{"Name": "group-name", "Values": ["gridcloud-*"]}]
            )["SecurityGroups"]
            assert not group["IpPermissions"], "nobody is let in"
            told = moto.ec2.describe_instance_attribute(
                InstanceId=handle.data["machine"], Attribute="userData"
            )
            assert told["UserData"]["Value"]
            with pytest.raises(NoCapacity):
                await driver.create(spec.model_copy(update={"id": "i-no-room"}))
            # Nobody is asked to remove what was not made. What was known of a former life went before.
            assert agents.forgotten[-2:] == ["i-no-room", "i-no-room"]
            assert [one.name for one in tmp_path.glob("**/invited/*")] == [spec.id]
            seen = await look()
            assert (seen.phase, seen.detail) == (
                Phase.PENDING,
                "it runs, and its agent has not connected yet",
            )
            with pytest.raises(Transient, match="its agent has not connected yet"):
                await driver.arm(spec.id, handle, datetime.now(UTC) + timedelta(hours=1))
            agents.joined.append(
                JoinedMachine(spec.id, {}, "ssh-ed25519 A", "/s", instance_of=context.provider)
            )
            seen = await look()
            assert seen.phase is Phase.RUNNING
            assert isinstance(seen.address, SSHAddress)
            assert (seen.address.socket, seen.address.principal) == ("/s", "gridcloud-i-dials")
        finally:
            await driver.destroy(spec.id, handle)
            await driver.destroy(SHARED, None)
            await driver.close()
    assert agents.forgotten[-1] == spec.id
    with pytest.raises(ValidationError, match="sudo: true"):
        EC2Settings.model_validate(entry | {"agent": {"url": "https://hub.example"}, "sudo": False})
    with pytest.raises(ValidationError, match="allow_from"):
        EC2Settings.model_validate(entry)


@pytest.fixture
def fetching(tmp_path: Path) -> Iterator[str]:
    """How a machine fetches its agent."""
    if missing := missing_for_virtual_machines():
        pytest.skip(f"NOT TESTED: {missing}")
    with serve_agent(tmp_path / "packages") as lines:
        yield lines


@pytest.mark.lab
@pytest.mark.needs_root
@pytest.mark.timeout(2400)
# The SDK says of its own calls that they will go, whatever is called.
@pytest.mark.filterwarnings("ignore::openstack.warnings.OpenStackDeprecationWarning")
@pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning")
async def test_at_openstack_one_without_an_address_serves_a_session_and_commands(
    openstack_cloud: OpenStack, tmp_path: Path, fetching: str
) -> None:
    project = openstack_cloud.make_project(cores=4, ram=8192, instances=2, floating_ips=0)
    certificate, key = make_certificate(tmp_path, "hub", HOST)
    port = free_port()
    door = {"host": "127.0.0.1", "port": port, "certificate": str(certificate), "key": str(key)}
    entry: dict[str, Any] = {
        "driver": "openstack",
        "cloud": project.cloud,
        "clouds_file": str(openstack_cloud.clouds_file),
        "image": "debian-12-*",
        "prices": {"*": 0},
        "public_address": False,
        "agent": agent_of(port, certificate),
        "boot_script": fetching,
    }
    with OpenStackMachines(openstack_cloud, tmp_path / "machines", dialling=True) as machines:
        async with (
            open_service(tmp_path, {"campus": entry}, service=door, limits={"start": 1500}) as service,
            home() as back,
        ):
            house = service.house
            try:
                request = Request(cpus=2, memory=2 << 30, time=3600)
                session = await house.sessions.submit("ada", request, plan_back(back))
                async with asyncio.timeout(1600):
                    session = await house.sessions.wait(session.id)
                assert await fetch(session) == b"here"
                assert await fetch(session, "/back") == b"from home"
                instance = await house.instances.records.get(session.instance_id)
                connection = await link(house, instance)
                assert await read_output(connection, "id", "-un") == "gridcloud\n"
                with openstack_cloud.connect(project) as cloud:
                    assert not list(cloud.network.ips())
                    groups = [
                        one for one in cloud.network.security_groups() if one.name.startswith("gridcloud")
                    ]
                    rules = [rule for one in groups for rule in one.security_group_rules]
                    assert groups
                    assert not [rule for rule in rules if rule["direction"] == "ingress"]
                await house.sessions.stop(session.id)
                await over(house, session)
                await ended(house, instance.id)
                assert await house.reconciliation.examine() == []
            finally:
                print(machines.consoles())
        await until(lambda: not machines.running)
