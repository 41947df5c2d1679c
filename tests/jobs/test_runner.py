"""Jobs from their being asked for to their end, whatever happens meanwhile. The promises A, B and D."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.jobs.driver import JobObservation, Phase, Submission
from gridcloud.jobs.model import FINAL, Array, ArrayState, Cause, Dependency, Job, Retries, State, When
from gridcloud.jobs.runner import Runner
from gridcloud.settings.request import Request
from gridcloud.store import Entry
from tests.jobs.pretend import Pretence, array_of, ended, job_of, lost, order, running

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def driver(tmp_path: Path) -> Pretence:
    return Pretence(tmp_path / "scheduler")


async def one(runner: Runner, job: Job) -> Job:
    """Return a job once it has ended."""
    async with asyncio.timeout(30):
        [done] = await runner.wait(job.id)
    return done


def words(job: Submission) -> str:
    """What a job is told to run."""
    return job.files["job.sh"].decode()


async def until(runner: Runner, job: Job, state: State) -> Job:
    """Return a job once it is in a state."""
    async with asyncio.timeout(30):
        async for now in runner.jobs.follow(job.id):
            if now.state is state:
                return now
    raise AssertionError(f"it ended as {(await runner.jobs.get(job.id)).state}")


async def test_runs_and_keeps_what_it_found(tmp_path: Path, driver: Pretence) -> None:
    async with running(tmp_path, driver) as runner:
        driver.hold.clear()
        job = await job_of(runner, order("sim", "{x}", work={"parameters": {"x": 1.5}}))
        driver.results[f"{job.id}-1"] = b'{"loss": 0.25}'
        driver.hold.set()
        done = await one(runner, job)
        assert (done.state, done.cause, done.exit, done.results) == (
            State.DONE,
            Cause.NONE,
            0,
            {"loss": 0.25},
        )
        assert done.usage is not None
        assert done.usage.wall == 3
        files = driver.jobs[f"{job.id}-1"].files
        assert b"set -- sim 1.5\n" in files["job.sh"]
        assert files["parameters.json"] == b'{"x": 1.5}'
        story = [event.type for event in await runner.jobs.store.events(job.id)]
        assert story == ["queued", "staging", "submitted", "collecting", "done"]


async def test_values_that_are_none_fail_it(tmp_path: Path, driver: Pretence) -> None:
    async with running(tmp_path, driver) as runner:
        driver.hold.clear()
        job = await job_of(runner, order())
        driver.results[f"{job.id}-1"] = b'{"loss": '
        driver.hold.set()
        done = await one(runner, job)
        assert (done.state, done.cause) == (State.FAILED, Cause.STAGING)
        assert "result.json" in done.detail


async def test_causes_are_tried_again_as_asked(tmp_path: Path, driver: Pretence) -> None:
    asked: list[int] = []

    def how(job: Submission) -> JobObservation:
        asked.append(job.request.memory)
        return ended(0) if job.request.memory >= 4 << 30 else ended(137, "memory")

    driver.how = how
    async with running(tmp_path, driver) as runner:
        wish = order(request=Request(memory=1 << 30), retries=Retries(memory=5))
        done = await one(runner, await job_of(runner, wish))
        assert (done.state, done.attempt, done.spent) == (State.DONE, 3, {Cause.MEMORY: 2})
        assert list(dict.fromkeys(asked)) == [1 << 30, 2 << 30, 4 << 30]
        assert list(driver.jobs) == [f"{done.id}-3"], "the folders of earlier attempts stay behind"
        driver.how = lambda job: ended(3)
        done = await one(runner, await job_of(runner, order(retries=Retries(memory=5))))
        assert (done.state, done.cause, done.exit, done.attempt) == (State.FAILED, Cause.EXIT, 3, 1)


@pytest.mark.parametrize(
    ("begun", "rerunnable", "state"),
    [(True, False, State.FAILED), (True, True, State.DONE), (False, False, State.DONE)],
)
async def test_what_may_have_begun_is_begun_again_only_if_it_may_be(
    tmp_path: Path, driver: Pretence, begun: bool, rerunnable: bool, state: State
) -> None:
    driver.how = lambda job: lost(begun=begun) if job.handle.endswith("-1") else ended(0)
    async with running(tmp_path, driver) as runner:
        done = await one(runner, await job_of(runner, order(rerunnable=rerunnable)))
        assert (done.state, done.cause) == (state, Cause.MACHINE if state is State.FAILED else Cause.NONE)


async def test_what_nobody_runs_fails(tmp_path: Path, driver: Pretence) -> None:
    async with running(tmp_path, driver) as runner:
        done = await one(runner, await job_of(runner, order(request=Request(cpus=2000))))
        assert (done.state, done.cause) == (State.FAILED, Cause.REFUSED)
        for wrong in (order(""), order(after=(Dependency(on="j-none"),)), order(on=("nowhere",))):
            with pytest.raises((InvalidRequest, NotFound)):
                await runner.submit("ada", wrong)


@pytest.mark.parametrize(
    ("code", "when", "state"),
    [
        (0, When.OK, State.DONE),
        (1, When.OK, State.SKIPPED),
        (1, When.FAILED, State.DONE),
        (0, When.FAILED, State.SKIPPED),
        (1, When.ENDED, State.DONE),
    ],
)
async def test_waits_for_others(
    tmp_path: Path, driver: Pretence, code: int, when: When, state: State
) -> None:
    async with running(tmp_path, driver) as runner:
        driver.how = lambda job: None
        first = await job_of(runner, order("first"))
        second = await job_of(runner, order("second", after=(Dependency(on=first.id, when=when),)))
        await until(runner, first, State.RUNNING)
        assert (await runner.jobs.get(second.id)).state is State.WAITING
        driver.how = lambda job: ended(code if "first" in words(job) else 0)
        done = await one(runner, second)
        assert done.state is state
        assert done.cause is (Cause.DEPENDENCY if state is State.SKIPPED else Cause.NONE)
        with pytest.raises(NotFound):
            await runner.submit("eve", order(after=(Dependency(on=first.id),)))


async def test_waits_for_an_array_over_a_restart(tmp_path: Path, driver: Pretence) -> None:
    driver.how = lambda job: ended(0) if "row-0" in words(job) else None
    async with running(tmp_path, driver) as runner:
        array = await array_of(runner, order("row-{n}", rows=({"n": 0}, {"n": 1})))
        after = await job_of(runner, order(after=(Dependency(on=array.id),)))
        await until(runner, await runner.jobs.get(f"{array.id}-0"), State.DONE)
    driver.how = lambda job: ended(0)
    async with running(tmp_path, driver) as runner:
        assert (await one(runner, after)).state is State.DONE
        found = await runner.arrays.get(array.id)
        assert (found.state, found.counts, found.well) == (ArrayState.ENDED, {State.DONE: 2}, True)


@pytest.mark.parametrize("state", [State.WAITING, State.STAGING, State.SUBMITTED, State.RUNNING])
async def test_cancel_in_each_state(tmp_path: Path, driver: Pretence, state: State) -> None:
    driver.how = lambda job: None if state is State.RUNNING else JobObservation(phase=Phase.WAITING)
    async with running(tmp_path, driver) as runner:
        if state is State.STAGING:
            driver.hold.clear()
        after: tuple[Dependency, ...] = ()
        if state is State.WAITING:
            after = (Dependency(on=(await job_of(runner, order())).id),)
        job = await until(runner, await job_of(runner, order(after=after)), state)
        await runner.cancel(job.id)
        driver.hold.set()
        done = await one(runner, job)
        assert done.state is State.CANCELLED
        assert done.ended is not None
        await runner.cancel(job.id)
        assert (await runner.jobs.get(job.id)).version == done.version
        if state is not State.WAITING:
            assert driver.cancelled
        for left in await runner.jobs.live():
            await runner.cancel(left.id)


async def test_lost_answers_lose_no_job_and_double_none(tmp_path: Path, driver: Pretence) -> None:
    driver.faults = ["submit", "observe", "submit", "observe", "observe"]
    async with running(tmp_path, driver) as runner:
        jobs = [await job_of(runner, order(f"n{number}")) for number in range(5)]
        for job in jobs:
            assert (await one(runner, job)).state is State.DONE
    assert sorted(driver.taken) == sorted(f"{job.id}-1" for job in jobs)


async def test_what_its_scheduler_forgot_is_lost(tmp_path: Path, driver: Pretence) -> None:
    driver.how = lambda job: None
    async with running(tmp_path, driver) as runner:
        job = await until(runner, await job_of(runner, order()), State.RUNNING)
        driver.jobs.clear()
        done = await one(runner, job)
        assert (done.state, done.cause) == (State.FAILED, Cause.MACHINE)


async def test_goes_on_where_the_last_run_stopped(tmp_path: Path, driver: Pretence) -> None:
    driver.how = lambda job: None
    jobs: list[Job] = []
    for _ in range(3):
        async with running(tmp_path, driver) as runner:
            jobs.append(await job_of(runner, order()))
            await asyncio.sleep(0.01)
    driver.how = lambda job: ended(0)
    async with running(tmp_path, driver) as runner:
        for job in jobs:
            assert (await one(runner, job)).state is State.DONE
    assert len(driver.taken) == 3


async def test_an_array_whose_jobs_were_not_all_stored_is_completed(tmp_path: Path, driver: Pretence) -> None:
    async with running(tmp_path, driver) as runner:
        array = Array(
            id="a-0123456789", owner="ada", order=order(rows=({"n": 1}, {"n": 2})), created=runner.clock.now()
        )
        body = array.model_dump(mode="json", exclude={"version"})
        await runner.jobs.store.insert("array", array.id, "ada", "open", body, [Entry("open", "")])
    async with running(tmp_path, driver) as runner:
        async with asyncio.timeout(30):
            assert [job.parameters for job in await runner.wait(array.id)] == [{"n": 1}, {"n": 2}]


async def test_arrays_are_cancelled_and_what_failed_is_asked_again(tmp_path: Path, driver: Pretence) -> None:
    driver.how = lambda job: ended(0) if "even" in words(job) else ended(1)
    rows = tuple({"kind": "even" if number % 2 == 0 else "odd"} for number in range(6))
    async with running(tmp_path, driver) as runner:
        array = await array_of(runner, order("{kind}", rows=rows))
        async with asyncio.timeout(30):
            jobs = await runner.wait(array.id)
        assert [job.state for job in jobs] == [State.DONE, State.FAILED] * 3
        assert (await runner.arrays.get(array.id)).well is False
        driver.how = lambda job: None
        again = await runner.retry(array.id)
        assert isinstance(again, Array)
        assert len(again.order.rows) == 3
        await runner.cancel(again.id)
        async with asyncio.timeout(30):
            assert {job.state for job in await runner.wait(again.id)} == {State.CANCELLED}
        with pytest.raises(InvalidRequest):
            await runner.retry(jobs[0].id)


async def test_the_same_is_not_done_twice_where_that_was_asked(tmp_path: Path, driver: Pretence) -> None:
    async with running(tmp_path, driver) as runner:
        first = await job_of(runner, order("sim", "{x}", work={"parameters": {"x": 1}}))
        await one(runner, first)
        again = order("sim", "{x}", work={"parameters": {"x": 1}}, reuse=True)
        done = await one(runner, await job_of(runner, again))
        assert (done.state, done.cause, done.reused) == (State.SKIPPED, Cause.REUSED, first.id)
        assert (await one(runner, await job_of(runner, again, "bob"))).state is State.DONE, (
            "another's results"
        )
        other = order("sim", "{x}", work={"parameters": {"x": 2}}, reuse=True)
        assert (await one(runner, await job_of(runner, other))).state is State.DONE
        array = await array_of(runner, order("sim", "{x}", rows=({"x": 2}, {"x": 3}), reuse=True))
        async with asyncio.timeout(30):
            states = [job.state for job in await runner.wait(array.id)]
        assert states == [State.SKIPPED, State.DONE]
        assert (await runner.arrays.get(array.id)).well


async def test_folders_go_and_what_is_nobodys_too(tmp_path: Path, driver: Pretence) -> None:
    async with running(tmp_path, driver) as runner:
        job = await one(runner, await job_of(runner, order()))
        stranger = Submission("j-stranger-1", "ada", "", Request(), {})
        driver.jobs[stranger.handle] = stranger
        assert await runner.reconcile() == ["j-stranger-1"]
        assert list(driver.jobs) == [job.handle]
        assert await runner.remove(job.id) == 1
        assert await runner.remove(job.id) == 0
        assert not driver.jobs
        assert (await runner.jobs.get(job.id)).state in FINAL


async def test_a_thousand_are_cancelled(tmp_path: Path, driver: Pretence) -> None:
    driver.how = lambda job: None
    async with running(tmp_path, driver) as runner:
        array = await array_of(runner, order(rows=tuple({"n": number} for number in range(1000))))
        await asyncio.sleep(0.2)
        assert len(await runner.cancel(array.id)) == 1000
        async with asyncio.timeout(50):
            jobs = await runner.wait(array.id)
        assert {job.state for job in jobs} == {State.CANCELLED}


async def test_old_folders_and_files_go_by_themselves(tmp_path: Path, driver: Pretence) -> None:
    async with running(tmp_path, driver) as runner:
        job = await one(runner, await job_of(runner, order()))
        digests = [hashlib.sha256(text).hexdigest() for text in (b"used", b"unused", b"young")]
        before = runner.clock.now()
        for digest, text in zip(digests, (b"used", b"unused", b"young"), strict=True):
            await runner.uploads.take(digest, chunks(text), 100)
        driver.how = lambda job: None
        used = order(work={"inputs": ({"source": f"upload:{digests[0]}", "path": "a"},)})
        goes_on = await until(runner, await job_of(runner, used), State.RUNNING)
        for digest in digests[:2]:
            os.utime(runner.uploads.folder / digest, (0, 0))
        await runner.tidy(before)
        assert not (await runner.jobs.get(job.id)).handle
        assert list(driver.jobs) == [goes_on.handle]
        assert {path.name for path in runner.uploads.folder.iterdir()} == {digests[0], digests[2]}
        await runner.cancel(goes_on.id)


async def chunks(text: bytes) -> AsyncIterator[bytes]:
    yield text
