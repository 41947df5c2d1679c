"""What tests of the grid have in common."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _peer_is_installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the driver of other institutions found where the installed gridcloud is older than this source."""
    folder: Path = tmp_path_factory.mktemp("installed")
    information = folder / "gridcloud_peers-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: gridcloud-peers\nVersion: 1\n")
    entry = "[gridcloud.instances]\npeer = gridcloud.drivers.instances.peer:PeerDriver\n"
    (information / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(folder))
