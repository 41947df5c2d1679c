"""The service's authority is rotated: machines follow what the earlier one signed, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from gridcloud import connections
from gridcloud.agents.dialling import Dialler, Way, join
from gridcloud.agents.invitations import key_of
from gridcloud.agents.membership import Membership, MembershipFolder
from gridcloud.agents.model import Terms
from gridcloud.connections.model import SSHAddress
from gridcloud.errors import NotAuthenticated
from gridcloud.identity.handover import Handover, hand_over, leads
from gridcloud.testing.instances import read_output
from tests.agents.machines import Little, admit, enter, until
from tests.services import Service, open_service


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path) as opened:
        yield opened


class Running:
    """A machine that keeps what it is told."""

    def __init__(
        self, service: Service, way: Way, membership: Membership, place: MembershipFolder, folder: Path
    ) -> None:
        self.service, self.way, self.membership, self.place, self.folder = (
            service,
            way,
            membership,
            place,
            folder,
        )
        self.told: list[str] = []
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        known = self.place.read()
        assert known is not None
        dialler = Dialler(
            self.way,
            known,
            await self.place.key(),
            Little(self.folder),
            tell=self.told.append,
            keep=self.place.write,
        )
        self.task = asyncio.create_task(dialler.run())

    async def connected(self) -> None:
        await until(lambda: self.membership.name in self.service.house.switchboard.present(), self.told)

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            await until(lambda: self.membership.name not in self.service.house.switchboard.present())


@pytest.fixture
async def machine(service: Service, tmp_path: Path) -> AsyncIterator[Running]:
    way, membership, place = await admit(service, tmp_path / "machine")
    running = Running(service, way, membership, place, tmp_path)
    await running.start()
    await running.connected()
    yield running
    await running.stop()


async def say_hello(service: Service, folder: Path) -> str:
    house = service.house
    place = SSHAddress(
        host="lab-pc",
        socket=str(house.switchboard.socket_to("lab-pc")),
        user="i-1",
        principal="gridcloud-i-1",
        host_keys=((await house.agents.get("lab-pc")).host_key,),
        directory=str(folder),
    )
    connection = await connections.open(place, house.credentials)
    try:
        return await read_output(connection, "echo", "hello")
    finally:
        await connection.close()


async def test_a_connected_machine_is_told_before_it_is_needed(service: Service, machine: Running) -> None:
    since = service.house.switchboard.present()["lab-pc"].since
    service.house.authority.rotate("user")
    assert "hello" in await say_hello(service, machine.folder)
    assert service.house.switchboard.present()["lab-pc"].since == since
    kept = machine.place.read()
    assert kept is not None
    assert kept.authority == key_of(service.house.authority.user_authority) != machine.membership.authority
    assert any("was rotated" in line for line in machine.told)


async def test_a_machine_that_was_away_follows_all_steps(service: Service, machine: Running) -> None:
    await machine.stop()
    service.house.authority.rotate("user")
    service.house.authority.rotate("user")
    await machine.start()
    await machine.connected()
    assert "hello" in await say_hello(service, machine.folder)


async def test_nothing_leads_from_an_authority_that_was_forgotten(service: Service, machine: Running) -> None:
    await machine.stop()
    service.house.authority.rotate("user")
    service.house.authority.forget("user")
    machine.told.clear()
    await machine.start()
    await until(lambda: any("it is not believed" in line for line in machine.told), machine.told)
    assert not service.house.switchboard.present()
    kept = machine.place.read()
    assert kept is not None
    assert kept.authority == machine.membership.authority


async def test_an_invitation_outlives_a_rotation(service: Service, tmp_path: Path) -> None:
    _, token = await service.house.agents.invite("later", "admin")
    service.house.authority.rotate("user")
    _, membership, _ = await enter(service, tmp_path / "later", token)
    assert membership.authority == key_of(service.house.authority.user_authority)
    _, token = await service.house.agents.invite("never", "admin")
    service.house.authority.rotate("user")
    service.house.authority.forget("user")
    with pytest.raises(NotAuthenticated):
        await join(
            Way(service.url, ca=service.certificate), token, MembershipFolder(tmp_path / "never"), Terms()
        )


def make() -> tuple[asyncssh.SSHKey, str]:
    key = asyncssh.generate_private_key("ssh-ed25519")
    return key, key.export_public_key().decode().strip()


def test_only_signed_steps_lead() -> None:
    (first, one), (second, two), (_, three), (thief, other) = make(), make(), make(), make()
    steps = [hand_over(first, two), hand_over(second, three)]
    assert leads(one, three, steps)
    assert leads(two, three, steps)
    assert leads(one, one, [])
    assert not leads(three, one, steps), "not backwards"
    assert not leads(one, three, steps[1:])
    for wrong in (
        steps[0].model_copy(update={"signature": steps[1].signature}),
        steps[0].model_copy(update={"signature": "no"}),
        Handover(old=steps[0].old, new=steps[0].new, signature=hand_over(thief, two).signature),
        Handover(old="x", new=steps[0].new, signature=""),
    ):
        assert not leads(one, three, [wrong, steps[1]])
    circle = [hand_over(first, two), hand_over(second, one)]
    assert not leads(other, two, circle), "and a circle ends"
