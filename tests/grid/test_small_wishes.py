"""Limits hold for what machines have, however little is wished for."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridcloud.errors import GridcloudError
from tests.grid.test_leasing import lender, two


async def test_who_wishes_for_nearly_nothing_has_no_more_machines(tmp_path: Path) -> None:
    async with two(tmp_path, lender(limits=[{"cpus": 2}])) as (bergen, oslo):
        await oslo.obtain(cpus=0.001)  # a machine of two cores, the smallest kind that Bergen has
        with pytest.raises(GridcloudError, match="the limit of"):
            await oslo.obtain(cpus=0.001)
        assert len(await bergen.runner.records.live()) == 1
