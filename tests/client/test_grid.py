"""The grid of institutions, from plain programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridcloud.client import connect
from gridcloud.errors import InvalidRequest, NotFound


def test_an_institution_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("providers: {cloud: {driver: fake}}\n")
    with connect(config=tmp_path / "config.yaml", data=tmp_path / "data") as client:
        grid = client.grid
        assert grid.status().standing is None
        with pytest.raises(InvalidRequest, match="grid init"):
            grid.report()
        standing = grid.init("Uni")
        community = grid.found("physics")
        assert [one.community for one in grid.communities()] == [community.community]
        assert grid.community("physics").members[0].institution == standing.institution
        with pytest.raises(NotFound):
            grid.community("chemistry")
        with pytest.raises(InvalidRequest):
            grid.init("two\nlines")
        assert grid.change("physics", threshold=1) is None
        assert grid.leases().leases == []
        assert grid.drain("new disks").drained == "new disks"
        grid.resume()
        assert grid.ledger() == []
        assert grid.report(since="2026-01").total.agreed.entries == 0
        root = grid.take_root_out()
        assert not grid.drop_root(root).root_here
        assert len(grid.rotate(root=root).keys) == 2
        assert grid.leave("physics", root=root)
        assert grid.communities() == []
