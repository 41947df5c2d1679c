"""Jobs of a real Slurm as a provider: the contract, what Slurm refuses, and what goes wrong."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.labs.slurm import Slurm
from tests.services import Service, open_service

import gridcloud
from gridcloud import connections
from gridcloud.agents.listing import Listing
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.drivers.instances.slurm import SlurmDriver
from gridcloud.drivers.instances.slurm_settings import SlurmSettings
from gridcloud.errors import Forbidden, InvalidSettings, NoCapacity, Transient
from gridcloud.instances.driver import Context
from gridcloud.instances.model import Handle, Observation, Phase, Request, Spec
from gridcloud.testing.instances import InstanceDriverContract, read_output

pytest_plugins = ["tests.labs.fixtures"]
pytestmark = [pytest.mark.needs_root]

SMALL = Request(cpus=1, memory=64 << 20, time=300)
Make = Callable[..., SlurmDriver]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path) as opened:
        yield opened


@pytest.fixture
async def make(service: Service, quiet_slurm: Slurm, tmp_path: Path) -> AsyncIterator[Make]:
    """Make a driver of the cluster, closed afterwards."""
    made: list[SlurmDriver] = []
    house = service.house

    async def connect(address: Address) -> Connection:
        return await connections.open(address, house.credentials)

    def make_driver(**settings: Any) -> SlurmDriver:
        folder = tmp_path / "provider"
        folder.mkdir(mode=0o700, exist_ok=True)
        agents = Listing(house.agents, house.switchboard)
        context = Context("cluster", house.store.installation, folder, connect, "", agents=agents)
        values = quiet_slurm.entry(service.url, service.certificate, tmp_path / "shared")
        made.append(SlurmDriver(SlurmSettings.model_validate(values | settings), context))
        return made[-1]

    yield make_driver
    for driver in made:
        await driver.close()


@pytest.mark.lab
class TestSlurm(InstanceDriverContract):
    """The contract, on allocations of one node each: two minutes, for each starts an agent."""

    request_: ClassVar[Request] = SMALL
    most = 2

    @pytest.fixture
    async def driver(self, make: Make) -> SlurmDriver:
        return make()


async def submit(driver: SlurmDriver, owner: str = "ada", **asked: Any) -> tuple[Spec, Handle]:
    request = SMALL.model_copy(update=asked)
    offers = await driver.offers(request)
    assert offers[0].available, offers[0].why_not
    spec = Spec(id=f"t-{secrets.token_hex(5)}", owner=owner, request=request, offer=offers[0])
    return spec, await driver.create(spec)


async def observed(driver: SlurmDriver, spec: Spec, handle: Handle, wanted: Phase) -> Observation:
    async with asyncio.timeout(40):
        while True:
            seen = (await driver.observe({spec.id: handle}))[spec.id]
            if seen.phase is wanted:
                return seen
            assert seen.phase is Phase.PENDING, seen
            await asyncio.sleep(0.1)


async def test_a_job_lives_is_armed_and_ends(make: Make, quiet_slurm: Slurm, tmp_path: Path) -> None:
    driver = make()
    # Somebody else's job with a name like ours, on the same account.
    other = quiet_slurm.run(
        *("sbatch", "--parsable", "--job-name=gridcloud-t-other", "--output=/dev/null"),
        *("--cpus-per-task=1", "--mem=10M", "--wrap", "sleep 300"),
    ).strip()
    spec, handle = await submit(driver, owner="-rf $(touch /tmp/x)", gpus=1, gpu_model="A100")
    seen = await observed(driver, spec, handle, Phase.RUNNING)
    assert seen.address is not None
    assert spec.offer.shape.gpu_model == "a100"
    told = quiet_slurm.run("scontrol", "--oneliner", "show", "job", str(handle.data["job"]))
    assert "TresPerNode=gres:gpu:a100:1" in told
    assert "TimeLimit=00:10:00" in told, "five minutes, and the margin"

    # No secret where others look: the token is in a folder of ours, and gone once it was used.
    script = quiet_slurm.run("scontrol", "write", "batch_script", str(handle.data["job"]), "-")
    assert "gca_" not in script + told
    folder = next((tmp_path / "shared").glob(f"*/cluster/instances/{spec.id}"))
    assert folder.stat().st_mode & 0o077 == 0
    assert not (folder / "token").exists()

    connection = await driver.context.connect(seen.address)
    try:
        words = await read_output(connection, "sh", "-c", "echo $SLURM_JOB_ID; pwd")
        assert words.splitlines() == [handle.data["job"], str(folder / "state" / "work")]
        # Extended, its job may last longer; the other way round, it ends sooner.
        for minutes, limit in ((30, "00:35:00"), (2, "00:07:00")):
            await driver.arm(spec.id, handle, datetime.now(UTC) + timedelta(minutes=minutes))
            told = quiet_slurm.run("scontrol", "--oneliner", "show", "job", str(handle.data["job"]))
            assert f"TimeLimit={limit}" in told or f"TimeLimit={limit[:4]}{int(limit[4]) + 1}:00" in told
    finally:
        await connection.close()
    assert {one.instance_id for one in await driver.holdings()} == {spec.id}
    await driver.destroy("t-other", None)
    await driver.destroy(spec.id, None)
    await driver.destroy(spec.id, handle)
    assert (await driver.observe({spec.id: handle}))[spec.id].phase is Phase.GONE
    assert not folder.exists()
    assert await driver.holdings() == []
    assert quiet_slurm.run("squeue", "--noheader", "--states=RUNNING", "--format=%i").split() == [other]
    quiet_slurm.run("scancel", other)


async def test_what_slurm_refuses_is_told(make: Make, service: Service) -> None:
    driver = make()
    names = {offer.choice["partition"] for offer in await driver.offers(SMALL)}
    assert names == {"work", "short"}, "the others are closed, or for others"
    (offer,) = await make(account="staff", partitions=["staff"]).offers(SMALL)
    assert "Invalid account or account/partition combination" in offer.why_not, "Slurm's own word counts"
    for asked, words in (
        ({"time": 2 * 86400}, "jobs last 1440 minutes at most, 2880 were asked"),
        ({"gpus": 2}, "2 GPUs asked, 1 at most"),
        ({"gpus": 1, "gpu_model": "H100"}, "GPU model H100 asked, a100 there"),
        ({"gpus": 1, "gpu_memory": 40 << 30}, "is not known: set gpu_memory"),
        ({"cpus": 3}, "3 CPUs asked, 2 at most"),
        ({"image": "debian"}, "no images"),
    ):
        (offer,) = await driver.offers(SMALL.model_copy(update=asked))
        assert not offer.possible
        assert words in offer.why_not, offer.why_not
        assert "is for the accounts staff" in offer.why_not or "image" in asked
    (offer,) = await make(partitions=["closed"]).offers(SMALL)
    assert offer.why_not == "partition closed: takes no jobs now"
    known = make(gpu_memory={"A100": "40GiB"})
    offers = await known.offers(SMALL.model_copy(update={"gpus": 1, "gpu_memory": 40 << 30}))
    assert offers[0].shape.gpu_memory == 40 << 30
    with pytest.raises(InvalidSettings, match="no partition"):
        await make(partitions=["nowhere"]).offers(SMALL)
    (offer,) = await make(reservation="none").offers(SMALL)
    assert "invalid" in offer.why_not.lower(), offer.why_not
    for settings, words in (
        ({"share_account": False}, "would share its files"),
        ({"allow_root": False}, "is root"),
    ):
        with pytest.raises(Forbidden, match=words):
            await submit(make(**settings))
    assert await service.house.agents.all() == [], "nobody was invited who does not come"


async def test_who_waits_is_told_why_and_until_when(make: Make, quiet_slurm: Slurm) -> None:
    blocking = ("--nodes=2", "--exclusive", "--output=/dev/null", "--time=5", "--wrap", "sleep 300")
    job = quiet_slurm.run("sbatch", "--parsable", *blocking).strip()
    async with asyncio.timeout(20):
        while quiet_slurm.run("squeue", "--noheader", f"--jobs={job}", "--format=%T") != "RUNNING\n":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    impatient = make()
    offer = (await impatient.offers(SMALL))[0]
    assert offer.possible
    assert not offer.available
    assert "is expected to start in 5 minutes" in offer.why_not
    spec = Spec(id="t-impatient", owner="ada", request=SMALL, offer=offer)
    with pytest.raises(NoCapacity, match=r"does not start \((Resources|Priority)\)"):
        await impatient.create(spec)
    assert await impatient.holdings() == []

    patient = make(wait=3600)
    spec, handle = await submit(patient)
    assert spec.offer.wait == pytest.approx(300, abs=60)
    seen = (await patient.observe({spec.id: handle}))[spec.id]
    assert seen.phase is Phase.PENDING
    assert "waits in work: " in seen.detail
    with pytest.raises(Transient):
        await patient.arm(spec.id, handle, datetime.now(UTC))
    await patient.destroy(spec.id, None)
    quiet_slurm.run("scancel", job)


async def test_a_job_that_fails_says_why(make: Make, tmp_path: Path) -> None:
    driver = make(before="echo the module is not there >&2; exit 3")
    spec, handle = await submit(driver)
    seen = await observed(driver, spec, handle, Phase.FAILED)
    assert "the module is not there" in seen.detail
    assert [one.what for one in await driver.holdings()] == ["folder"]
    await driver.destroy(spec.id, None)
    assert await driver.holdings() == []


async def test_check_tells_what_is_missing(make: Make, tmp_path: Path) -> None:
    empty = tmp_path / "slurm.conf"
    empty.touch()
    said = {one.message: one.ok for one in await make().check()}
    assert all(said.values()), said
    assert any("slurm-wlm" in one for one in said)
    for settings, words in (
        ({"url": "https://127.0.0.1:1"}, "127.0.0.1:1 is not reached from there."),
        ({"command": ("/nowhere/gridcloud",)}, "does not run"),
        ({"partitions": ("gone",)}, "There is no such partition."),
        ({"allow_root": False}, "The account is root."),
        ({"environment": {"SLURM_CONF": str(empty)}}, "sbatch does not work there: "),
    ):
        # What says the version without the seconds that gridcloud takes to start.
        quick = {"command": ("/bin/echo", gridcloud.__version__)} | settings
        wrong = [one.message for one in await make(**quick).check() if not one.ok]
        assert any(words in one for one in wrong), wrong


async def test_a_controller_that_is_away_is_no_end(make: Make, quiet_slurm: Slurm, tmp_path: Path) -> None:
    far = tmp_path / "slurm.conf"
    text = re.sub(
        r"(SlurmctldPort|MessageTimeout)=\d+\n", "", (quiet_slurm.folder / "slurm.conf").read_text()
    )
    far.write_text(f"{text}SlurmctldPort=1\nMessageTimeout=2\nTCPTimeout=1\n")
    environment = {"SLURM_CONF": str(far)}
    driver = make(environment=environment)
    with pytest.raises(Transient, match="Slurm says"):
        await driver.offers(SMALL)
    with pytest.raises(Transient):
        await driver.observe({"t-one": Handle(data={"job": "1"})})
    with pytest.raises(Transient):
        await driver.destroy("t-one", None)
