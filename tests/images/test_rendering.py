"""What a definition is rendered as: one set of files for containers and for machines."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gridcloud.images import Definition, Image, Lock, Stack, cloud_config, containerfile
from gridcloud.images.reading import write_lock
from gridcloud.images.rendering import build_files

GOLDEN = Path(__file__).parent / "golden"
SUM = "0" * 64


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Two images with their locks."""
    base = Definition(
        title="Base", release="bookworm", python_version="3.11", debian=("git",), check="import sys\n"
    )
    top = Definition(
        title='Say "$HOME"',
        description="A \\ and ${BASE}.",
        parent="base",
        python=("numpy",),
        environment={"GREETING": 'a "b" $c \\d'},
        finish="touch /x\n",
        caches="import numpy\n",
        gpu=True,
    )
    images = {}
    for name, definition in (("base", base), ("top", top)):
        (tmp_path / name).mkdir()
        images[name] = Image(name, tmp_path / name, definition)
    write_lock(
        images["base"],
        Lock(of="b" * 64, architecture="amd64", jupyterhub="6.1.1", debian={"git=1:2.39-1": SUM}),
    )
    write_lock(images["top"], Lock(of="c" * 64, architecture="amd64", python={"numpy==2.4.6": SUM}))
    return Stack(images)


@pytest.mark.parametrize("name", ["base", "top"])
def test_a_containerfile(stack: Stack, name: str) -> None:
    text = containerfile(stack, stack[name], stack[name].lock("amd64"))
    # The digest is of the setup's own files, too: it is another one with each change of them.
    lines = [
        line
        for line in text.splitlines(keepends=True)
        if not line.startswith("LABEL org.gridcloud.image.digest")
    ]
    assert "".join(lines) == (GOLDEN / f"Containerfile.{name}").read_text(encoding="utf-8")


def test_its_files_hold_the_locks(stack: Stack) -> None:
    base = build_files(stack["base"], stack["base"].lock("amd64"))
    assert base["debian.lock"] == f"git=1:2.39-1 {SUM}\n"
    assert base["debian.names"] == "git\n"
    assert "requirements.txt" not in base
    top = build_files(stack["top"], stack["top"].lock("amd64"))
    assert top["requirements.txt"] == f"numpy==2.4.6 --hash=sha256:{SUM}\n"
    assert (top["finish.sh"], top["caches.py"]) == ("touch /x\n", "import numpy\n")
    assert not {"debian.names", "check.py"} & top.keys()


def test_a_machine_is_told_the_same(stack: Stack) -> None:
    text = cloud_config(stack, "top", "amd64")
    assert text.startswith("#cloud-config\n")
    told = yaml.safe_load(text)
    written = {entry["path"]: entry["content"] for entry in told["write_files"]}
    for name in ("base", "top"):
        for file, content in build_files(stack[name], stack[name].lock("amd64")).items():
            if file != "debian.lock":  # a machine of another image has other versions
                assert written.pop(f"/var/lib/gridcloud-image/{name}/{file}") == content
    assert set(written) == {"/etc/environment"}
    assert 'GREETING=a "b" $c \\d\n' in written["/etc/environment"]
    assert [words[-5:] for words in told["runcmd"]] == [
        [f"/var/lib/gridcloud-image/{name}/install.sh", "debian", "python", "finish", "check"]
        for name in ("base", "top")
    ]
    assert told["runcmd"][1][1] == 'GREETING=a "b" $c \\d'
