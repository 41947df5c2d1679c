"""What every storage does, as a suite to subclass.

    class TestMine(StorageContract):
        @pytest.fixture
        def storage(self, ...):
            return MineStorage(...)      # empty

A deviation that is known is stated by overriding the test with a strict ``xfail`` and its reason.
"""

from __future__ import annotations

import asyncio

import pytest

from gridcloud.data.driver import Entry, Storage
from gridcloud.data.paths import Names
from gridcloud.errors import Conflict, InvalidRequest, NotFound

__all__ = ["StorageContract", "listed", "put", "take"]

STRANGE = ("Ünïcode 名前 🧪", "a b", "-rf", "$(touch x)", "%2e%2e", "line\nline", ".hidden", "\udcff\udcfe")
"""Names that a storage keeps as they are; the last is no UTF-8."""


async def put(storage: Storage, path: Names, data: bytes) -> Entry:
    """Write a whole file."""
    writer = await storage.write(path)
    try:
        await writer.write(0, data)
        return await writer.finish()
    finally:
        await writer.abort()


async def take(storage: Storage, path: Names) -> bytes:
    """Read a whole file."""
    reader = await storage.read(path)
    try:
        return await reader.read(0, reader.entry.size)
    finally:
        await reader.close()


async def listed(storage: Storage, path: Names = ()) -> list[str]:
    """Return the names in a folder, sorted."""
    return sorted([one.name async for batch in storage.scan(path) for one in batch])


class StorageContract:
    """The suite."""

    @pytest.fixture
    def storage(self) -> Storage:
        """Return an empty storage."""
        raise NotImplementedError

    async def test_top_is_a_folder(self, storage: Storage) -> None:
        assert (await storage.stat(())).folder
        assert await listed(storage) == []

    async def test_file_is_there_as_written(self, storage: Storage) -> None:
        entry = await put(storage, ("a",), b"hello")
        assert (entry.name, entry.size, entry.folder) == ("a", 5, False)
        assert entry == await storage.stat(("a",))
        assert await take(storage, ("a",)) == b"hello"
        assert await listed(storage) == ["a"]

    async def test_ranges(self, storage: Storage) -> None:
        await put(storage, ("a",), b"0123456789")
        reader = await storage.read(("a",))
        assert await reader.read(3, 4) == b"3456"
        assert await reader.read(8, 9) == b"89"
        assert await reader.read(10, 1) == b""
        await reader.close()
        await reader.close()

    async def test_nothing_is_seen_before_finish(self, storage: Storage) -> None:
        writer = await storage.write(("a",))
        await writer.write(0, b"half")
        assert await listed(storage) == []
        with pytest.raises(NotFound):
            await storage.stat(("a",))
        await writer.abort()
        await writer.abort()
        assert await listed(storage) == []

    async def test_replacing_is_one_step(self, storage: Storage) -> None:
        first = await put(storage, ("a",), b"before")
        old = await storage.read(("a",))
        second = await put(storage, ("a",), b"after!")
        assert first.tag != second.tag
        assert await old.read(0, 9) == b"before"
        await old.close()
        assert await take(storage, ("a",)) == b"after!"

    async def test_without_replace_what_is_there_stays(self, storage: Storage) -> None:
        await put(storage, ("a",), b"mine")
        writer = await storage.write(("a",))
        await writer.write(0, b"yours")
        with pytest.raises(Conflict):
            await writer.finish(replace=False)
        writer.rename(("b",))
        await writer.finish(replace=False)
        assert await take(storage, ("a",)) == b"mine"
        assert await take(storage, ("b",)) == b"yours"

    async def test_upload_goes_on_by_its_token(self, storage: Storage) -> None:
        first = await storage.write(("a",), token="one")
        await first.write(0, b"01234")
        with pytest.raises(Conflict):
            await storage.write(("a",), token="one")
        await first.leave()
        other = await storage.write(("a",), token="two")
        assert other.size == 0
        await other.abort()
        again = await storage.write(("a",), token="one")
        assert again.size == 5
        await again.write(5, b"56789")
        await again.finish()
        await again.leave()
        assert await take(storage, ("a",)) == b"0123456789"
        fresh = await storage.write(("a",), token="one")
        assert fresh.size == 0
        await fresh.abort()

    async def test_writing_anywhere_and_keeping(self, storage: Storage) -> None:
        await put(storage, ("a",), b"0123456789")
        writer = await storage.write(("a",), keep=True)
        assert writer.size == 10
        await writer.write(2, b"XY")
        await writer.truncate(6)
        assert await writer.read(0, 99) == b"01XY45"
        assert await take(storage, ("a",)) == b"0123456789"
        await writer.finish(modified=1_000_000_000)
        assert await take(storage, ("a",)) == b"01XY45"
        assert (await storage.stat(("a",))).modified == 1_000_000_000

    async def test_folders(self, storage: Storage) -> None:
        await storage.make_folder(("d",))
        with pytest.raises(Conflict):
            await storage.make_folder(("d",))
        with pytest.raises(NotFound):
            await storage.make_folder(("no", "d"))
        with pytest.raises(NotFound):
            await storage.write(("no", "a"))
        with pytest.raises(InvalidRequest):
            await storage.read(("d",))
        await put(storage, ("d", "a"), b"x")
        with pytest.raises(Conflict):
            await storage.remove(("d",))
        await storage.remove(("d", "a"))
        await storage.remove(("d",))
        with pytest.raises(NotFound):
            await storage.remove(("d",))

    async def test_move(self, storage: Storage) -> None:
        await storage.make_folder(("d",))
        await put(storage, ("a",), b"a")
        await put(storage, ("b",), b"b")
        with pytest.raises(Conflict):
            await storage.move(("a",), ("b",))
        assert await take(storage, ("b",)) == b"b"
        await storage.move(("a",), ("d", "a"))
        await storage.move(("d", "a"), ("b",), replace=True)
        assert await take(storage, ("b",)) == b"a"
        await storage.move(("d",), ("e",))
        assert await listed(storage) == ["b", "e"]
        with pytest.raises(InvalidRequest):
            await storage.move(("e",), ("e", "f"))
        with pytest.raises(NotFound):
            await storage.move(("no",), ("f",))

    async def test_strange_names(self, storage: Storage) -> None:
        for name in STRANGE:
            await put(storage, (name,), name.encode("utf-8", "surrogateescape"))
        assert await listed(storage) == sorted(STRANGE)
        for name in STRANGE:
            assert await take(storage, (name,)) == name.encode("utf-8", "surrogateescape")

    async def test_two_writers_the_last_wins_whole(self, storage: Storage) -> None:
        await asyncio.gather(*(put(storage, ("a",), str(one).encode() * 100_000) for one in range(4)))
        found = await take(storage, ("a",))
        assert len(set(found)) == 1
        assert len(found) == 100_000
