"""`gridcloud share`, as it is typed; the link it prints works."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gridcloud.cli import main

Run = Callable[..., str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    found = tmp_path / "d"
    found.mkdir(mode=0o700)
    return found


@pytest.fixture
def server(tmp_path: Path, data: Path) -> Iterator[None]:
    """Run `gridcloud share serve`; what it wrote afterwards lies in the file `said`."""
    config = tmp_path / "gridcloud.yaml"
    config.write_text("shares: {port: 0, sftp_port: 0}\n")
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
    with subprocess.Popen(words, stderr=subprocess.PIPE, env={**os.environ, "NO_COLOR": "1"}) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(b"Shares at"):
                break
        yield
        process.terminate()
        (tmp_path / "said").write_bytes(process.stderr.read())
        assert process.wait(timeout=20) == 0


@pytest.fixture
def share(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what runs `gridcloud share …`, with a text at its input, and returns its output."""

    def run(*words: str, text: str = "") -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))  # what is typed
        assert main(["share", *words, "--data", str(data)]) == 0
        return capsys.readouterr().out

    return run


def get(url: str, password: str = "") -> tuple[int, str]:
    headers = (
        {"Authorization": f"Basic {base64.b64encode(f'x:{password}'.encode()).decode()}"} if password else {}
    )
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:  # noqa: S310 - ours
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.usefixtures("server")
def test_from_link_to_log(share: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("hello")
    words = ["--name", "foam", "--password", "--uses", "3"]
    url = share("create", str(tmp_path / "folder"), *words, text="hunter2\n").strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/s/[0-9A-Za-z]{22}/", url)
    assert get(f"{url}a")[0] == 401
    assert get(f"{url}a", "hunter2") == (200, "hello")
    shown = json.loads(share("show", "foam", "--json"))
    assert (shown["url"], shown["share"]["limits"]["uses"], shown["share"]["password"]) == (url, 3, True)
    share("edit", "foam", "--expires", "2h", "--no-password")
    assert get(f"{url}a") == (200, "hello")
    assert re.search("read /a, (5|10) bytes", share("log", "foam"))
    assert "foam" in share("list")
    signed = share("sign", "foam", "a", "--expires", "5min").strip()
    assert get(signed) == (200, "hello")
    share("revoke", "foam")
    assert get(signed)[0] == 404
    assert get(f"{url}a") == (404, "This link was revoked by its owner.\n")
    assert "foam" not in share("list")


def test_wrong_words(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--rights", "all"], ["--network", "nonsense"], ["--expires", "soon"], ["--length", "9"]):
        assert main(["share", "create", str(tmp_path), "--data", str(data), *words]) == 2
        assert len(capsys.readouterr().err.splitlines()) <= 2
