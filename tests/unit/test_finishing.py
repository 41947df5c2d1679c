"""What must not be broken off."""

from __future__ import annotations

import asyncio

import pytest

from gridcloud.finishing import finish, until_done, whole


class Work:
    """Something that takes as long as it is told."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.going_on = asyncio.Event()
        self.done = False

    @whole
    async def run(self, word: str, *, fails: bool = False) -> str:
        """Say a word, at length."""
        self.begun.set()
        await self.going_on.wait()
        self.done = True
        if fails:
            raise ValueError(word)
        return word


async def test_it_is_done_however_often_its_caller_is_cancelled() -> None:
    work = Work()
    calling = asyncio.create_task(work.run("yes"))
    await work.begun.wait()
    for _ in range(3):
        calling.cancel()
        await asyncio.sleep(0)
        assert not calling.done()
    work.going_on.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert work.done


async def test_its_result_and_its_error_are_the_callers() -> None:
    work = Work()
    work.going_on.set()
    assert await work.run("yes") == "yes"
    with pytest.raises(ValueError, match="no"):
        await work.run("no", fails=True)
    assert (work.run.__name__, work.run.__doc__) == ("run", "Say a word, at length.")


async def test_an_error_nobody_waits_for_is_no_complaint(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    calling = asyncio.create_task(work.run("no", fails=True))
    await work.begun.wait()
    calling.cancel()
    work.going_on.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    del calling
    await asyncio.sleep(0)
    assert not caplog.records


async def test_work_that_is_itself_cancelled() -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    waiting = asyncio.create_task(finish(task))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not await until_done(task)
