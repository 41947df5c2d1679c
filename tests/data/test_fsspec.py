"""fsspec's own suite for file systems, for ``share://`` at a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from gridcloud.files.filesystem import ShareFileSystem
from tests.data.parts import Gateway


class ShareFixtures(AbstractFixtures):
    """What the suite needs to know of ours."""

    @pytest.fixture
    def fs(self, files: ShareFileSystem) -> ShareFileSystem:
        assert type(files) is fsspec.get_filesystem_class("share")
        return files

    @pytest.fixture
    def fs_path(self, fs: ShareFileSystem, gateway: Gateway) -> Iterator[str]:
        path = f"{gateway.link}/suite"
        fs.makedirs(path, exist_ok=True)
        yield path
        fs.rm(path, recursive=True)

    @pytest.fixture
    def local_path(self, tmp_path: Path) -> str:
        return str(tmp_path)


class TestCopy(ShareFixtures, AbstractCopyTests):
    """cp."""


class TestGet(ShareFixtures, AbstractGetTests):
    """get."""


class TestPut(ShareFixtures, AbstractPutTests):
    """put."""


class TestPipe(ShareFixtures, AbstractPipeTests):
    """pipe."""


class TestOpen(ShareFixtures, AbstractOpenTests):
    """open."""
