"""The provider of clusters that are none keeps the contract of those that are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridcloud.drivers.clusters.fake import FakeClusterDriver, FakeClusterSettings
from gridcloud.testing.clusters import ClusterDriverContract, cluster_context


class TestFakeClusters(ClusterDriverContract):
    @pytest.fixture
    async def driver(self, tmp_path: Path) -> AsyncIterator[FakeClusterDriver]:
        settings = FakeClusterSettings(driver="fake", seconds=0.05)
        driver = FakeClusterDriver(settings, cluster_context(tmp_path / "provider"))
        yield driver
        await driver.close()
