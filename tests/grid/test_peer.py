"""Machines of another institution keep the contract of providers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest

from gridcloud.drivers.instances.peer import PeerDriver, PeerSettings
from gridcloud.instances.driver import Context, InstanceDriver
from gridcloud.instances.model import Request
from gridcloud.testing.instances import InstanceDriverContract
from tests.grid.towns import found, open_house

LENT = {
    "driver": "fake",
    "shapes": [{"name": "small", "cpus": 2, "memory": "1GiB", "count": 2}],
    "boot_seconds": 0.2,
}


class TestPeer(InstanceDriverContract):
    request_: ClassVar[Request] = Request(cpus=1, memory=64 * 1024**2)

    @pytest.fixture
    async def driver(self, tmp_path: Path) -> AsyncIterator[InstanceDriver]:
        lender, borrower = found("Bergen", "Oslo")
        lending = {"providers": {"cloud": LENT}, "lending": {"providers": ["cloud"]}}
        async with (
            open_house(tmp_path / "b", lender, lending),
            open_house(tmp_path / "o", borrower, {}) as house,
        ):
            context = Context(
                provider="partners",
                installation=house.store.installation,
                folder=tmp_path,
                connect=house.connect,
                user_authority=house.authority.user_authority,
                peers=house.leasing.borrowing,
            )
            driver = PeerDriver(PeerSettings(driver="peer"), context)
            yield driver
            await driver.close()
