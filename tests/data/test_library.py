"""Shares in programs: files as the library opens them, and the libraries of science on top of it."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fsspec.callbacks import Callback

import gridcloud.data
from gridcloud.data.model import Limits, Rights
from gridcloud.errors import InvalidRequest, InvalidSettings, NotFound, Untrusted
from gridcloud.files import wire
from gridcloud.files.filesystem import ShareFileSystem
from gridcloud.files.links import find_place, share_url
from gridcloud.files.reading import FIRST
from tests.data.parts import Gateway, opened_files
from tests.services import make_certificate

MIB = 1 << 20


@pytest.fixture
def root(gateway: Gateway, request: pytest.FixtureRequest) -> str:
    """Return a folder of the test's own, as a path of ``share://``."""
    (gateway.folder / request.node.name).mkdir()
    return f"{gateway.link}/{request.node.name}"


def place(gateway: Gateway, path: str) -> Path:
    """Return where a path lies on disk."""
    return gateway.folder / path.removeprefix(f"{gateway.link}/")


def test_small_and_large(files: ShareFileSystem, gateway: Gateway, root: str) -> None:
    for size in (0, 1, FIRST, FIRST + 1, 8 * MIB, 20 * MIB + 7):
        data = random.randbytes(size)
        with files.open(f"{root}/new/deep", "wb") as file:
            for first in range(0, size, 3 * MIB + 1):
                file.write(data[first : first + 3 * MIB + 1])
        assert place(gateway, f"{root}/new/deep").read_bytes() == data
        with files.open(f"{root}/new/deep") as file:
            assert file.read() == data
        assert files.cat_file(f"{root}/new/deep") == data
        assert files.cat_file(f"{root}/new/deep", -5, None) == data[-5:]
        with files.open(f"{root}/new/deep") as file:
            assert b"".join(iter(lambda: file.read(777_777), b"")) == data
        files.rm(f"{root}/new", recursive=True)


def test_anywhere(files: ShareFileSystem, root: str) -> None:
    data = random.randbytes(12 * MIB)
    files.pipe_file(f"{root}/a", data)
    with files.open(f"{root}/a") as file:
        assert file.size == len(data)
        for _ in range(40):
            first, count = random.randrange(len(data)), random.randrange(200_000)
            assert file.seek(first) == first
            assert file.read(count) == data[first : first + count]
        assert file.seek(-3, os.SEEK_END) == len(data) - 3
        assert file.read(99) == data[-3:]
        assert file.read() == b""


def test_nothing_is_seen_before_it_is_closed(files: ShareFileSystem, gateway: Gateway, root: str) -> None:
    files.pipe_file(f"{root}/a", b"before")
    with pytest.raises(ZeroDivisionError), files.open(f"{root}/a", "wb") as file:  # noqa: PT012
        file.write(bytes(20 * MIB))
        assert files.cat_file(f"{root}/a") == b"before"
        assert list(gateway.folder.glob(".gridcloud-parts/*"))
        raise ZeroDivisionError
    assert not list(gateway.folder.glob(".gridcloud-parts/*"))
    assert files.cat_file(f"{root}/a") == b"before"
    with files.open(f"{root}/a", "ab") as file:
        file.write(b" after")
        assert files.cat_file(f"{root}/a") == b"before"
    assert files.cat_file(f"{root}/a") == b"before after"
    with pytest.raises(FileExistsError):
        files.open(f"{root}/a", "xb")
    with pytest.raises(ValueError, match="r\\+b"):
        files.open(f"{root}/a", "r+b")
    with files.transaction:
        with files.open(f"{root}/b", "wb") as file:
            file.write(b"together")
        assert not files.exists(f"{root}/b")
    assert files.exists(f"{root}/b")


def test_changed_while_it_is_read(files: ShareFileSystem, root: str) -> None:
    files.pipe_file(f"{root}/a", bytes(20 * MIB))
    with files.open(f"{root}/a") as file:
        assert file.read(1) == b"\0"
        files.pipe_file(f"{root}/a", b"x" * 20 * MIB)
        file.seek(10 * MIB)
        with pytest.raises(OSError, match="changed while it was read"):
            file.read(10)


def test_words_of_python(files: ShareFileSystem, gateway: Gateway, root: str) -> None:
    with pytest.raises(FileNotFoundError):
        files.open(f"{root}/no")
    with pytest.raises(FileNotFoundError):
        files.ls(f"{root}/no")
    with pytest.raises(IsADirectoryError):
        files.open(root)
    files.mkdir(f"{root}/d")
    with pytest.raises(FileExistsError):
        files.mkdir(f"{root}/d")
    files.touch(f"{root}/d/a")
    with pytest.raises(OSError, match="not empty"):
        files.rmdir(f"{root}/d")
    files.mv(f"{root}/d", f"{root}/e")
    assert files.ls(root, detail=False) == [f"{root}/e"]
    files.rm(f"{root}/e/a")
    files.rmdir(f"{root}/e")
    reading = gateway.make(rights=Rights.READ)
    with pytest.raises(PermissionError, match="does not let you"):
        files.pipe_file(f"{reading}/a", b"")
    host = gateway.link.partition("/")[0]
    with pytest.raises(FileNotFoundError) as caught:
        files.cat_file(f"{host}/s/0123456789abcdef/a")
    assert "0123456789abcdef" not in str(caught.value)


