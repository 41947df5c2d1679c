"""Services that share one PostgreSQL store: each looks after its own, and ends of its own what another stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridcloud.errors import Conflict
from gridcloud.instances.model import FINAL
from gridcloud.service.keeper import keeper_of
from gridcloud.sessions.model import State
from tests.houses import here, open_house, story
from tests.sessions.visit import SMALL, begin, fetch, home, over, plan_back
from tests.unit import postgresql


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of a database of PostgreSQL."""
    pytest.importorskip("psycopg", reason=postgresql.INSTALL)
    programs = postgresql.find_programs()
    if programs is None:
        pytest.skip(postgresql.INSTALL)
    with postgresql.serve(programs) as folder:
        yield f"postgresql://gridcloud@/postgres?host={folder}"


async def test_each_looks_after_its_own(tmp_path: Path, database: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    store = {"url": database}
    async with home() as back, open_house(one, {"there": here()}, store=store) as first:
        session = await begin(first, plan_back(back))
        async with open_house(two, {"there": here()}, store=store) as second:
            # What starts takes up nothing of another's: neither tunnels, nor watches, nor what it thinks is left over.
            assert second.store.installation == first.store.installation
            seen = await second.sessions.lives.get(session.id)
            assert (seen.state, seen.keeper) == (State.RUNNING, first.store.keeper)
            assert await second.sessions.lives.take_up() == []
            assert await second.examine() == []
            other = await begin(second, plan_back(back))
            assert await fetch(other) == b"here"
            assert await fetch(session) == b"here"

            # What only the other's computer can do is refused in words; what the store can carry is done there.
            instance = await second.instances.records.get(session.instance_id)
            with pytest.raises(Conflict, match=f"looked after by the service {first.store.keeper}"):
                await second.connection_to(instance)
            await second.sessions.stop(session.id)
            ended = await over(first, session)
            assert ended.state is State.ENDED, await story(first, session.id)
            alone = await second.instances.submit("ada", SMALL)
            await second.instances.wait(alone.id)
            await first.instances.stop(alone.id)
            async with asyncio.timeout(30):
                async for now in second.instances.records.follow(alone.id):
                    if now.state in FINAL:
                        break
            assert await fetch(other) == b"here"
        # Another that starts again has its own, and only that.
        assert [one.id for one in await first.sessions.lives.live()] == [other.id]
        assert await first.sessions.lives.take_up() == []
        async with open_house(two, {"there": here()}, store=store) as second:
            assert [one.id for one in await second.sessions.lives.take_up()] == [other.id]
            await second.sessions.stop(other.id)
            assert (await over(second, other)).state is State.ENDED


def test_names_are_kept_and_differ(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert keeper_of(tmp_path / "a") == keeper_of(tmp_path / "a")
    assert keeper_of(tmp_path / "a") != keeper_of(tmp_path / "b")
