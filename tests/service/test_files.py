"""Files and folders to instances and back, and archives that want to be somewhere else."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gridcloud.connections.model import LocalAddress
from gridcloud.errors import ConnectionLost, Forbidden, GridcloudError, InvalidRequest, NotFound, StorageFull
from gridcloud.service import files, packing
from tests.services import Service


def place(instance: Any) -> Path:
    """Return where an instance of this computer lies."""
    assert isinstance(instance.address, LocalAddress)
    return Path(instance.address.directory)


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return an archive with these members."""
    told = io.BytesIO()
    with tarfile.open(fileobj=told, mode="w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return told.getvalue()


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644, **more: Any
) -> tarfile.TarInfo:
    """Return the head of a member."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    for key, value in more.items():
        setattr(info, key, value)
    return info


async def chunks(data: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def nothing_is_left(service: Service) -> bool:
    return list(service.house.scratch.iterdir()) == []


async def test_a_folder_there_and_back(service: Service, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner" / "empty").mkdir(parents=True)
    (source / "inner" / "big").write_bytes(os.urandom(3 << 20))
    (source / "program").write_text("#!/bin/sh\n")
    (source / "program").chmod(0o750)
    (source / "shared").write_text("x")
    (source / "shared").chmod(0o664)
    os.link(source / "shared", source / "same")
    (source / "link").symlink_to("program")
    (source / "away").symlink_to("/etc/hostname")
    (source / "ün ï\n'$(x)").write_text("odd")
    os.mkfifo(source / "pipe")
    instance = await service.obtain()
    async with service.admin() as client:
        await client.put(instance.id, source, "a/b")
        await client.get(instance.id, "a/b", tmp_path / "back")
        (source / "pipe").unlink()
        assert tree(tmp_path / "back") == tree(source)
        await client.put(instance.id, source / "link", "file")  # a link at the top is followed
        await client.get(instance.id, "file", tmp_path / "file")
        assert (tmp_path / "file").read_text() == "#!/bin/sh\n"
        assert nothing_is_left(service)


def tree(root: Path) -> dict[str, Any]:
    """Return what lies below a folder."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = (path.stat().st_mode, path.read_bytes() if path.is_file() else None)
    return found


async def test_a_transfer_leaves_room_on_our_own_disk(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = await service.obtain()
    (tmp_path / "file").write_text("new")
    (place(instance) / "there").write_text("old")
    # No test fills the disk of the computer it runs on.
    monkeypatch.setattr(files, "RESERVE", 1 << 60)
    monkeypatch.setattr(files, "LOOK", 0)
    async with service.admin() as client:
        with pytest.raises(StorageFull, match="would be left"):
            await client.put(instance.id, tmp_path / "file", "x")
        with pytest.raises(StorageFull, match="would be left"):
            await client.get(instance.id, "there", tmp_path / "got")
    assert nothing_is_left(service)
    assert not (place(instance) / "x").exists()
    assert not (tmp_path / "got").exists()


async def test_what_is_not_there_or_in_the_way(service: Service, tmp_path: Path) -> None:
    instance = await service.obtain()
    (tmp_path / "file").write_text("new")
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    async with service.admin() as client:
        with pytest.raises(NotFound):
            await client.get(instance.id, "absent", tmp_path / "got")
        with pytest.raises(NotFound):
            await client.put(instance.id, tmp_path / "absent", "x")
        with pytest.raises((NotFound, Forbidden)):
            await client.put(instance.id, tmp_path / "circle", "x")
        await client.put(instance.id, tmp_path / "file", "x")
        await client.put(instance.id, tmp_path / "folder", "f")
        for source in ("x", "f"):
            with pytest.raises(InvalidRequest, match="there already"):
                await client.get(instance.id, source, tmp_path / "folder")
        with pytest.raises(InvalidRequest, match="there already"):
            await client.get(instance.id, "f", tmp_path / "file")
        with pytest.raises(GridcloudError):
            await client.get(instance.id, "x", tmp_path / "file" / "below")
        (tmp_path / "old").write_text("old")
        await client.get(instance.id, "x", tmp_path / "old")
        assert (tmp_path / "old").read_text() == "new"
        for bad in ("", "a\0b", "x" * 5000):
            with pytest.raises(InvalidRequest):
                await client.put(instance.id, tmp_path / "file", bad)
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".gridcloud")] == []
        assert nothing_is_left(service)


