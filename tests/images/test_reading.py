"""Definitions and locks of a folder: order, digests, and what is said of those that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gridcloud.errors import InvalidRequest, InvalidSettings, NotFound
from gridcloud.images import Lock, images_folder, read_stack
from gridcloud.images.engine import pinned_base
from gridcloud.images.reading import write_lock

BASE = {"title": "Base", "release": "bookworm", "python_version": "3.11"}
SUM = "0" * 64

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write definitions by name; return their folder."""

    def write_all(**definitions: dict) -> Path:
        for name, definition in definitions.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "image.yaml").write_text(yaml.safe_dump(definition))
        return tmp_path

    return write_all


def test_each_comes_after_its_parent(write: Write) -> None:
    stack = read_stack(write(a={"title": "A", "parent": "b"}, b={"title": "B", "parent": "c"}, c=BASE))
    assert list(stack) == ["c", "b", "a"]
    assert stack.root("a").release == "bookworm"
    with pytest.raises(NotFound, match="no image 'd'; there are: c, b, a"):
        stack["d"]


def test_a_digest_is_of_all_packages_below(write: Write) -> None:
    child = {"title": "A", "parent": "c", "python": ["numpy"]}
    before = read_stack(write(a=child, c=BASE))
    assert read_stack(write(a=child | {"title": "B"}, c=BASE)).packages_digest("a") == before.packages_digest(
        "a"
    )
    for changed in ({"a": child | {"python": ["numpy>1"]}}, {"c": BASE | {"debian": ["git"]}}):
        after = read_stack(write(**{"a": child, "c": BASE, **changed}))
        assert after.packages_digest("a") != before.packages_digest("a")


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ({"title": "X"}, "name a parent, or release"),
        ({"title": "X", "parent": "nobody"}, "the parent 'nobody' of 'x' is no image"),
        ({"title": "X", "parent": "x"}, "or is made from it"),
        ({"title": "X", "parent": "../x"}, "no name of an image"),
        (BASE | {"parent": "x"}, "are those of the parent"),
        (BASE | {"debian": ["-o=x"]}, "no name of a Debian package"),
        (BASE | {"debian": ["git", "curl"]}, "in the order of the alphabet"),
        (BASE | {"python": ["--index-url=x"]}, "no requirement such as"),
        (BASE | {"python": ["x @ https://elsewhere.example/x.whl"]}, "no requirement such as"),
        (BASE | {"environment": {"A B": "c"}}, "no environment variable"),
        (BASE | {"environment": {"A": "c\nRUN id"}}, "no environment variable"),
        (BASE | {"release": "book worm"}, "release"),
        (BASE | {"packages": []}, "packages"),
    ],
)
def test_what_is_wrong_is_said_with_its_file(write: Write, definition: dict, words: str) -> None:
    with pytest.raises(InvalidSettings, match=words) as caught:
        read_stack(write(x=definition))
    assert "x/image.yaml" in str(caught.value)


def test_a_lock_is_read_as_it_was_written(write: Write) -> None:
    stack = read_stack(write(x=BASE))
    with pytest.raises(NotFound, match="no lock for amd64"):
        stack["x"].lock("amd64")
    debian = {"git=1:2.39.5-0+deb12u3": SUM}
    lock = Lock(of=SUM, architecture="amd64", debian=debian, python={"numpy==2.4.6": SUM})
    path = write_lock(stack["x"], lock)
    assert stack["x"].lock("amd64") == lock
    for wrong in ("numpy --index-url=x==1", "numpy", "a b==1"):
        path.write_text(yaml.safe_dump({"of": SUM, "architecture": "amd64", "python": {wrong: SUM}}))
        with pytest.raises(InvalidSettings, match="no package with its version"):
            stack["x"].lock("amd64")
    path.write_text(yaml.safe_dump({"of": SUM, "architecture": "amd64", "python": {"a==1": "md5:0"}}))
    with pytest.raises(InvalidSettings, match="SHA-256"):
        stack["x"].lock("amd64")


def test_a_folder_without_images_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="there is no image"):
        read_stack(tmp_path)
    assert (images_folder() / "base" / "image.yaml").is_file()


def test_a_base_is_named_by_what_cannot_change() -> None:
    assert pinned_base(f"sha256:{SUM}") == pinned_base(SUM) == SUM
    named = f"registry.example:5000/library/debian@sha256:{SUM}"
    assert pinned_base(named) == named
    for wrong in ("debian:bookworm", "debian", f"debian@sha256:{SUM[1:]}", f"--x@sha256:{SUM}", ""):
        with pytest.raises(InvalidRequest, match="another image tomorrow"):
            pinned_base(wrong)
