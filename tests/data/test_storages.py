"""The storages keep the contract; the local one is not led out of its folder."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridcloud.data.beneath import Beneath
from gridcloud.data.driver import Storage
from gridcloud.drivers.storages.fsspec import FsspecSettings, FsspecStorage
from gridcloud.drivers.storages.local import LocalSettings, LocalStorage
from gridcloud.errors import InvalidRequest, NotFound, StorageFull
from gridcloud.testing.storages import StorageContract, listed, put, take
from tests.data.parts import ObjectStoreContract

FORBIDDEN = (InvalidRequest, NotFound)


@pytest.fixture(params=["openat2", "walk"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Resolve by openat2, and as an older kernel has it done."""
    before, Beneath.fast = Beneath.fast, request.param == "openat2"
    yield request.param
    Beneath.fast = before


class TestLocal(StorageContract):
    """LocalStorage."""

    @pytest.fixture
    def storage(self, tmp_path: Path, way: str) -> Storage:
        (tmp_path / "root").mkdir()
        return LocalStorage(LocalSettings(driver="local", path=tmp_path / "root"))

    async def test_links_are_neither_shown_nor_followed(self, storage: Storage, tmp_path: Path) -> None:
        root = tmp_path / "root"
        (tmp_path / "secret").mkdir()
        (tmp_path / "secret" / "file").write_text("secret")
        (root / "out").symlink_to(tmp_path / "secret")
        (root / "file").symlink_to(tmp_path / "secret" / "file")
        (root / "up").symlink_to("..")
        os.mkfifo(root / "pipe")
        assert await listed(storage) == []
        for path in (("out", "file"), ("file",), ("up", "secret", "file"), ("pipe",)):
            with pytest.raises(FORBIDDEN):
                await storage.read(path)
            with pytest.raises(FORBIDDEN):
                await storage.stat(path)
            with pytest.raises(FORBIDDEN):
                await put(storage, path, b"mine")
        for path in (("out",), ("out", "file"), ("up",)):
            with pytest.raises(FORBIDDEN):
                await storage.remove(path)
            with pytest.raises(FORBIDDEN):
                await storage.make_folder((*path, "d"))
            with pytest.raises(FORBIDDEN):
                await listed(storage, path)
        assert (tmp_path / "secret" / "file").read_text() == "secret"

    async def test_nobody_wins_the_race(self, storage: Storage, tmp_path: Path) -> None:
        """A folder that is exchanged for a link while it is used never leads out."""
        root = tmp_path / "root"
        (tmp_path / "secret").mkdir()
        (tmp_path / "secret" / "file").write_text("secret")
        (root / "real").mkdir()
        (root / "real" / "file").write_text("public")
        (root / "trap").symlink_to(tmp_path / "secret")
        over = threading.Event()

        def exchange() -> None:
            while not over.is_set():
                os.rename(root / "real", root / "d")
                os.rename(root / "d", root / "real")
                os.rename(root / "trap", root / "d")
                os.rename(root / "d", root / "trap")

        thief = threading.Thread(target=exchange, name="thief")
        thief.start()
        try:
            found = set()
            for _ in range(400):
                try:
                    found.add(await take(storage, ("d", "file")))
                    await put(storage, ("d", "new"), b"new")
                except FORBIDDEN:
                    pass
        finally:
            over.set()
            thief.join()
        assert found <= {b"public"}
        assert os.listdir(tmp_path / "secret") == ["file"]

    async def test_parts_are_nobodys_business(self, storage: Storage, tmp_path: Path) -> None:
        await put(storage, ("a",), b"x")
        writer = await storage.write(("b",), token="t")
        await writer.write(0, b"half")
        await writer.leave()
        (part,) = (tmp_path / "root" / ".gridcloud-parts").iterdir()
        assert part.stat().st_mode & 0o777 == 0o600
        assert await listed(storage) == ["a"]
        os.utime(part, (0, 0))  # from long ago
        await put(storage, ("c",), b"x")
        assert not part.exists()

    @pytest.mark.needs_root
    async def test_full_disk(self, small: Path) -> None:
        storage = LocalStorage(LocalSettings(driver="local", path=small))
        await put(storage, ("a",), b"x")
        with pytest.raises(StorageFull):
            await put(storage, ("a",), bytes(1 << 20))
        assert await take(storage, ("a",)) == b"x"
        await put(storage, ("b",), b"fits")


class TestFsspec(ObjectStoreContract):
    """FsspecStorage over fsspec's file system in memory."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        settings = FsspecSettings(driver="fsspec", url=f"memory://{tmp_path.name}", spool=tmp_path / "spool")
        return FsspecStorage(settings)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in which 256 KiB fit."""
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(root)], check=True)
    yield root
    subprocess.run(["umount", str(root)], check=True)
