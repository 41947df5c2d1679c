"""A name in place of an id: one's own, of something that lives, and of nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridcloud.cli.naming import find_instance, find_instances, find_session
from gridcloud.errors import InvalidRequest, NotFound
from gridcloud.sessions.model import Plan
from tests.services import SMALL, Service, open_service

PLAN = Plan(words=("sleep", "60"))


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path) as opened:
        yield opened


async def test_sessions_by_name(lab: Service) -> None:
    mine = await lab.house.sessions.submit("ada", SMALL, PLAN, name="lab")
    his = await lab.house.sessions.submit("bob", SMALL, PLAN, name="his")
    async with await lab.user("ada", admin=True) as ada:
        assert (await find_session(ada, "lab")).id == mine.id
        assert (await find_session(ada, his.id)).id == his.id, "an administrator sees it"
        with pytest.raises(NotFound, match=f"You have no session 'his'; others have: {his.id} of bob"):
            await find_session(ada, "his")
        with pytest.raises(NotFound, match="There is no session 'hers'"):
            await find_session(ada, "hers")
        again = await lab.house.sessions.submit("ada", SMALL, PLAN, name="lab")
        with pytest.raises(InvalidRequest, match=f"2 sessions have the name 'lab': {mine.id}, {again.id}"):
            await find_session(ada, "lab")
    async with await lab.user("bob") as bob:
        with pytest.raises(NotFound, match="There is no session"):
            await find_session(bob, mine.id)
    for session in (mine, his, again):
        await lab.house.sessions.stop(session.id)


async def test_instances_by_name(lab: Service) -> None:
    async with await lab.user("ada") as ada, await lab.user("root", admin=True) as root:
        odd = await ada.start(SMALL, name="../tokens")
        unnamed = await ada.start(SMALL)
        assert (await find_instance(ada, "../tokens")).id == odd.id
        assert len(await find_instances(ada, [odd.id, unnamed.id, "../tokens"])) == 2
        for word in ("", ".", "..", "a/b", "i-none", "%2e%2e"):
            with pytest.raises(NotFound, match="There is no instance"):
                await find_instance(ada, word)
        with pytest.raises(NotFound):
            await find_instance(root, "../tokens")
        await ada.stop(odd.id)
        await ada.wait_ended(odd.id)
        with pytest.raises(NotFound):
            await find_instance(ada, "../tokens")
        assert (await find_instance(ada, odd.id)).ended_at
