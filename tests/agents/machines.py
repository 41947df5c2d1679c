"""A machine that dials a service within a test, and the little that it serves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gridcloud import connections
from gridcloud.agents.dialling import Dialler, Way, join
from gridcloud.agents.membership import Membership, MembershipFolder
from gridcloud.agents.model import Caps, Report, Terms
from gridcloud.agents.serving import Account
from gridcloud.connections.model import LocalAddress
from gridcloud.errors import NotFound
from gridcloud.identity import Secret
from gridcloud.testing.connections import FileCredentials
from tests.services import Service

__all__ = ["Little", "admit", "dialling", "until"]


class Little:
    """Serves one instance, ``i-1``, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def report(self) -> Report:
        return Report(version="test", capacity=Caps(cpus=2), running=("i-1",), labels={"room": "4.1"})

    async def answer(self, call: str, arguments: dict[str, Any]) -> Any:
        self.asked.append((call, arguments))
        if call == "miss":
            raise NotFound("It is not here.", remedy="Look elsewhere.")
        if call == "sleep":
            await asyncio.sleep(600)
        return {"call": call, **arguments}

    def find(self, name: str) -> Account | None:
        if name != "i-1":
            return None
        address = LocalAddress(directory=str(self.folder))
        none = FileCredentials(self.folder / "none", self.folder / "none")
        return Account("gridcloud-i-1", str(self.folder), lambda: connections.open(address, none))


async def admit(
    service: Service, folder: Path, name: str = "lab-pc", **asked: Any
) -> tuple[Way, Membership, MembershipFolder]:
    """Invite a machine and have it join."""
    _, token = await service.house.agents.invite(name, "admin", **asked)
    return await enter(service, folder, token)


async def enter(service: Service, folder: Path, token: Secret) -> tuple[Way, Membership, MembershipFolder]:
    """Have a machine join with a token."""
    way, place = Way(service.url, ca=service.certificate), MembershipFolder(folder)
    return way, await join(way, token, place, Terms()), place


@contextlib.asynccontextmanager
async def dialling(
    service: Service, way: Way, membership: Membership, place: MembershipFolder, hosting: Any, **timing: Any
) -> AsyncIterator[asyncio.Task[None]]:
    """Have a machine be connected."""
    told: list[str] = []
    dialler = Dialler(way, membership, await place.key(), hosting, tell=told.append, **timing)
    task = asyncio.create_task(dialler.run())
    try:
        await until(lambda: membership.name in service.house.switchboard.present() or task.done(), told)
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: Any, told: object = "", seconds: float = 20) -> None:
    """Return once something is true; fail with what was told."""
    try:
        async with asyncio.timeout(seconds):
            while not true():  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"it did not come about: {told}") from None
