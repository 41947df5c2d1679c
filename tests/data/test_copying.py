"""``gridcloud data …`` between a folder, a share and other places."""

from __future__ import annotations

import io
import json
import os
import random
from pathlib import Path

import pytest

from gridcloud.cli import main
from gridcloud.data.model import Rights
from gridcloud.errors import InvalidRequest
from gridcloud.files.copying import Side, copy, open_side
from tests.data.parts import Gateway

MIB = 1 << 20


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return a folder with files of all sizes, and an empty folder."""
    root = tmp_path / "here"
    for path, size in {"a": 0, "b c": 10, "d/e": 9 * MIB, "d/f/g": 100_000, "ø/名": 7}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(random.randbytes(size).hex().encode()[:size])
        os.utime(root / path, (1_000_000_000, 1_000_000_000))
    (root / "empty").mkdir()
    return root


@pytest.fixture
def there(gateway: Gateway, request: pytest.FixtureRequest) -> str:
    """Return a folder of the test's own, as people write it."""
    return f"http://{gateway.link}/{request.node.name}"


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, object]:
    assert main(["data", *words, "--json"]) == code
    said = capsys.readouterr()
    found: dict[str, object] = json.loads(said.out) if said.out.strip() else json.loads(said.err)
    return found


def tree(root: Path) -> dict[str, bytes | None]:
    return {
        str(one.relative_to(root)): one.read_bytes() if one.is_file() else None for one in root.rglob("*")
    }


def test_there_and_back(capsys: pytest.CaptureFixture[str], here: Path, there: str, tmp_path: Path) -> None:
    assert run(capsys, "cp", str(here), there)["copied"] == 5
    assert run(capsys, "verify", str(here), there) == {"differences": []}
    assert run(capsys, "cp", there, str(tmp_path / "back"))["copied"] == 5
    assert tree(tmp_path / "back") == tree(here)
    assert (tmp_path / "back" / "b c").stat().st_mtime == 1_000_000_000
    assert run(capsys, "du", there) == {"files": 5, "bytes": 9 * MIB + 100_017}
    listed = run(capsys, "ls", there)["entries"]
    assert [one["name"] for one in listed] == ["a", "b c", "d", "empty", "ø"]  # type: ignore[attr-defined]
    assert main(["data", "cat", f"{there}/b c"]) == 0
    assert capsys.readouterr().out == (here / "b c").read_text()


def test_sync(capsys: pytest.CaptureFixture[str], here: Path, there: str, tmp_path: Path) -> None:
    assert run(capsys, "sync", str(here), there)["copied"] == 5
    (here / "a").write_bytes(b"new")
    (here / "b c").unlink()
    status = (here / "d/f/g").stat()
    (here / "d/f/g").write_bytes(random.randbytes(100_000))
    os.utime(here / "d/f/g", ns=(status.st_atime_ns, status.st_mtime_ns))  # which only its content tells
    done = run(capsys, "sync", str(here), there)
    assert (done["copied"], done["unchanged"], done["removed"]) == (1, 3, 0)
    assert run(capsys, "verify", str(here), there, code=1)["differences"] == [
        {"path": "b c", "what": "more"},
        {"path": "d/f/g", "what": "differs"},
    ]
    done = run(capsys, "sync", str(here), there, "--checksum", "--delete")
    assert (done["copied"], done["unchanged"], done["removed"]) == (1, 3, 1)
    assert run(capsys, "verify", str(here), there) == {"differences": []}
    done = run(capsys, "sync", there, str(tmp_path / "back"))
    assert done["copied"] == 4
    assert run(capsys, "sync", there, str(tmp_path / "back"))["unchanged"] == 4


def test_files_and_folders(
    capsys: pytest.CaptureFixture[str], here: Path, there: str, tmp_path: Path
) -> None:
    run(capsys, "cp", str(here / "b c"), there)  # a file of that name
    assert run(capsys, "du", there) == {"files": 1, "bytes": 10}
    run(capsys, "rm", there)
    run(capsys, "cp", str(here), there)
    run(capsys, "cp", str(here / "b c"), f"{there}/empty")  # into that folder
    run(capsys, "cp", f"{there}/empty/b c", str(tmp_path))
    assert (tmp_path / "b c").read_bytes() == (here / "b c").read_bytes()
    assert run(capsys, "rm", there, code=2)["title"] == "InvalidRequest"
    run(capsys, "rm", there, "--recursive")
    assert run(capsys, "ls", there, code=3)["title"] == "NotFound"


def test_between_shares_and_other_places(capsys: pytest.CaptureFixture[str], here: Path, there: str) -> None:
    run(capsys, "cp", str(here), f"{there}/one")
    run(capsys, "cp", f"{there}/one", f"{there}/two")
    assert run(capsys, "verify", f"{there}/one", f"{there}/two") == {"differences": []}
    run(capsys, "cp", f"{there}/one", "memory://copying")
    assert run(capsys, "verify", "memory://copying", str(here)) == {"differences": []}


def test_password(
    capsys: pytest.CaptureFixture[str], gateway: Gateway, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = f"http://{gateway.make(rights=Rights.READ_WRITE, password='hunter2')}/password"
    refused = run(capsys, "cp", str(here), link, code=6)
    assert (refused["title"], "/s/…" in str(refused["detail"])) == ("Forbidden", True)
    monkeypatch.setattr("sys.stdin", io.StringIO("hunter2\n"))  # as a pipe would be
    assert run(capsys, "cp", str(here), link, "--password")["copied"] == 5


def test_hostile_names(there: str, tmp_path: Path) -> None:
    with open_side(there) as side:
        for name in ("../x", "a/../../x", "/etc/x", "a//b", "a\0b"):
            with pytest.raises(InvalidRequest):
                Side(side.files, str(tmp_path), True).at(name)


def test_what_fails_ends_the_rest(here: Path, there: str, gateway: Gateway) -> None:
    (gateway.folder / "test_what_fails_ends_the_rest").write_bytes(b"a file is in the way")
    with open_side(str(here)) as source, open_side(there) as target, pytest.raises(FileExistsError):
        copy(source, target)
