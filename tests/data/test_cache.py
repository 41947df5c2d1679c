"""Files of shares that are kept on disk: fresh, sound, bounded, and there when the server is not."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from gridcloud.errors import InvalidRequest, Untrusted
from gridcloud.files import wire
from gridcloud.files.filesystem import ShareFileSystem
from tests.data.parts import Gateway, opened_files

MIB = 1 << 20


def moved(gateway: Gateway) -> int:
    """Return the bytes that the gateway sent and got."""
    return gateway.moved()


def test_kept_and_never_stale(gateway: Gateway, tmp_path: Path) -> None:
    source, link = gateway.folder / "a", gateway.link
    data = random.randbytes(3 * MIB)
    source.write_bytes(data)
    with opened_files(cache=tmp_path) as files:
        assert files.cat_file(f"{link}/a") == data
        before = moved(gateway)
        with files.open(f"{link}/a") as file:
            assert file.read() == data
        assert files.cat_file(f"{link}/a", 5, 9) == data[5:9]
        assert moved(gateway) == before
        for _ in range(5):
            data = random.randbytes(len(data))  # of the same size, in the same instant
            source.write_bytes(data)
            assert files.cat_file(f"{link}/a") == data
        assert len(list(tmp_path.glob("*/*.data"))) == 1
        source.unlink()
        with pytest.raises(FileNotFoundError):
            files.open(f"{link}/a")
        assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize("harm", ["truncated", "poisoned", "note", "gone"])
def test_damage_is_seen(gateway: Gateway, tmp_path: Path, harm: str) -> None:
    (gateway.folder / "b").write_bytes(b"0123456789")
    with opened_files(cache=tmp_path) as files:
        path = f"{gateway.link}/b"
        assert files.cat_file(path) == b"0123456789"
        (content,) = tmp_path.glob("*/*.data")
        (note,) = tmp_path.glob("*/*.json")
        if harm == "truncated":
            os.truncate(content, 5)
        elif harm == "poisoned":
            status = content.stat()
            content.write_bytes(b"X123456789")
            os.utime(content, ns=(status.st_atime_ns, status.st_mtime_ns))
        elif harm == "note":
            note.write_text("{")
        else:
            content.unlink()
        assert files.cat_file(path) == b"0123456789"
        note, content = (next(iter(tmp_path.glob(f"*/*.{end}"))) for end in ("json", "data"))
        os.utime(content, (0, 0))  # touched, but sound
        before = moved(gateway)
        assert files.cat_file(path) == b"0123456789"
        assert moved(gateway) == before


def test_bounded(gateway: Gateway, tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(6)]
    for name in names:
        (gateway.folder / name).write_bytes(random.randbytes(MIB))
    (gateway.folder / "huge").write_bytes(bytes(5 * MIB))
    with opened_files(cache=tmp_path, cache_size=4 * MIB) as files:
        for name in names:
            files.cat_file(f"{gateway.link}/{name}")
            assert sum(one.stat().st_size for one in tmp_path.glob("*/*.data")) <= 4 * MIB
        before = moved(gateway)
        files.cat_file(f"{gateway.link}/c5")
        assert moved(gateway) == before
        assert len(files.cat_file(f"{gateway.link}/huge")) == 5 * MIB
        assert len(list(tmp_path.glob("*/*.data"))) == 4


def test_shared_between_processes(gateway: Gateway, tmp_path: Path) -> None:
    (gateway.folder / "d").write_bytes(b"x" * MIB)
    code = (
        "import sys, gridcloud.data as data\n"
        "files = data.ShareFileSystem(cache=sys.argv[1])\n"
        "for _ in range(20): assert len(files.cat_file(sys.argv[2])) == 1 << 20\n"
    )
    before = moved(gateway)
    words = [sys.executable, "-c", code, str(tmp_path), f"{gateway.link}/d"]
    programs = [subprocess.Popen(words) for _ in range(3)]
    assert [one.wait() for one in programs] == [0, 0, 0]
    assert moved(gateway) - before <= 3 * MIB
    assert len(list(tmp_path.glob("*/*.data"))) == 1


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(wire, "TRIES", 1)  # it would be waited for
    cache = tmp_path / "cache"
    with Gateway(tmp_path) as gateway:
        (gateway.folder / "a").write_bytes(b"kept")
        path = f"{gateway.link}/a"
        with opened_files(cache=cache) as files:
            assert files.cat_file(path) == b"kept"
    with opened_files(cache=cache) as files, pytest.raises(ConnectionError):
        files.cat_file(path)
    with opened_files(cache=cache, offline="allow") as files:
        assert files.cat_file(path) == b"kept"
    assert "cannot be asked" in caplog.text
    assert path not in caplog.text
    with opened_files(cache=cache, offline="only") as files:
        assert files.cat_file(path) == b"kept"
        with pytest.raises(FileNotFoundError, match="not kept"):
            files.cat_file(f"{path}b")


def test_options_by_the_environment(tmp_path: Path) -> None:
    code = "import fsspec; files = fsspec.filesystem('share'); print(files._cache._folder, files._ca)"
    told = {"FSSPEC_SHARE_CACHE": "1", "FSSPEC_SHARE_CA": "/etc/ca.pem", "XDG_CACHE_HOME": str(tmp_path)}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env={**os.environ, **told}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"{tmp_path}/gridcloud/shares", "/etc/ca.pem"]


def test_folder_is_ours_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Untrusted):
        ShareFileSystem(cache=tmp_path)
    with pytest.raises(InvalidRequest):
        ShareFileSystem(cache=tmp_path, offline="perhaps")
