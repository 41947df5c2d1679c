"""A real SSH server for the whole run, and folders with paths short enough for sockets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridcloud.testing.sshd import SSHServer


@pytest.fixture(scope="session")
def ssh_server() -> Iterator[SSHServer]:
    folder = Path(tempfile.mkdtemp(prefix="gcd"))
    with SSHServer(folder) as server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for an instance."""
    path = Path(tempfile.mkdtemp(prefix="gci"))
    yield path
    shutil.rmtree(path)
