"""200 instances started and stopped on `fake`, beside the same calls to the driver without a runner.

    python -m benchmarks.instances [--instances 200] [--rounds 3] [--json FILE]

The peer makes, observes and destroys the same instances by the same driver, all at once, and stores nothing. What is
left over per instance is what the runner costs: seven stored states with their events, on disk when they are told.
Goal: under 5 ms each. The best round of each counts.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import run
from gridcloud import connections
from gridcloud.instances.driver import InstanceDriver
from gridcloud.instances.model import FINAL, Request, Spec
from gridcloud.service.house import House
from gridcloud.settings import SettingsFile


def measure(instances: int, rounds: int) -> dict[str, Any]:
    """Return milliseconds per instance of both, and the difference."""
    return asyncio.run(_measure(instances, rounds))


async def _measure(instances: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entry = {"driver": "fake", "shapes": [{"cpus": 4, "memory": "8GiB", "count": instances}]}
        (folder / "config.yaml").write_text(yaml.safe_dump({"providers": {"cloud": entry}}))
        house = await House.open(SettingsFile(folder / "config.yaml", {}), folder)
        try:
            plain, carried = [], []
            for _ in range(rounds):
                begin = time.perf_counter()
                await asyncio.gather(*(_alone(house, house.providers.get("cloud")) for _ in range(instances)))
                plain.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                await asyncio.gather(*(_carried(house) for _ in range(instances)))
                carried.append(time.perf_counter() - begin)
            if held := await house.providers.get("cloud").holdings():
                raise SystemExit(f"{len(held)} instances are left")
        finally:
            await house.close()
    each = {"driver_ms": min(plain) / instances * 1000, "runner_ms": min(carried) / instances * 1000}
    return {
        "instances": instances,
        **each,
        "overhead_ms": each["runner_ms"] - each["driver_ms"],
        "ratio": each["runner_ms"] / each["driver_ms"],
        "goals": {"overhead_ms": "under 5"},
    }


async def _alone(house: House, driver: InstanceDriver) -> None:
    request = Request()
    offer = (await driver.offers(request))[0]
    spec = Spec(id=house.clock.new_id("i"), owner="ada", request=request, offer=offer)
    handle = await driver.create(spec)
    seen = (await driver.observe({spec.id: handle}))[spec.id]
    if seen.address is None:
        raise SystemExit(f"{spec.id} is {seen.phase}")
    await (await connections.open(seen.address, house.credentials)).close()
    await driver.destroy(spec.id, handle)


async def _carried(house: House) -> None:
    instance = await house.instances.submit("ada", Request())
    await house.instances.wait(instance.id)
    await house.instances.stop(instance.id)
    async for now in house.instances.records.follow(instance.id):
        if now.state in FINAL and now.ended_at is None:
            raise SystemExit(f"{now.id} ended without a time")


if __name__ == "__main__":
    run(__doc__, measure, instances=200, rounds=3)