async def test_the_answer_comes_before_a_large_body_does(service: Service, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(200 << 20)
    async with service.admin() as client:
        with pytest.raises(NotFound, match="There is no instance"):
            await client.put("i-none", tmp_path / "large", "x")


async def test_many_slow_readers_do_not_stop_the_house(service: Service) -> None:
    """More transfers than the pool has threads wait for their readers, and others are served."""
    instance = await service.obtain()
    (place(instance) / "big").write_bytes(b"\0" * (8 << 20))
    async with service.browser() as browser:
        url = f"/v1/instances/{instance.id}/files"
        slow = [await browser.get(url, params={"path": "big"}) for _ in range(40)]
        async with asyncio.timeout(20), service.admin() as client:
            await client.providers()
            (place(instance) / "small").write_text("x")
            await client.get(instance.id, "small", place(instance) / "small.copy")
        for answer in slow:
            answer.close()
    async with asyncio.timeout(20):
        while not nothing_is_left(service):  # noqa: ASYNC110 - a folder tells nobody
            await asyncio.sleep(0.02)


async def test_a_body_that_is_cut_leaves_nothing(service: Service, tmp_path: Path) -> None:
    instance = await service.obtain()
    whole = tar((member("content"), os.urandom(4 << 20)))
    reader, writer = await asyncio.open_unix_connection(str(service.socket))
    head = f"PUT /v1/instances/{instance.id}/files?path=x HTTP/1.1\r\nHost: x\r\nContent-Length: {len(whole)}\r\n\r\n"
    writer.write(head.encode() + whole[: 2 << 20])
    await writer.drain()
    async with asyncio.timeout(20):
        while nothing_is_left(service):  # noqa: ASYNC110 - a folder tells nobody
            await asyncio.sleep(0.01)
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(20):
        while not nothing_is_left(service):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert list(place(instance).iterdir()) == []
    assert reader is not None


async def test_an_answer_that_is_cut_leaves_nothing(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = await service.obtain()
    (place(instance) / "big").write_bytes(os.urandom(4 << 20))
    whole = packing.pack

    async def cut(content: Path) -> AsyncIterator[bytes]:
        async for chunk in whole(content):
            yield chunk
            raise GridcloudError("the disk broke")

    # The only way to break off in the middle at will: a disk that fails half-way.
    monkeypatch.setattr(packing, "pack", cut)
    async with service.admin() as client:
        with pytest.raises(ConnectionLost):
            await client.get(instance.id, "big", tmp_path / "got")
    assert not (tmp_path / "got").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".gridcloud")] == []


HOSTILE = {
    "absolute": (member("/tmp/gridcloud-trap"), b"x"),
    "above": (member("content/../../trap"), b"x"),
    "beside": (member("other"), b"x"),
    "link at the top": (member("content", tarfile.SYMTYPE, "/etc/passwd"), b""),
    "hard link": (member("content", tarfile.LNKTYPE, "/etc/passwd"), b""),
    "device": (member("content", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
    "pipe": (member("content", tarfile.FIFOTYPE), b""),
    "long name": (member("x", tarfile.GNUTYPE_LONGNAME), b"x" * (1 << 20)),
    "pax": (member("x", tarfile.XHDTYPE), b"x" * (1 << 20)),
    "sparse": (member("content", tarfile.GNUTYPE_SPARSE), b"x"),
}


@pytest.mark.parametrize("which", HOSTILE)
async def test_archives_stay_in_their_place(service: Service, which: str) -> None:
    instance = await service.obtain()
    async with service.browser() as browser:
        url = f"/v1/instances/{instance.id}/files"
        answer = await browser.put(url, params={"path": "x"}, data=io.BytesIO(tar(HOSTILE[which])))
        assert (answer.status, (await answer.json(content_type=None))["title"]) == (422, "InvalidRequest")
    assert not (place(instance) / "x").exists()
    assert not Path("/tmp/gridcloud-trap").exists()
    assert nothing_is_left(service)


async def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("safe")
    base = member("content", tarfile.DIRTYPE, mode=0o755)
    for link, through in (
        (member("content/a", tarfile.SYMTYPE, str(outside)), member("content/a/file")),
        (member("content/a", tarfile.SYMTYPE, str(outside / "file")), member("content/a")),
        (member("content/./a", tarfile.SYMTYPE, "../../outside"), member("content//a/file")),
        (
            member("content/a", tarfile.SYMTYPE, str(outside)),
            member("content/a", tarfile.DIRTYPE, mode=0o777),
        ),
    ):
        (tmp_path / "in").mkdir(exist_ok=True)
        with pytest.raises(InvalidRequest):
            await packing.unpack(chunks(tar((base, b""), (link, b""), (through, b"evil"))), tmp_path / "in")
        assert (outside / "file").read_text() == "safe"
        assert [path.name for path in outside.iterdir()] == ["file"]
        shutil.rmtree(tmp_path / "in")


async def test_modes_are_kept_and_owners_are_not(tmp_path: Path) -> None:
    given = tar((member("content", mode=0o6664, uid=12345, gid=12345, uname="daemon", gname="daemon"), b"x"))
    found = (await packing.unpack(chunks(given), tmp_path)).stat()
    assert (found.st_mode & 0o7777, found.st_uid) == (0o664, os.geteuid())


@pytest.mark.parametrize("data", [b"", b"no archive at all" * 100, b"\0" * 1024, b"\x1f\x8b" + b"x" * 600])
async def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        await packing.unpack(chunks(data), tmp_path)


async def test_an_archive_without_its_end(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        await packing.unpack(chunks(tar((member("content"), b"x" * 10_000))[:5000]), tmp_path)


async def test_a_stream_that_fails_is_not_written_on(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield tar((member("content"), b"x" * 100_000))[:50_000]
        raise ConnectionLost("cut")

    with pytest.raises(ConnectionLost):
        await packing.unpack(broken(), tmp_path)
