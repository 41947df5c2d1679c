"""Drivers of `tests.labs.oracle`: made, given something to do, and looked at from the cloud's side."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

from gridcloud.drivers.instances.oci import OCIDriver
from gridcloud.drivers.instances.oci_settings import OCISettings
from gridcloud.instances.model import Handle, Observation, Phase, Request, Spec
from gridcloud.testing.instances import driver_context
from tests.labs.oracle import Oracle
from tests.labs.oracle_tenancy import Thing

__all__ = ["AUTHORITY", "UBUNTU", "OracleDrivers", "lab_of", "live", "running", "spec_of"]

AUTHORITY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHs3uRsJz0o2TtBmqLnrxnOEJ6QBe9C7fQd9m3nq1k2S authority"
UBUNTU = "Canonical-Ubuntu-24.04-*"


class OracleDrivers:
    """Makes drivers of a cloud with a compartment `lab`, closed together."""

    def __init__(self, cloud: Oracle, folder: Path) -> None:
        self._cloud, self._folder = cloud, folder
        self._made: list[OCIDriver] = []

    def __call__(
        self, user: dict[str, Any] | None = None, installation: str = "gridcloud-test", **more: Any
    ) -> OCIDriver:
        """Make one; ``user`` says what its user may do, ``more`` are settings (None: left out)."""
        values: dict[str, Any] = {"compartment": "lab", "image": UBUNTU, "allow_from": "192.0.2.0/24"}
        values |= {"shapes": ["VM.Standard.E4.Flex"], "endpoint": self._cloud.url}
        values |= {"config_file": self._cloud.write_config(self._folder, **(user or {}))} | more
        settings = OCISettings(driver="oci", **{key: one for key, one in values.items() if one is not None})
        folder = self._folder / f"of-{installation}"
        context = driver_context(folder, installation=installation, user_authority=AUTHORITY)
        self._made.append(OCIDriver(settings, context))
        return self._made[-1]

    async def close(self) -> None:
        for driver in self._made:
            await driver.close()


def lab_of(cloud: Oracle) -> str:
    """Return the compartment's id."""
    return next(id_ for id_, name in cloud.tenancy.compartments.items() if name == "lab")


async def spec_of(driver: OCIDriver, **asked: Any) -> Spec:
    """Return what `create` is given for the best offer."""
    request = Request(**({"memory": "1GiB"} | asked))
    offers = [one for one in await driver.offers(request) if one.available]
    assert offers
    return Spec(id=f"t-{secrets.token_hex(5)}", owner="ada", request=request, offer=offers[0])


def live(cloud: Oracle, kind: str = "instance") -> list[Thing]:
    """Return what the cloud holds of a kind and has not ended."""
    cloud.tenancy.settle()
    return [one for one in cloud.tenancy.of(kind) if one.lives and not one.hidden.get("default")]


async def running(driver: OCIDriver, spec: Spec, handle: Handle) -> Observation:
    """Return how a machine is once it has left its beginning."""
    async with asyncio.timeout(5):
        while True:
            seen = (await driver.observe({spec.id: handle}))[spec.id]
            if seen.phase is not Phase.PENDING:
                return seen
