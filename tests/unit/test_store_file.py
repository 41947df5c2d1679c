"""The SQLite file: who may read it, older and newer ones, damage, full disks, sudden death, one owner."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.schema import CreateIndex, CreateTable

from gridcloud.clock import ManualClock
from gridcloud.errors import GridcloudError, StorageFull, StoreTooNew
from gridcloud.store import Entry, Holder, OwnerLock, open_store, tables


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "store.sqlite"


def _migrations() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", "gridcloud.store:migrations")
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


async def _make_old(path: Path, revision: str) -> None:
    """Write a store as the gridcloud of that revision left it."""
    from alembic import command

    path.parent.mkdir()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection, connection.begin():
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", "gridcloud.store:migrations")
        config.set_main_option("path_separator", "os")
        command.upgrade(config, revision)
        connection.exec_driver_sql(
            "INSERT INTO records VALUES ('instance', 'i-1', 'ann', 'ready', '{\"n\": 1}', 7, 1000000, 2000000)"
        )
        connection.exec_driver_sql("INSERT INTO meta VALUES ('installation', 'the-old-one')")
    engine.dispose()


def _indexes(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}


async def test_the_file_is_for_its_owner_only(path: Path) -> None:
    """Store, promise G."""
    old = os.umask(0)
    try:
        async with await open_store(path, ManualClock()) as store:
            await store.append("k", "s", "o", [Entry("x")])
            assert {one.stat().st_mode & 0o777 for one in path.parent.iterdir()} == {0o600}
            assert path.parent.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(old)


async def test_a_file_left_readable_is_closed(path: Path) -> None:
    await (await open_store(path, ManualClock())).close()
    path.chmod(0o644)
    await (await open_store(path, ManualClock())).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_known_revisions_are_those_shipped() -> None:
    assert [one.revision for one in reversed(list(_migrations().walk_revisions()))] == list(tables.REVISIONS)


async def test_the_migrations_make_the_tables_we_use(path: Path) -> None:
    await (await open_store(path, ManualClock())).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        made = {
            row[0]: row[1]
            for row in connection.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL")
        }
    engine = create_engine("sqlite://")
    for table in tables.metadata.sorted_tables:
        made_of: list[Any] = [CreateTable(table), *(CreateIndex(index) for index in table.indexes)]
        for wanted in made_of:
            name = wanted.element.name
            assert _words(made[str(name)]) == _words(str(wanted.compile(engine)))


def _words(statement: str) -> list[str]:
    return re.sub(r"[\s\"]+", " ", statement).replace(" ,", ",").replace("( ", "(").replace(" )", ")").split()


async def test_an_older_store_is_migrated_and_a_copy_of_it_kept(path: Path) -> None:
    """Store, promise E."""
    await _make_old(path, "0001")
    assert "ix_events_owner" not in _indexes(path)
    async with await open_store(path, ManualClock()) as store:
        record = await store.get("instance", "i-1")
        assert (record.owner, record.version, record.body) == ("ann", 7, {"n": 1})
        assert store.installation == "the-old-one"
        await store.update(record, state="stopped")
    assert {"ix_events_owner", "ix_records_owner"} <= _indexes(path)
    backup = path.with_name("store.sqlite.0001.backup")
    assert "ix_events_owner" not in _indexes(backup)
    assert backup.stat().st_mode & 0o777 == 0o600
    assert not path.with_name("store.sqlite.0001.backup.part").exists()


async def test_a_newer_store_is_refused_with_a_sentence_and_left_alone(path: Path) -> None:
    """Store, promise E."""
    await (await open_store(path, ManualClock())).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")
    before = path.read_bytes()
    with pytest.raises(StoreTooNew) as refusal:
        await open_store(path, ManualClock())
    assert str(path) in refusal.value.message
    assert "0099" in refusal.value.message
    assert "Install" in refusal.value.remedy
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"this is no database " * 500, b"SQLite format 3\0" + b"\x10\0" + b"\xff" * 5000]
)
async def test_a_damaged_file_is_named(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(GridcloudError, match=r"damaged or is no gridcloud store") as failure:
        await open_store(path, ManualClock())
    assert str(path) in str(failure.value)
    assert path.read_bytes() == content


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GridcloudError, match="cannot be opened"):
        await open_store(tmp_path / "file" / "store.sqlite", ManualClock())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.needs_root
async def test_a_full_disk_is_said_and_the_store_works_again_when_there_is_space(small_disk: Path) -> None:
    async def fill() -> None:
        for number in range(100):
            await store.insert("k", f"big-{number}", "o", "s", {"text": "x" * 10_000})

    async with await open_store(small_disk / "store.sqlite", ManualClock()) as store:
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * 400_000)
        first = await store.insert("k", "first", "o", "s", {})
        with pytest.raises(StorageFull, match=f"{small_disk}/store.sqlite is full"):
            await fill()
        assert await store.get("k", "first") == first
        ballast.unlink()
        assert (await store.update(first, state="t")).version == 2


WRITER = """
import asyncio, sys
from gridcloud.clock import SystemClock
from gridcloud.store import Entry, open_store

