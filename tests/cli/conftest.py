"""A configuration with real providers, and the program run on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gridcloud.cli import main
from gridcloud.client import connect

PROVIDERS: dict[str, dict[str, Any]] = {
    "here": {"driver": "local"},
    "cloud": {
        "driver": "fake",
        "location": "orbit",
        "shapes": [
            {"name": "small", "cpus": 2, "memory": "4GiB", "count": 2, "price": 0.5},
            {"name": "gpu", "cpus": 8, "memory": "32GiB", "gpus": 1, "gpu_model": "H100", "price": 3},
        ],
    },
}


class Program:
    """gridcloud with a configuration and data of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.environment = {
            **os.environ,
            "GRIDCLOUD_CONFIG": str(self.config),
            "GRIDCLOUD_DATA": str(folder / "data"),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        self.configure(PROVIDERS)

    def configure(self, providers: dict[str, Any], **sections: Any) -> None:
        """Write the configuration."""
        self.config.write_text(yaml.safe_dump({"providers": providers, **sections}, sort_keys=False))

    def run(
        self, *words: str, code: int = 0, input: bytes | None = None, seconds: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end, which has to be with this exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "gridcloud", *words],
            cwd=self.folder,
            env=self.environment,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            timeout=seconds,
        )
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout!r}\n{done.stderr.decode()}"
        return done

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "gridcloud", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self, process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
        """Wait for a command that was started; return its exit code and what it said."""
        out, err = process.communicate(timeout=60)
        return process.returncode, out.decode(), err.decode()

    def instances(self) -> list[dict[str, Any]]:
        """Return all instances there ever were; asked within this process, which is quicker."""
        with connect(config=self.config, data=self.folder / "data") as client:
            return [one.model_dump(mode="json") for one in client.instances(all=True)]


class Caller:
    """The same within this process, which is quicker."""

    def __init__(self, program: Program, capture: pytest.CaptureFixture[str]) -> None:
        self.program = program
        self._capture = capture
        self.err = ""

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run a command and return its standard output; ``err`` has the other."""
        self._capture.readouterr()
        ended = main(list(words))
        out, self.err = self._capture.readouterr()
        assert ended == code, f"exit {ended}\n{out}\n{self.err}"
        return out

    def json(self, *words: str, code: int = 0) -> Any:
        """Run a command with --json and return its document."""
        return json.loads(self(*words, "--json", code=code))


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def call(program: Program, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Caller:
    for name in ("GRIDCLOUD_CONFIG", "GRIDCLOUD_DATA", "NO_COLOR", "COLUMNS"):
        monkeypatch.setenv(name, program.environment[name])
    monkeypatch.chdir(program.folder)
    return Caller(program, capfd)


@pytest.fixture
def service(program: Program) -> Iterator[subprocess.Popen[bytes]]:
    """A service that runs, as `gridcloud up` has one."""
    process = program.begin("serve")
    assert process.stderr is not None
    for line in process.stderr:
        if b"serving" in line:
            break
    else:
        pytest.fail("the service did not start")
    yield process
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 0
