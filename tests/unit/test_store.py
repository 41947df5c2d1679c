"""The store on SQLite and on PostgreSQL: the same promises on both."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from gridcloud.clock import ManualClock
from gridcloud.errors import Conflict, GridcloudError, InvalidSettings, NotFound, Unreachable
from gridcloud.store import Entry, Event, Record, Store, open_store
from tests.unit import postgresql

numbers = itertools.count()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> Iterator[Path | None]:
    """The folder of a PostgreSQL server's socket; None: SQLite."""
    if request.param == "sqlite":
        yield None
        return
    pytest.importorskip("psycopg", reason=postgresql.INSTALL)
    programs = postgresql.find_programs()
    if programs is None:
        pytest.skip(postgresql.INSTALL)
    with postgresql.serve(programs) as folder:
        yield folder


@pytest.fixture
def location(server: Path | None, tmp_path: Path) -> str:
    if server is None:
        return str(tmp_path / "data" / "store.sqlite")
    name = f"store{next(numbers)}"
    engine = create_engine(
        f"postgresql+psycopg://gridcloud@/postgres?host={server}", isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"postgresql://gridcloud@/{name}?host={server}"


@pytest.fixture
async def store(location: str) -> AsyncIterator[Store]:
    async with await open_store(location, ManualClock()) as store:
        yield store


async def _make(store: Store, id: str = "i-1", owner: str = "ann", state: str = "requested") -> Record:
    return await store.insert(
        "instance", id, owner, state, {"n": 0}, [Entry("requested", "asked for", {"cpus": 2})]
    )


async def test_a_record_is_kept_with_its_story(store: Store) -> None:
    made = await _make(store)
    assert (made.version, made.state, made.body) == (1, "requested", {"n": 0})
    changed = await store.update(
        made, state="ready", events=[Entry("ready"), Entry("told", "ünïcode \0 \udcff")]
    )
    assert await store.get("instance", "i-1") == changed
    assert (changed.version, changed.body, changed.created) == (2, {"n": 0}, made.created)
    story = await store.events("i-1")
    assert [(event.type, event.owner, event.kind) for event in story] == [
        ("requested", "ann", "instance"),
        ("ready", "ann", "instance"),
        ("told", "ann", "instance"),
    ]
    assert story[2].message == "ünïcode \N{REPLACEMENT CHARACTER} ?"
    assert story[0].data == {"cpus": 2}
    assert story[0].at == made.created


async def test_two_of_one_id_are_refused_and_leave_no_event(store: Store) -> None:
    await _make(store)
    with pytest.raises(Conflict, match="There is already instance i-1"):
        await _make(store)
    await store.insert("job", "i-1", "ann", "new", {})
    assert len(await store.events("i-1", kind="instance")) == 1


async def test_a_change_of_what_was_changed_meanwhile_is_refused_with_its_events(store: Store) -> None:
    """Store, promise A."""
    read = await _make(store)
    await store.update(read, state="ready")
    with pytest.raises(Conflict, match="version 1 was read, 2 is there"):
        await store.update(read, state="failed", events=[Entry("failed")])
    with pytest.raises(Conflict):
        await store.delete(read)
    assert (await store.get("instance", "i-1")).state == "ready"
    assert [event.type for event in await store.events()] == ["requested"]


async def test_what_is_gone_is_not_found(store: Store) -> None:
    read = await _make(store)
    await store.delete(read, [Entry("removed")])
    for attempt in (store.get("instance", "i-1"), store.update(read, state="x"), store.delete(read)):
        with pytest.raises(NotFound, match="instance i-1"):
            await attempt
    assert [event.type for event in await store.events("i-1")] == ["requested", "removed"]


async def test_find_by_owner_state_and_number(store: Store) -> None:
    for number, (owner, state) in enumerate([("ann", "ready"), ("bob", "ready"), ("ann", "stopped")]):
        await _make(store, f"i-{number}", owner, state)
    assert [one.id for one in await store.find("instance")] == ["i-0", "i-1", "i-2"]
    assert [one.id for one in await store.find("instance", owner="ann", states=["ready"])] == ["i-0"]
    assert [one.id for one in await store.find("instance", states=["ready", "stopped"], limit=2)] == [
        "i-0",
        "i-1",
    ]
    assert await store.find("instance", states=[]) == []
    assert [one.subject for one in await store.events(owner="bob")] == ["i-1"]


async def test_two_hundred_writers_at_once_lose_no_update(store: Store) -> None:
    """Store, promise A."""
    for number in range(20):
        await _make(store, f"i-{number}")

    async def count(id: str) -> None:
        while True:
            read = await store.get("instance", id)
            try:
                await store.update(read, body={"n": read.body["n"] + 1}, events=[Entry("counted")])
                return
            except Conflict:
                continue

    async with asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(count(f"i-{number % 20}"))
    counted = await store.find("instance")
    assert [(one.body, one.version) for one in counted] == [({"n": 10}, 11)] * 20
    assert [len(await store.events(one.id)) for one in counted] == [11] * 20


async def test_one_bad_write_takes_no_other_with_it(store: Store) -> None:
    """Store, promise C."""
    results = await asyncio.gather(
        *(_make(store, f"i-{number % 5}") for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(one, Record) for one in results) == 5
    assert sum(isinstance(one, Conflict) for one in results) == 15
    assert len(await store.events()) == 5


async def test_what_json_cannot_say_is_refused_before_it_is_written(store: Store) -> None:
    with pytest.raises(ValueError, match="JSON"):
        await store.insert("instance", "i-1", "ann", "x", {"n": float("nan")})
    with pytest.raises(NotFound):
        await store.get("instance", "i-1")


async def test_a_watch_replays_then_follows_and_can_be_resumed(store: Store) -> None:
    """Store, promise D."""
    record = await _make(store)
    await _make(store, "i-other")
    seen: list[Event] = []

    async def follow(after: int, until: str) -> None:
        async for event in store.watch("i-1", after=after):
            seen.append(event)
            if event.type == until:
                return

    watching = asyncio.create_task(follow(0, "half"))
    for number in range(50):
        record = await store.update(record, events=[Entry("half" if number == 25 else f"step-{number}")])
    await watching
    await follow(seen[-1].seq, "step-49")
    assert seen == await store.events("i-1")
    assert await store.last_seq() == seen[-1].seq


async def test_watches_of_an_owner_and_a_kind_see_their_own_only_and_end_with_the_store(
    location: str,
) -> None:
    store = await open_store(location, ManualClock())
    seen: dict[str, list[str]] = {"ann": [], "bob": []}
    both = asyncio.Event()

    async def follow(owner: str) -> None:
        async for event in store.watch(owner=owner, kind="instance"):
            seen[owner].append(event.subject)
            if all(seen.values()):
                both.set()

    watches = [asyncio.create_task(follow(owner)) for owner in seen]
    await asyncio.gather(*(_make(store, f"i-{owner}", owner) for owner in seen))
    await store.append("user", "ann", "ann", [Entry("login")])
    await asyncio.wait_for(both.wait(), 10)
    await store.close()
    await asyncio.wait_for(asyncio.gather(*watches), 10)
    assert seen == {"ann": ["i-ann"], "bob": ["i-bob"]}
    with pytest.raises(GridcloudError, match="closed"):
        await store.get("instance", "i-ann")
    with pytest.raises(GridcloudError, match="closed"):
        await _make(store, "i-late")
    await store.close()


async def test_a_cancelled_writer_leaves_the_store_working(store: Store) -> None:
    task = asyncio.create_task(_make(store))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await _make(store, "i-2")).version == 1


async def test_the_installation_and_notes_stay(location: str) -> None:
    async with await open_store(location, ManualClock()) as store:
        installation = store.installation
        await store.set_meta("colour", "red")
        await store.set_meta("colour", "blue")
    async with await open_store(location, ManualClock()) as store:
        assert store.installation == installation
        assert await store.meta("colour") == "blue"
        assert await store.meta("shape") is None


async def test_two_may_open_a_new_store_at_the_same_time(location: str) -> None:
    stores = await asyncio.gather(*(open_store(location, ManualClock()) for _ in range(4)))
    try:
        assert len({store.installation for store in stores}) == 1
        assert [event.seq for event in await stores[0].append("k", "s", "o", [Entry("a"), Entry("b")])] == [
            1,
            2,
        ]
        async with asyncio.timeout(20):
            if "postgresql" in location:  # what another process wrote arrives too
                async for event in stores[1].watch("s", after=1):
                    assert event.type == "b"
                    break
    finally:
        for store in stores:
            await store.close()


@pytest.mark.parametrize(
    "url", ["mysql://ann:hunter2@host/db", "postgresql://ann:hunter2@host:port/db", "sqlite://"]
)
async def test_a_url_we_cannot_use_is_refused_without_telling_its_password(url: str) -> None:
    with pytest.raises(InvalidSettings) as refusal:
        await open_store(url, ManualClock())
    assert "hunter2" not in str(refusal.value)


async def test_a_server_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason=postgresql.INSTALL)
    with pytest.raises(Unreachable) as failure:
        await open_store(f"postgresql://ann:hunter2@/db?host={tmp_path}", ManualClock())
    assert "hunter2" not in str(failure.value)
    assert "does not answer" in str(failure.value)