async def write(store, name):
    record = await store.insert("k", name, "o", "s", {"n": 0}, [Entry("made")])
    while True:
        record = await store.update(record, body={"n": record.version}, events=[Entry("changed")])
        print(name, record.version, flush=True)

async def main():
    store = await open_store(sys.argv[1], SystemClock())
    await asyncio.gather(*(write(store, f"r-{n}") for n in range(8)))

asyncio.run(main())
"""


def _write_until_killed(path: Path) -> dict[str, int]:
    """Let another process write, kill it in the middle, and return the versions it had been answered."""
    answered: dict[str, int] = {}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout):
            if not line.endswith("\n"):
                break  # what it was saying when it died
            name, version = line.split()
            answered[name] = int(version)
            if number == 200:
                process.send_signal(signal.SIGKILL)
    return answered


async def test_sudden_death_loses_nothing_that_was_answered(path: Path) -> None:
    """Store, promise B."""
    answered = _write_until_killed(path)
    assert len(answered) == 8
    async with await open_store(path, ManualClock()) as store:
        for record in await store.find("k"):
            assert record.version >= answered[record.id]
            assert record.body["n"] == record.version - 1
            assert len(await store.events(record.id)) == record.version
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


HOLDER = """
import sys, time
from pathlib import Path
from gridcloud.store import OwnerLock
lock = OwnerLock(Path(sys.argv[1]))
print(lock.try_acquire("/run/their.sock"), flush=True)
time.sleep(60)
"""


def test_one_owns_the_store_until_it_dies(path: Path) -> None:
    """Store, promise F."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with OwnerLock(path) as lock:
            assert not lock.try_acquire("/run/our.sock")
            assert lock.holder() == Holder(process.pid, "/run/their.sock")
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert lock.holder() is None
            assert lock.try_acquire("/run/our.sock")
            assert OwnerLock(path).holder() == Holder(os.getpid(), "/run/our.sock")
            assert not OwnerLock(path).try_acquire()
    assert OwnerLock(path).holder() is None
    assert lock.path.stat().st_mode & 0o777 == 0o600


def test_nobody_owns_the_store_of_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    lock = OwnerLock(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match=r"No space left.*\.lock"):
            lock.try_acquire()
        assert lock.holder() is None
    assert lock.try_acquire()
    lock.release()


def test_an_owner_that_has_not_written_its_name_yet_is_still_one(path: Path) -> None:
    with OwnerLock(path) as lock:
        assert lock.holder() is None
        assert lock.try_acquire()
        lock.path.write_text("")
        assert OwnerLock(path).holder() == Holder(0, "")


async def test_many_new_stores_are_opened_at_once(tmp_path: Path) -> None:
    """Of one process, each in a file of its own: each gets its own tables."""
    places = [tmp_path / f"{number}.sqlite" for number in range(8)]
    stores = await asyncio.gather(*(open_store(place, ManualClock()) for place in places))
    try:
        for store in stores:
            await store.insert("thing", "t-1", "ada", "new", {}, [])
            assert [one.id for one in await store.find("thing")] == ["t-1"]
        assert len({store.installation for store in stores}) == len(stores)
    finally:
        for store in stores:
            await store.close()
