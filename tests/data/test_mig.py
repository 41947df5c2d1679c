"""The prototype's surface at a gateway, by the cases that were measured of it."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gridcloud.data.mig import ERDAShare, IDMCShare, SFTPStore, SSHFSStore
from gridcloud.data.model import Rights
from gridcloud.errors import Untrusted
from tests.data.parts import Gateway


@pytest.fixture
def share(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[IDMCShare]:
    """Return the store as its programs open it, with the name of another server in the environment."""
    monkeypatch.setenv("GRIDCLOUD_IDMC", f"127.0.0.1:{gateway.sftp.port}")
    with IDMCShare(gateway.secret, known_hosts=gateway.sftp.known_hosts) as found:
        yield found


def test_listing_1_of_the_thesis(share: IDMCShare) -> None:
    data = b"Hello World"
    assert share.list() == []
    with share.open("example_write", "wb") as _file:
        _file.write(data)
    with share.open("example_write", "rb") as _file:
        read_data = _file.read()
    assert data == read_data
    assert share.list() == ["example_write"]
    share.remove("example_write")


def test_text(share: IDMCShare) -> None:
    share.write("t", "hello world", "w")
    with share.open("t", "w") as file:
        assert isinstance(file, io.TextIOWrapper)
        file.write("abc")
    assert share.read("t") == "abc"
    share.write("t", "blåbær\nto\n", "w")
    assert share.read("t") == "blåbær\nto\n"
    with share.open("t") as file:
        assert list(file) == ["blåbær\n", "to\n"]
    with share.open("t", "rb") as file:
        assert (file.seek(3), file.read(2), file.tell()) == (3, b"\xa5b", 5)
    share.remove("t")


def test_adding(share: IDMCShare) -> None:
    for data in (b"s", "text", 42, 1.5):
        share.write("a", data)
    with share.open("a", "a") as file:
        file.write(str(7))
    assert share.read("a") == "stext421.57"
    with share.open("a", "r+") as file:
        file.seek(1)
        file.write("T")
    assert share.read("a") == "sText421.57"
    with pytest.raises(OSError, match="a"):
        share.open("a", "x")
    with pytest.raises(ValueError, match="rw"):
        share.open("a", "rw")
    share.remove("a")


def test_folders(share: IDMCShare, gateway: Gateway) -> None:
    share.mkdir("d")
    assert (gateway.folder / "d").stat().st_mode & 0o777 == 0o755
    assert share.exists("d")
    share.write("d/a", "x")
    assert share.list("d") == ["a"]
    with pytest.raises(OSError, match="d"):
        share.rmdir("d")
    share.remove("d/a")
    share.rmdir("d")
    assert not share.exists("d")
    for work in (share.read, share.remove, share.rmdir, share.list):
        with pytest.raises(FileNotFoundError, match="missing"):
            work("missing")


def test_large(share: IDMCShare) -> None:
    data = random.randbytes(20 << 20)
    with share.open("large", "wb") as file:
        for first in range(0, len(data), 1_000_003):
            file.write(data[first : first + 1_000_003])
    with share.open("large", "rb") as file, share.open("copy", "wb") as copy:
        while block := file.read(777_777):
            copy.write(block)
    digest = hashlib.sha256(share.read_binary("copy")).digest()
    assert digest == hashlib.sha256(data).digest()
    share.remove("large")
    share.remove("copy")


def test_arrays(share: IDMCShare) -> None:
    numpy = pytest.importorskip("numpy")
    field = numpy.arange(100_000).reshape(100, 1000)
    with share.open("f.npy", "wb") as file:
        numpy.save(file, field)
    with share.open("f.npy", "rb") as file:
        assert (numpy.load(file) == field).all()
    share.remove("f.npy")


def test_host_key_is_checked(gateway: Gateway, tmp_path: Path) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{gateway.sftp.port} {other}")
    for known in ("known", "none"):
        store = SFTPStore("127.0.0.1", gateway.secret, port=gateway.sftp.port, known_hosts=tmp_path / known)
        with pytest.raises(Untrusted, match=r"127\.0\.0\.1"):
            store.list()


def test_password_and_key(gateway: Gateway, tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(tmp_path / "key")
    by_password = gateway.make(rights=Rights.READ_WRITE, password="hunter2").rpartition("/")[2]
    by_key = gateway.make(rights=Rights.READ, keys=(key.export_public_key().decode(),)).rpartition("/")[2]
    at: dict[str, Any] = {"port": gateway.sftp.port, "known_hosts": gateway.sftp.known_hosts}
    with SSHFSStore("127.0.0.1", by_password, "hunter2", **at) as store:
        store.write("p", "x", "w")
        assert "hunter2" not in store.geturl("p")
        assert store.removedir("missing") is False
    with SFTPStore("127.0.0.1", by_key, key=tmp_path / "key", **at) as store:
        assert store.read("p") == "x"
        with pytest.raises(PermissionError):
            store.write("p", "y")
    with ERDAShare(by_password, host="127.0.0.1", **at) as store, pytest.raises(PermissionError):
        store.list()
    (gateway.folder / "p").unlink()


def test_connection_that_was_lost(share: IDMCShare, gateway: Gateway) -> None:
    share.write("c", "x", "w")
    assert share._connection is not None
    share._connection.abort()
    assert share.read("c") == "x"
    share.remove("c")
