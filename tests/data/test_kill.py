"""The gateway is killed while files go up: what was acknowledged is there, nothing else is seen, and uploads go on."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridcloud.cli import main
from tests.services import free_port

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

KILLS = 3


@contextlib.contextmanager
def serving(config: Path, data: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = [
        sys.executable,
        "-m",
        "gridcloud",
        "share",
        "serve",
        "--config",
        str(config),
        "--data",
        str(data),
    ]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as server:
        assert server.stderr is not None
        for line in server.stderr:
            if line.startswith(b"Shares at"):
                break
        yield server
        server.kill()


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(
            method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        answer.read()
        return answer.status, dict(answer.getheaders())
    finally:
        connection.close()


def test_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data, config = tmp_path / "shared", tmp_path / "d", tmp_path / "gridcloud.yaml"
    folder.mkdir()
    data.mkdir(mode=0o700)
    port = free_port()
    config.write_text(f"shares: {{port: {port}, sftp_port: 0}}\n")
    common = ["--config", str(config), "--data", str(data)]
    assert main(["share", "create", str(folder), "--rights", "read-write", *common]) == 0
    path = capsys.readouterr().out.strip().rstrip("/")
    assert path.startswith("/s/")
    big = os.urandom(64 << 20)
    half = len(big) // 2
    token = f"{path}/big?upload=0123456789abcdef"
    acknowledged: dict[str, bytes] = {}
    for kill in range(KILLS):
        with serving(config, data) as server:
            if not kill:
                span = f"bytes 0-{half - 1}/{len(big)}"
                assert ask(port, "PUT", token, big[:half], Content_Range=span)[0] == 202
            assert ask(port, "HEAD", token)[1]["Upload-Offset"] == str(half)
            killer = threading.Timer(0.3 + 0.2 * kill, server.kill)
            killer.start()
            with contextlib.suppress(OSError, http.client.HTTPException):
                for number in range(100_000):
                    name, content = f"k{kill}-{number}", os.urandom(200_000)
                    if ask(port, "PUT", f"{path}/{name}", content)[0] == 201:
                        acknowledged[name] = content
            killer.join()
        seen = {one.name for one in folder.iterdir() if not one.name.startswith(".")}
        assert acknowledged.keys() <= seen
        assert len(seen) <= len(acknowledged) + kill + 1  # of each kill one may be there that nobody heard of
        assert all((folder / name).read_bytes() == content for name, content in acknowledged.items())
        assert all((folder / name).stat().st_size == 200_000 for name in seen)
    assert acknowledged
    with serving(config, data):
        first = int(ask(port, "HEAD", token)[1]["Upload-Offset"])
        assert first == half
        span = f"bytes {first}-{len(big) - 1}/{len(big)}"
        assert ask(port, "PUT", token, big[first:], Content_Range=span)[0] == 201
    assert (folder / "big").read_bytes() == big
