"""The fake provider keeps the contract, and fails exactly as told."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from gridcloud.drivers.instances.fake import FakeDriver, FakeSettings
from gridcloud.errors import GridcloudError, NoCapacity, QuotaExceeded, Rejected, Throttled, Unreachable
from gridcloud.instances.model import Finding, Handle, Kind, Phase, Request, Spec
from gridcloud.testing.instances import InstanceDriverContract, check_findings, driver_context

SHAPES = (
    {"name": "small", "cpus": 2, "memory": "4GiB", "count": 3, "price": "0.1"},
    {"name": "large", "cpus": 8, "memory": "32GiB", "count": 2},
)


def make(folder: Path, **settings: object) -> FakeDriver:
    values = {"driver": "fake", "shapes": SHAPES, "price": "0.4", "location": "nowhere"} | settings
    return FakeDriver(FakeSettings.model_validate(values), driver_context(folder))


class TestFakeDriver(InstanceDriverContract):
    @pytest.fixture
    async def driver(self, tmp_path: Path) -> AsyncIterator[FakeDriver]:
        driver = make(tmp_path / "fake")
        yield driver
        await driver.close()


@pytest.mark.parametrize("changes", [{"ok": False}, {"known": False}, {"message": ""}])
def test_the_contract_demands_that_findings_say_what_to_do(changes: dict[str, object]) -> None:
    good = Finding(subject="quota", ok=True, message="1 of 2 used")
    check_findings([good, good.model_copy(update={"ok": False, "remedy": "End one."})])
    for findings in ([], [good, good.model_copy(update=changes)]):
        with pytest.raises(AssertionError):
            check_findings(findings)


class TestSlowFakeDriver(InstanceDriverContract):
    start_seconds = 10
    poll_seconds = 0.02

    @pytest.fixture
    async def driver(self, tmp_path: Path) -> AsyncIterator[FakeDriver]:
        driver = make(tmp_path / "fake", latency=2, boot_seconds=0.05)
        yield driver
        await driver.close()


async def spec(driver: FakeDriver, name: str = "one-1") -> Spec:
    request = Request()
    return Spec(id=name, owner="ada", request=request, offer=(await driver.offers(request))[0])


async def test_offers_come_cheapest_first_with_price_location_and_kind(tmp_path: Path) -> None:
    offers = await make(tmp_path, kind="container").offers(Request())
    assert [(offer.shape.name, offer.price) for offer in offers] == [
        ("small", Decimal("0.1")),
        ("large", Decimal("0.4")),
    ]
    assert {(offer.location, offer.kind) for offer in offers} == {("nowhere", Kind.CONTAINER)}


async def test_an_image_that_is_not_there_is_never_possible(tmp_path: Path) -> None:
    driver = make(tmp_path, images=("debian", "jupyter"))
    assert (await driver.offers(Request(image="jupyter")))[0].available
    (offer,) = await driver.offers(Request(image="windows"))
    assert not offer.possible
    assert "debian, jupyter" in offer.why_not
    assert await driver.images() == ("debian", "jupyter")


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        ("no-capacity", NoCapacity),
        ("quota", QuotaExceeded),
        ("unreachable", Unreachable),
        ("throttled", Throttled),
        ("rejected", Rejected),
    ],
)
async def test_fails_as_told_as_often_as_told(
    tmp_path: Path, error: str, raised: type[GridcloudError]
) -> None:
    driver = make(tmp_path, faults=({"call": "create", "error": error, "times": 2},))
    asked = await spec(driver)
    for _ in range(2):
        with pytest.raises(raised):
            await driver.create(asked)
        assert await driver.holdings() == []
    await driver.create(asked)


async def test_faults_are_counted_over_restarts(tmp_path: Path) -> None:
    faults = ({"call": "offers", "error": "throttled", "times": 2},)
    for _ in range(2):
        with pytest.raises(Throttled):
            await make(tmp_path, faults=faults).offers(Request())
    assert await make(tmp_path, faults=faults).offers(Request())


async def test_crash_after_leaves_what_was_made(tmp_path: Path) -> None:
    driver = make(tmp_path, faults=({"call": "create", "error": "crash-after"},))
    asked = await spec(driver)
    with pytest.raises(Unreachable):
        await driver.create(asked)
    assert [holding.instance_id for holding in await driver.holdings()] == ["one-1"]
    await driver.create(asked)
    assert len(await driver.holdings()) == 1


async def test_hang_never_answers(tmp_path: Path) -> None:
    driver = make(tmp_path, faults=({"call": "observe", "error": "hang"},))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await driver.observe({})
    assert await driver.observe({}) == {}


async def test_chance_follows_the_seed(tmp_path: Path) -> None:
    async def failures(folder: Path, seed: int) -> list[bool]:
        fault = {"call": "offers", "error": "throttled", "times": "always", "probability": 0.5}
        driver = make(folder, faults=(fault,), seed=seed)
        results = []
        for _ in range(20):
            try:
                await driver.offers(Request())
                results.append(False)
            except Throttled:
                results.append(True)
        return results

    first = await failures(tmp_path / "a", 1)
    assert first == await failures(tmp_path / "b", 1)
    assert first != await failures(tmp_path / "c", 2)
    assert 2 < sum(first) < 18


async def test_check_tells_its_faults(tmp_path: Path) -> None:
    findings = await make(tmp_path, faults=({"call": "create", "error": "quota", "times": "always"},)).check()
    assert [finding.ok for finding in findings] == [True, False]
    assert "create fails always with quota" in findings[1].message


async def test_killed_at_any_point_the_state_is_whole(tmp_path: Path) -> None:
    """A broker that makes and removes machines without end is killed; the next one reads what it left."""
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.drivers.test_fake import make, spec
async def main():
    driver = make(Path({str(tmp_path)!r}))
    asked = await spec(driver)
    print("ready", flush=True)
    while True:
        for number in range(3):
            await driver.create(asked.model_copy(update={{"id": f"one-{{number}}"}}))
        for number in range(3):
            await driver.destroy(f"one-{{number}}", None)
asyncio.run(main())
"""
    broker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    assert broker.stdout
    assert await broker.stdout.readline() == b"ready\n"
    await asyncio.sleep(0.1)
    broker.kill()
    await broker.communicate()
    driver = make(tmp_path)
    for holding in await driver.holdings():
        handle = holding.handle or Handle(data={})
        assert (await driver.observe({holding.instance_id: handle}))[holding.instance_id].phase in set(Phase)
        await driver.destroy(holding.instance_id, handle)
    assert await driver.holdings() == []
    assert list((tmp_path / "instances").iterdir()) == []
