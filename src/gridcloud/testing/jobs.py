"""The contract suite of what runs jobs: subclass it, give it a driver, and it says what the driver does not keep.

::

    class TestMine(JobDriverContract):
        @pytest.fixture
        async def driver(self, tmp_path):
            driver = MyDriver(MySettings(driver="mine", …), job_context(tmp_path))
            yield driver
            await driver.close()

A deviation that is known is stated by overriding the test with a strict ``xfail`` and its reason. The suite needs
pytest-asyncio in its automatic mode. Each test's jobs are few and short.
"""

from __future__ import annotations

import asyncio
import getpass
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gridcloud import connections
from gridcloud.connections.driver import Command, Connection
from gridcloud.connections.local import LocalConnection
from gridcloud.connections.model import Address, LocalAddress
from gridcloud.errors import GridcloudError, NotFound
from gridcloud.identity import Secret, resolve
from gridcloud.jobs.driver import JobContext, JobDriver, JobObservation, Phase, Stream, Submission
from gridcloud.jobs.frame import render_job
from gridcloud.jobs.model import Cause
from gridcloud.settings.request import Request
from gridcloud.testing.instances import HOSTILE_TEXTS, check_findings

__all__ = ["JobDriverContract", "job_context"]


def job_context(
    folder: Path, provider: str = "under-test", installation: str = "gridcloud-test"
) -> JobContext:
    """Return what the house gives a driver, with ``folder`` as its private folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)

    async def connect(address: Address) -> Connection:
        if isinstance(address, LocalAddress):
            return await LocalConnection.open(address)
        return await connections.open(address, _NoCredentials())

    async def secret(reference: str) -> Secret:
        return await asyncio.to_thread(resolve, reference)

    return JobContext(provider, installation, folder, connect, secret)


class JobDriverContract:
    """What every scheduler keeps. ``request`` may be narrowed, the numbers adapted."""

    request: ClassVar[Request] = Request(cpus=0.25, memory=128 << 20)
    impossible: ClassVar[Request] = Request(cpus=1_000_000)
    """What never runs here."""
    owner: ClassVar[str] = getpass.getuser()
    seconds: ClassVar[float] = 60
    """How long a job of no length may take to its end."""
    poll: ClassVar[float] = 0.1
    has_limits: ClassVar[bool] = True
    """Whether a job over its time or memory can be brought about in a few seconds."""

    @pytest.fixture
    def driver(self) -> Any:
        """A fresh driver of a scheduler that holds nothing of ours; closed afterwards. The subclass gives it."""
        raise NotImplementedError(f"{type(self).__name__} gives no fixture 'driver'")

    @pytest.fixture
    async def second_driver(self, driver: JobDriver) -> AsyncIterator[JobDriver]:
        """Another object for the same scheduler, as after a restart."""
        second = type(driver)(driver.settings, driver.context)
        yield second
        await second.close()

    @pytest.fixture(autouse=True)
    async def _leave_nothing(self, driver: JobDriver) -> AsyncIterator[None]:
        yield
        handles = [held.handle for held in await driver.holdings()]
        await driver.cancel(handles)
        await self.ended(driver, handles)
        await driver.remove(handles)
        await driver.remove(handles)
        assert await driver.holdings() == []

    def job(
        self,
        *words: str,
        environment: Mapping[str, str] = {},
        secrets_: Mapping[str, str] = {},
        time: int = 0,
        log: int = 1 << 20,
        name: str = "job",
        inputs: Mapping[str, Path] = {},
        **asked: object,
    ) -> Submission:
        """Return a submission with a new handle."""
        request = self.request.model_copy(update={"time": time, **asked})
        files = render_job(words, environment, secrets=secrets_, time=time, memory=request.memory, log=log)
        return Submission(f"j-{secrets.token_hex(6)}-1", self.owner, name, request, files, inputs)

    async def ended(self, driver: JobDriver, handles: Sequence[str]) -> Mapping[str, JobObservation]:
        """Return the observations of jobs once all have ended."""
        async with asyncio.timeout(self.seconds):
            while True:
                seen = await driver.observe(handles)
                assert set(seen) == set(handles)
                if all(one.phase in (Phase.ENDED, Phase.GONE) for one in seen.values()):
                    return seen
                await asyncio.sleep(self.poll)

    async def running(self, driver: JobDriver, handle: str, said: bytes = b"") -> None:
        """Return once a job runs, and has said something."""
        async with asyncio.timeout(self.seconds):
            while (await driver.observe([handle]))[handle].phase is not Phase.RUNNING:  # noqa: ASYNC110
                await asyncio.sleep(self.poll)
            while said and said not in await self.said(driver, handle):  # noqa: ASYNC110
                await asyncio.sleep(self.poll)

    async def run(self, driver: JobDriver, *jobs: Submission) -> list[JobObservation]:
        """Submit jobs and return how they ended."""
        assert await driver.submit(jobs) == {}
        seen = await self.ended(driver, [job.handle for job in jobs])
        return [seen[job.handle] for job in jobs]

    async def said(self, driver: JobDriver, handle: str, stream: Stream = Stream.OUT) -> bytes:
        """Return what a job said, empty where there is nothing."""
        try:
            return (await driver.logs(handle, stream, 0, 1 << 24)).data
        except NotFound:
            return b""

    async def test_runs_and_ends_well(self, driver: JobDriver) -> None:
        job = self.job("sh", "-c", "echo out; echo err >&2; echo '{\"x\": 1}' >result.json")
        [seen] = await self.run(driver, job)
        assert (seen.phase, seen.cause) == (Phase.ENDED, Cause.NONE), seen
        assert seen.end is not None
        assert seen.end.exit == 0
        assert await self.said(driver, job.handle) == b"out\n"
        assert await self.said(driver, job.handle, Stream.ERR) == b"err\n"
        assert await self.said(driver, job.handle, Stream.RESULT) == b'{"x": 1}\n'
        part = await driver.logs(job.handle, Stream.OUT, 1, 2)
        assert (part.data, part.offset, part.size) == (b"ut", 3, 4)
        assert (await driver.logs(job.handle, Stream.OUT, -3, 9)).data == b"ut\n"

    async def test_tells_causes_apart(self, driver: JobDriver) -> None:
        jobs = [
            self.job("sh", "-c", "exit 3"),
            self.job("sh", "-c", "kill -9 $$"),
            self.job("no-such-program"),
        ]
        exits = [
            (seen.cause, seen.end.exit if seen.end else None, seen.begun)
            for seen in await self.run(driver, *jobs)
        ]
        assert exits == [(Cause.EXIT, 3, True), (Cause.EXIT, 137, True), (Cause.EXIT, 127, True)]

    async def test_ends_what_is_over_its_time(self, driver: JobDriver) -> None:
        if not self.has_limits:
            pytest.skip("limits take too long here")
        [seen] = await self.run(driver, self.job("sleep", "600", time=1))
        assert seen.cause is Cause.TIME, seen

    async def test_ends_what_is_over_its_memory(self, driver: JobDriver) -> None:
        if not self.has_limits:
            pytest.skip("limits take too long here")
        program = "import time; x = bytearray(300 << 20); time.sleep(60)"
        [seen] = await self.run(driver, self.job("python3", "-c", program))
        assert seen.cause is Cause.MEMORY, seen

    async def test_words_and_variables_reach_it_to_the_letter(self, driver: JobDriver) -> None:
        hostile = [*HOSTILE_TEXTS, "", "a\nb 'c' \"d\" \\ {x} %s\n"]
        print_all = "import os, sys; print(ascii([*sys.argv[1:], os.environ['A']]))"
        job = self.job(
            "python3", "-c", print_all, *hostile, environment={"A": hostile[-1]}, name=hostile[0][:200]
        )
        [seen] = await self.run(driver, job)
        assert seen.end is not None
        assert seen.end.exit == 0, await self.said(driver, job.handle, Stream.ERR)
        assert (await self.said(driver, job.handle)).decode().strip() == ascii([*hostile, hostile[-1]])

    async def test_secrets_do_not_stay(self, driver: JobDriver, tmp_path: Path) -> None:
        job = self.job("sh", "-c", 'echo "${#S}"', secrets_={"S": "correct horse"})
        await self.run(driver, job)
        assert await self.said(driver, job.handle) == b"13\n"
        place = await driver.place(job.handle)
        connection = await driver.context.connect(place.address)
        try:
            command = Command(("grep", "-r", "correct horse", f"{place.folder}/.."))
            assert (await connections.run(connection, command)).code == 1
        finally:
            await connection.close()

    async def test_inputs_lie_there_and_outputs_can_be_brought(
        self, driver: JobDriver, tmp_path: Path
    ) -> None:
        (tmp_path / "given").write_bytes(b"\0\xff given")
        job = self.job("sh", "-c", "cat 'a b/in' >out", inputs={"work/a b/in": tmp_path / "given"})
        [seen] = await self.run(driver, job)
        assert seen.cause is Cause.NONE
        place = await driver.place(job.handle)
        connection = await driver.context.connect(place.address)
        try:
            await connection.get(f"{place.folder}/out", tmp_path / "got")
        finally:
            await connection.close()
        assert (tmp_path / "got").read_bytes() == b"\0\xff given"

    async def test_what_is_submitted_twice_runs_once(
        self, driver: JobDriver, second_driver: JobDriver
    ) -> None:
        job = self.job("sh", "-c", "echo ran; sleep 0.5")
        for refused in await asyncio.gather(driver.submit([job]), driver.submit([job])):
            assert refused == {}
        assert await second_driver.submit([job]) == {}
        await self.ended(driver, [job.handle])
        assert await driver.submit([job]) == {}
        await asyncio.sleep(2 * self.poll)
        assert (await self.ended(second_driver, [job.handle]))[job.handle].phase is Phase.ENDED
        assert await self.said(driver, job.handle) == b"ran\n"

    async def test_goes_on_after_a_restart(self, driver: JobDriver, second_driver: JobDriver) -> None:
        job = self.job("sh", "-c", "echo begun; sleep 2; echo ended")
        await driver.submit([job])
        await self.running(driver, job.handle, b"begun")
        await driver.close()
        seen = (await self.ended(second_driver, [job.handle]))[job.handle]
        assert seen.cause is Cause.NONE
        assert seen.end is not None
        assert await self.said(second_driver, job.handle) == b"begun\nended\n"

    async def test_cancel_ends_all_of_it(self, driver: JobDriver) -> None:
        job = self.job("sh", "-c", "(trap '' TERM HUP; sleep 1000) & echo begun; sleep 1000")
        await driver.submit([job])
        await self.running(driver, job.handle, b"begun")
        await driver.cancel([job.handle])
        await driver.cancel([job.handle, "j-0123456789ab-1"])
        seen = (await self.ended(driver, [job.handle]))[job.handle]
        assert seen.phase in (Phase.ENDED, Phase.GONE)
        assert seen.cause is not Cause.NONE or seen.phase is Phase.GONE

    async def test_knows_nothing_of_strangers(self, driver: JobDriver) -> None:
        handle = "j-0123456789ab-1"
        assert (await driver.observe([handle]))[handle].phase is Phase.GONE
        with pytest.raises(NotFound):
            await driver.logs(handle, Stream.OUT, 0, 1)
        with pytest.raises(NotFound):
            await driver.place(handle)
        await driver.remove([handle])
        assert await driver.observe([]) == {}

    async def test_offers(self, driver: JobDriver) -> None:
        assert (await driver.offer(self.request, self.owner)).possible
        refused = await driver.offer(self.impossible, self.owner)
        assert not refused.possible
        assert refused.why_not

    async def test_is_checked(self, driver: JobDriver) -> None:
        check_findings(await driver.check())

    async def test_a_log_is_bounded(self, driver: JobDriver) -> None:
        job = self.job("sh", "-c", "yes | head -c 6000000; echo last words", log=1 << 20)
        await self.run(driver, job)
        part = await driver.logs(job.handle, Stream.OUT, 0, 1 << 24)
        assert part.size < 1 << 21
        assert part.data.startswith(b"y\ny\n")
        assert part.data.endswith(b"last words\n")

    async def test_holdings_are_ours(self, driver: JobDriver) -> None:
        job = self.job("true")
        await self.run(driver, job)
        assert [held.handle for held in await driver.holdings()] == [job.handle]
        await driver.remove([job.handle])
        assert await driver.holdings() == []
        assert (await driver.observe([job.handle]))[job.handle].phase is Phase.GONE


class _NoCredentials:
    async def private_key(self, reference: str) -> Any:
        raise GridcloudError("Tests of a scheduler behind SSH give their own credentials.")

    async def user_certificate(self, principal: str) -> Any:
        raise GridcloudError("Tests of a scheduler behind SSH give their own credentials.")
