"""One link, read and written by the programs that people have: each finds what all before it wrote."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import gridcloud.data
from gridcloud.data.mig import IDMCShare
from gridcloud.data.model import Rights
from tests.data.parts import Gateway, run

PROGRAMS = ("sftp", "sshfs", "rclone", "curl")

pytestmark = [
    pytest.mark.needs_root,  # sshfs
    pytest.mark.skipif(
        not all(shutil.which(one) for one in PROGRAMS) or not os.path.exists("/dev/fuse"),
        reason=f"needs FUSE and {', '.join(PROGRAMS)}: apt-get install openssh-client sshfs rclone curl",
    ),
]


@pytest.fixture(params=["", "hunter2"], ids=["basic", "password"])
def password(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


class Everybody:
    """A link, and each program's way to write a file by it and to read one."""

    def __init__(self, gateway: Gateway, password: str, folder: Path) -> None:
        self.link = gateway.make(rights=Rights.READ_WRITE, password=password)
        self.url = f"http://{self.link}"
        self.secret = self.link.rpartition("/")[2]
        self.gateway = gateway
        self.password = password
        self.folder = folder
        self.options = {"password": password} if password else {}
        if password:  # for OpenSSH's programs, which ask a program in place of somebody
            ask = folder / "ask"
            ask.write_text(f"#!/bin/sh\necho {password}\n")
            ask.chmod(0o700)

    def shell(self, script: str, *words: str) -> str:
        """Run a script of sh, which is told the rest as $1 and so on."""
        environment = f"SSH_ASKPASS={self.folder / 'ask'} SSH_ASKPASS_REQUIRE=force" if self.password else ""
        line = f"{environment and 'export ' + environment + ';'} {script}"
        code, said = asyncio.run(run("sh", "-ec", line, "sh", *words, folder=self.folder))
        assert code == 0, said
        return said

    @property
    def ssh(self) -> str:
        return " ".join(self.gateway.sftp.options)

    def by_sftp(self, name: str, text: str, others: list[str]) -> str:
        (self.folder / "text").write_text(text)
        orders = "\n".join([f"put text {name}", *(f"get {one} got-{one}" for one in others)])
        # What -b turns off is asked for again: it would take no password.
        self.shell(
            f'printf "%s\\n" "$1" > orders; sftp -q {self.ssh} -oBatchMode=no -b orders -P {self.gateway.sftp.port} '
            f"{self.secret}@127.0.0.1",
            orders,
        )
        return "".join((self.folder / f"got-{one}").read_text() for one in others)

    def by_sshfs(self, name: str, text: str, others: list[str]) -> str:
        (self.folder / "mount").mkdir(exist_ok=True)
        secret = "-o password_stdin" if self.password else ""
        self.shell(
            f'echo "{self.password}" | sshfs {secret} {self.secret}@127.0.0.1:/ mount -p {self.gateway.sftp.port} '
            f"{self.ssh} > said 2>&1"
        )
        try:
            return self.shell('cd mount; printf %s "$1" > "$2"; shift 2; cat "$@"', text, name, *others)
        finally:
            self.shell("fusermount -u -z mount")

    def by_rclone(self, name: str, text: str, others: list[str]) -> str:
        rclone = f"rclone -q --config none --webdav-url {self.url}/"
        if self.password:
            rclone += f" --webdav-user x --webdav-pass $(rclone obscure {self.password})"
        read = "; ".join(f"{rclone} cat :webdav:{one}" for one in others)
        return self.shell(f'printf %s "$1" | {rclone} rcat :webdav:{name}; {read}', text)

    def by_curl(self, name: str, text: str, others: list[str]) -> str:
        curl = f"curl -sS --fail {f'-u x:{self.password}' if self.password else ''}"
        read = "; ".join(f"{curl} {self.url}/{one}" for one in others)
        return self.shell(f'printf %s "$1" | {curl} -T - {self.url}/{name}; {read}', text)

    def by_pandas(self, name: str, text: str, others: list[str]) -> str:
        pandas = pytest.importorskip("pandas")
        series = pandas.Series([text.rstrip()])
        at = f"share://{self.link}"
        series.to_csv(f"{at}/{name}", header=False, index=False, storage_options=self.options)
        found = [pandas.read_csv(f"{at}/{one}", header=None, storage_options=self.options) for one in others]
        return "".join(f"{one[0][0]}\n" for one in found)

    def by_zarr(self, name: str, text: str, others: list[str]) -> str:
        zarr, numpy = pytest.importorskip("zarr"), pytest.importorskip("numpy")
        at = f"share://{self.link}/{name}.zarr"
        written = zarr.open_array(at, mode="w", shape=(len(text),), dtype="u1", storage_options=self.options)
        written[:] = numpy.frombuffer(text.encode(), "u1")
        found = zarr.open_array(at, mode="r", storage_options=self.options)
        with gridcloud.data.open(f"share://{self.link}/{name}", "wb", **self.options) as file:
            file.write(found[:].tobytes())
        return self.by_library("", "", others)

    def by_idmc(self, name: str, text: str, others: list[str]) -> str:
        sftp = self.gateway.sftp
        with IDMCShare(
            self.secret, self.password, sftp.port, host="127.0.0.1", known_hosts=sftp.known_hosts
        ) as share:
            share.write(name, text, "w")
            return "".join(share.read(one) for one in others)

    def by_library(self, name: str, text: str, others: list[str]) -> str:
        files, _ = gridcloud.data.find_files(self.url, **self.options)
        if name:
            files.pipe_file(f"{self.link}/{name}", text.encode())
        found = "".join(files.cat_file(f"{self.link}/{one}").decode() for one in others)
        files.close()
        return found


@pytest.fixture
def everybody(gateway: Gateway, password: str, tmp_path: Path) -> Iterator[Everybody]:
    yield Everybody(gateway, password, tmp_path)
    for one in gateway.folder.glob("by*"):
        shutil.rmtree(one) if one.is_dir() else one.unlink()


@pytest.mark.keeps("the loops of zarr and fsspec, and their connections, live as long as the program")
@pytest.mark.timeout(300)
def test_one_link(everybody: Everybody) -> None:
    ways = ("sftp", "sshfs", "rclone", "curl", "pandas", "zarr", "idmc", "library")
    names: list[str] = []
    for way in ways:
        said = getattr(everybody, f"by_{way}")(f"by-{way}", f"{way}\n", names)
        assert said == "".join(f"{one.removeprefix('by-')}\n" for one in names), way
        names.append(f"by-{way}")
        # Whoever came before sees it, too.
        assert everybody.by_library("", "", names).endswith(f"{way}\n")
    for way in ways:
        assert getattr(everybody, f"by_{way}")(f"by-{way}-again", "x\n", names).startswith("sftp\nsshfs\n")
