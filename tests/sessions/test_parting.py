"""What is done before a session ends by itself: its pages save, and a command runs as the session would."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gridcloud.instances.model import Reason
from gridcloud.instances.model import State as InstanceState
from gridcloud.sessions.model import State
from tests.houses import ended, here, open_house, story
from tests.sessions.visit import begin, over


@pytest.mark.parametrize("reason", [Reason.IDLE, Reason.EXPIRED, Reason.BUDGET])
async def test_the_command_has_the_environment_of_its_session(tmp_path: Path, reason: Reason) -> None:
    saved = tmp_path / "saved"
    section = {"before_end": f'printf %s "$SECRET" >"{saved}"; pwd'}
    async with open_house(tmp_path, {"here": here()}, session=section) as house:
        session = await begin(house, environment={"SECRET": "it's $HOME"})
        await house.instances.stop(session.instance_id, reason)
        last = await over(house, session)
        assert (last.state, last.reason) == (State.FAILED, reason)
        assert saved.read_text() == "it's $HOME"
        told = await story(house, session.instance_id)
        assert "exit code 0" in told
        assert f"output: {Path.home()}" in told
        assert "it's" not in told


async def test_one_that_fails_or_takes_too_long_keeps_nothing(tmp_path: Path) -> None:
    section = {"before_end": "echo no room left; sleep 600"}
    limits = {"before_end": 1}
    async with open_house(tmp_path, {"here": here()}, session=section, limits=limits) as house:
        session = await begin(house)
        await house.instances.stop(session.instance_id, Reason.IDLE)
        async with asyncio.timeout(30):
            assert (await over(house, session)).reason is Reason.IDLE
        assert (await ended(house, session.instance_id)).state is InstanceState.STOPPED
        told = await story(house, session.instance_id)
        assert "saved: The command before the end came to nothing: It was not done within" in told


async def test_what_waits_for_pages_is_let_go_when_the_session_is_stopped_meanwhile(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"here": here()}) as house:
        session = await begin(house)
        asking = house.sessions.asking
        asking.begin(session.id)
        instance = await house.instances.records.get(session.instance_id)
        waiting = asyncio.create_task(asking.part(instance))
        await asyncio.sleep(0.05)
        assert not waiting.done(), "its pages were not asked yet"
        await house.sessions.stop(session.id)
        async with asyncio.timeout(10):
            await waiting
        assert (await over(house, session)).state is State.ENDED
