"""Tar streams of somebody who means ill: names that lead outside, that never end, and holes of any size."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridcloud.connections import archives
from gridcloud.errors import GridcloudError, Rejected


class Stream:
    """What a far end sends, as it is asked for; `taken` counts the bytes."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._held, self.taken = parts, b"", 0

    def read(self, size: int = -1, /) -> bytes:
        while len(self._held) < size and (part := next(self._parts, b"")):
            self._held += part
        data, self._held = self._held[:size], self._held[size:]
        self.taken += len(data)
        return data


def stream(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    held.seek(0)
    return held


def member(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, to
    return made


@pytest.mark.parametrize(
    "members",
    [
        [(member("../out"), b"x")],
        [(member("/tmp/gridcloud-out"), b"x")],
        [(member("a/../../out"), b"x")],
        [(member("d", tarfile.SYMTYPE, ".."), b""), (member("d/out"), b"x")],
        [(member("d", tarfile.LNKTYPE, "../secret"), b"")],
        [(member("d", tarfile.SYMTYPE, ".."), b""), (member("d/out", tarfile.SYMTYPE, "/evil"), b"")],
        [(member("d", tarfile.SYMTYPE, ".."), b""), (member("d/out", tarfile.DIRTYPE), b"")],
        [
            (member("a/d", tarfile.SYMTYPE, "../.."), b""),
            (member("a/d/out/x", tarfile.SYMTYPE, "/evil"), b""),
        ],
        [(member(".", tarfile.SYMTYPE, ".."), b"")],
        [(member(".", tarfile.SYMTYPE, ".."), b""), (member("out", tarfile.SYMTYPE, "/evil"), b"")],
        [(member("."), b"a file in place of the folder")],
    ],
)
def test_nothing_is_written_outside(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    (tmp_path / "secret").write_text("ours")
    with pytest.raises((GridcloudError, OSError)):
        archives.unpack(stream(*members), tmp_path / "in" / "it", True)
    it = tmp_path / "in" / "it"
    assert not it.is_symlink()
    assert {one.name for one in tmp_path.iterdir()} <= {"in", "secret"}
    assert {one.name for one in (tmp_path / "in").glob("*")} <= {"it"}
    assert not Path("/tmp/gridcloud-out").exists()


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, b"g"])
def test_a_name_without_an_end_is_not_waited_for(tmp_path: Path, kind: bytes) -> None:
    header = member("long", kind)
    header.size = 8 << 30
    endless = Stream(itertools.chain([header.tobuf(tarfile.GNU_FORMAT)], itertools.repeat(b"a" * 4096)))
    with pytest.raises(Rejected, match="more than a megabyte"):
        archives.unpack(endless, tmp_path / "it", True)
    assert endless.taken < 4 << 20


def test_holes_are_refused(tmp_path: Path) -> None:
    header = bytearray(member("hole", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"77777777777\0"  # the size that it says the file has, in octal digits
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(Rejected, match="holes"):
        archives.unpack(Stream(iter([bytes(header), bytes(10240)])), tmp_path / "it", True)


def test_what_is_large_and_honest_comes_through(tmp_path: Path) -> None:
    long = "/".join(["n" * 200] * 15)
    data = os.urandom(3 << 20)
    archives.unpack(stream((member(long), b"deep"), (member("large"), data)), tmp_path / "it", True)
    assert (tmp_path / "it" / long).read_bytes() == b"deep"
    assert (tmp_path / "it" / "large").read_bytes() == data