def test_names(files: ShareFileSystem, root: str) -> None:
    for name in ("Ünïcode 名前", "a b", "50% #1?x=y&z", "a+b", "\udcff"):
        files.pipe_file(f"{root}/{name}", name.encode("utf-8", "surrogateescape"))
        assert files.cat_file(f"{root}/{name}") == name.encode("utf-8", "surrogateescape")
        assert [one["name"] for one in files.ls(root)] == [f"{root}/{name}"]
        files.rm_file(f"{root}/{name}")


@contextmanager
def bad_line(address: str, every: int) -> Iterator[str]:
    """Give an address before another whose connections break after so many bytes in either direction."""
    listener = socket.create_server(("127.0.0.1", 0))
    host, _, port = address.partition(":")

    def pump(source: socket.socket, target: socket.socket) -> None:
        left = every
        with source, target:
            try:
                while left > 0 and (data := source.recv(min(left, 65536))):
                    target.sendall(data)
                    left -= len(data)
                for one in (source, target):
                    one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def serve() -> None:
        pumps: list[threading.Thread] = []
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                break
            server = socket.create_connection((host, int(port)))
            for pair in ((client, server), (server.dup(), client.dup())):
                pumps.append(threading.Thread(target=pump, args=pair))
                pumps[-1].start()
        for one in pumps:
            one.join()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_line_that_breaks(files: ShareFileSystem, gateway: Gateway, root: str, tmp_path: Path) -> None:
    data = random.randbytes(20 * MIB)
    address, _, rest = root.partition("/")
    (tmp_path / "up").write_bytes(data)
    with bad_line(address, 3 * MIB) as bad:
        files.put_file(tmp_path / "up", f"{bad}/{rest}/up")
        assert place(gateway, f"{root}/up").read_bytes() == data
        assert files.cat_file(f"{bad}/{rest}/up") == data
        files.get_file(f"{bad}/{rest}/up", tmp_path / "down")
        assert (tmp_path / "down").read_bytes() == data
        files.close()
    assert sorted(os.listdir(tmp_path)) == ["down", "up"]


class Enough(Exception):
    """Somebody has had enough."""


class Stop(Callback):
    """Ends a transfer when so many bytes are there; 0: never."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self.seen: list[int] = []
        self._at = at

    def absolute_update(self, value: int) -> None:
        self.seen.append(value)
        if self._at and value >= self._at:
            raise Enough


def test_sending_goes_on(files: ShareFileSystem, gateway: Gateway, root: str, tmp_path: Path) -> None:
    data = random.randbytes(60 * MIB)
    (tmp_path / "a").write_bytes(data)
    before = set(gateway.folder.glob(".gridcloud-parts/*"))
    with pytest.raises(Enough):
        files.put_file(tmp_path / "a", f"{root}/a", callback=Stop(30 * MIB))
    assert not files.exists(f"{root}/a")
    (part,) = set(gateway.folder.glob(".gridcloud-parts/*")) - before
    assert 0 < part.stat().st_size < len(data)
    told = Stop()
    files.put_file(tmp_path / "a", f"{root}/a", callback=told)
    assert told.seen[0] > 20 * MIB
    assert place(gateway, f"{root}/a").read_bytes() == data


def test_fetching_goes_on(files: ShareFileSystem, gateway: Gateway, root: str, tmp_path: Path) -> None:
    data = random.randbytes(20 * MIB)
    files.pipe_file(f"{root}/a", data)

    with pytest.raises(Enough):
        files.get_file(f"{root}/a", tmp_path / "a", callback=Stop(8 * MIB))
    assert not (tmp_path / "a").exists()
    (part,) = tmp_path.iterdir()
    before = part.stat().st_size
    assert before >= 8 * MIB
    told = Stop()
    files.get_file(f"{root}/a", tmp_path / "a", callback=told)
    assert told.seen[0] > before
    assert (tmp_path / "a").read_bytes() == data
    assert os.listdir(tmp_path) == ["a"]


def test_server_that_is_gone(files: ShareFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "TRIES", 1)  # it would be waited for
    with pytest.raises(ConnectionError, match="does not answer"):
        files.cat_file("127.0.0.1:9/s/0123456789abcdef/a")


def test_password_and_certificate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with Gateway(tmp_path, context) as gateway:
        link = gateway.make(rights=Rights.READ_WRITE, password="hunter2")
        (gateway.folder / "a").write_bytes(b"x")
        with (
            opened_files(tls=True, password="hunter2") as files,
            pytest.raises(PermissionError, match="trusted"),
        ):
            files.cat_file(f"{link}/a")
        with (
            opened_files(tls=True, ca=certificate) as files,
            pytest.raises(PermissionError, match="password"),
        ):
            files.cat_file(f"{link}/a")
        with opened_files(tls=True, ca=certificate, password="hunter2") as files:
            files.pipe_file(f"{link}/b", files.cat_file(f"{link}/a"))
            assert files.cat_file(f"{link}/b") == b"x"
    said = "\n".join(one.getMessage() for one in caplog.records if not one.name.startswith("asyncssh"))
    assert "hunter2" not in said
    assert link.rpartition("/")[2] not in said


def test_links_by_name(
    files: ShareFileSystem, gateway: Gateway, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = tmp_path / "links.yaml"
    monkeypatch.setenv("GRIDCLOUD_LINKS", str(links))
    with pytest.raises(NotFound, match="results"):
        find_place("results/a")
    links.write_text(f"results:\n  url: http://{gateway.link}/\n")
    with pytest.raises(Untrusted, match="chmod 600"):
        find_place("results/a")
    links.chmod(0o600)
    name = root.rpartition("/")[2]
    with gridcloud.data.open(f"share://results/{name}/a", "wb") as file:
        file.write(b"by name")
    with gridcloud.data.open(f"http://{root}/a") as file:
        assert file.read() == b"by name"
    file.fs.close()
    assert place(gateway, f"{root}/a").read_bytes() == b"by name"
    links.write_text("results: {url: 'https://x/s/0123456789abcdef/', pasword: hunter2}\n")
    with pytest.raises(InvalidSettings) as caught:
        find_place("results/a")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(Untrusted, match="clear"):
        share_url("http://example.org/s/0123456789abcdef/a")
    with pytest.raises(InvalidRequest):
        find_place("example.org/a")


def test_in_a_loop(gateway: Gateway, root: str) -> None:
    async def work() -> None:
        files = ShareFileSystem(asynchronous=True, skip_instance_cache=True)
        try:
            async with await files.open_async(f"{root}/a", "wb") as file:
                await file.write(b"0123456789")
            async with await files.open_async(f"{root}/a") as file:
                file.seek(3)
                assert await file.read(4) == b"3456"
            with pytest.raises(ZeroDivisionError):  # noqa: PT012
                async with await files.open_async(f"{root}/b", "wb") as file:
                    await file.write(b"half")
                    raise ZeroDivisionError
            assert [one["name"] for one in await files._ls(root)] == [f"{root}/a"]
        finally:
            await files._close()

    asyncio.run(work())


def test_importing_it_imports_no_server() -> None:
    code = (
        "import sys, gridcloud.data as data; data.open; data.ShareFileSystem; data.read_links\n"
        "found = {name for name in sys.modules if name.startswith(('gridcloud.', 'sqlalchemy', 'fastapi'))}\n"
        "print(*sorted(found & {'gridcloud.store', 'gridcloud.data.shares', 'sqlalchemy', 'fastapi'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_pandas(files: ShareFileSystem, root: str) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"n": range(10_000), "x": [one / 7 for one in range(10_000)]})
    table.to_csv(f"share://{root}/t.csv", index=False)
    assert pandas.read_csv(f"share://{root}/t.csv").equals(table)


@pytest.mark.keeps("zarr's own loop, and the connections in it, live as long as the program")
def test_xarray_and_zarr(files: ShareFileSystem, gateway: Gateway, root: str) -> None:
    numpy, xarray = pytest.importorskip("numpy"), pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    field = xarray.DataArray(numpy.arange(120_000.0).reshape(300, 400), dims=("y", "x"), name="field")
    field.to_dataset().to_zarr(f"share://{root}/f.zarr", consolidated=False)
    assert place(gateway, f"{root}/f.zarr/field").is_dir()
    with xarray.open_zarr(f"share://{root}/f.zarr", consolidated=False) as found:
        assert found["field"].load().equals(field)


def test_h5py(files: ShareFileSystem, root: str) -> None:
    h5py, numpy = pytest.importorskip("h5py"), pytest.importorskip("numpy")
    with io.BytesIO() as memory:
        with h5py.File(memory, "w") as file:
            file["field"] = numpy.arange(1_000_000.0)
        files.pipe_file(f"{root}/f.h5", memory.getvalue())
    with files.open(f"{root}/f.h5") as source, h5py.File(source, "r") as file:
        assert file["field"][777_777] == 777_777.0


def test_limits_hold(files: ShareFileSystem, gateway: Gateway, root: str) -> None:
    name = root.rpartition("/")[2]
    place(gateway, f"{root}/a").write_bytes(bytes(100))
    link = gateway.make(limits=Limits(bytes=150))
    assert len(files.cat_file(f"{link}/{name}/a")) == 100
    with pytest.raises(PermissionError, match="as many bytes"):
        files.cat_file(f"{link}/{name}/a")
