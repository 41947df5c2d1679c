"""What administrators see and do while machines are lent: by programs, and on the command line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gridcloud.errors import Forbidden, NotFound
from tests.grid.offices import until
from tests.houses import here
from tests.services import Service, open_service

GRID = {"listen": "127.0.0.1:0", "addresses": ["https://127.0.0.1:0"], "location": "Norway"}
QUICK = {"ttl": 30, "grace": 20, "tolerance": 1}
NOTHING: dict[str, Any] = {
    "driver": "fake",
    "shapes": [{"name": "small", "cpus": 2, "memory": "1GiB", "count": 0}],
}
HOSTILE = '=cmd|"/c calc"!A1 <b>'


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Service, Service]]:
    """Bergen, which lends and has a hostile name, and Oslo, which borrows."""
    folders = [tmp_path / name for name in ("b", "o")]
    for folder in folders:
        folder.mkdir()
    lending = {"providers": ["lent"], "trust_partners": True, **QUICK}
    own: dict[str, dict[str, Any]] = {"own": NOTHING, "partners": {"driver": "peer"}}
    async with (
        open_service(folders[0], {"lent": here(cpus=2)}, grid=GRID, lending=lending) as bergen,
        open_service(folders[1], own, grid=GRID, lending=QUICK) as oslo,
        bergen.admin() as theirs,
        oslo.admin() as ours,
    ):
        host = await theirs.grid.init(HOSTILE)
        guest = await ours.grid.init("Oslo")
        await theirs.grid.found("north")
        given = await theirs.grid.invite("north", guest.fingerprint)
        await ours.grid.join(given.document, host.fingerprint)
        await until(lambda: guest.institution in bergen.house.office.profiles())
        await until(lambda: host.institution in oslo.house.office.profiles())
        yield bergen, oslo


async def test_a_lease_from_its_beginning_to_the_report(two: tuple[Service, Service], tmp_path: Path) -> None:
    bergen, oslo = two
    async with bergen.admin() as theirs, oslo.admin() as ours:
        offers = (await say(oslo, "offers", "--on", "partners")).splitlines()
        assert HOSTILE in offers[1]
        assert "Norway" in offers[1]
        assert offers[1].rstrip().endswith("free, for 24 h at most")
        instance = await oslo.obtain()
        (lent,) = (await theirs.grid.leases()).leases
        (borrowed,) = (await ours.grid.leases()).leases
        assert (lent.way, lent.name, lent.user, lent.state, lent.lease) == (
            "lent",
            "Oslo",
            "ada",
            "held",
            borrowed.lease,
        )
        assert (borrowed.way, borrowed.name, borrowed.instance) == ("borrowed", HOSTILE, instance.id)
        assert "lent to" in await say(bergen, "grid", "leases")
        shown = await say(oslo, "instance", "show", instance.id)
        assert f"partners ({HOSTILE})" in shown
        assert "for 24 h at most" in shown

        with pytest.raises(NotFound):
            await theirs.grid.reclaim(lent.institution, "nothing")
        await say(bergen, "grid", "reclaim", lent.lease, code=2)
        await say(bergen, "grid", "reclaim", lent.lease, "--yes", "--in", "3s", "--why", "an exam")
        await until(lambda: not oslo.house.leasing.borrowing.leases(), 40)
        assert (await ours.grid.leases()).leases == []
        await until(lambda: [one.borrower for one in bergen.house.leasing.accounts.entries()] != [], 30)
        await until(
            lambda: [one.borrower for one in oslo.house.leasing.accounts.entries()] not in ([], [None]), 30
        )

        (record,) = await ours.grid.ledger(partner=HOSTILE)
        assert (record.lease, record.user, record.standing) == (lent.lease, "ada", "agreed")
        assert [one.lease for one in await theirs.grid.ledger()] == [lent.lease]
        mine, other = await ours.grid.report(), await theirs.grid.report()
        assert mine.total.agreed.taken == other.total.agreed.given
        assert mine.total.agreed.taken.cpu_hours > 0
        table = await say(oslo, "grid", "report", "--csv")
        assert f'"\'{HOSTILE.replace(chr(34), chr(34) * 2)}"' in table
        assert "taken from" in await say(oslo, "grid", "ledger")
        written = tmp_path / "report"
        await say(oslo, "grid", "report", "--ods", f"{written}.ods", "--plots", str(written))
        assert {path.name for path in written.iterdir()} == {"months.svg", "partners.svg"}


async def test_nothing_is_lent_during_maintenance(two: tuple[Service, Service]) -> None:
    bergen, oslo = two
    async with bergen.admin() as theirs:
        document = json.loads(await say(bergen, "grid", "drain", "--why", "new disks", "--json"))
        assert document == {"leases": [], "drained": "new disks"}
        assert "nothing is lent here now" in await say(oslo, "offers", "--on", "partners", code=5)
        assert (await theirs.grid.leases()).drained == "new disks"
        await say(bergen, "grid", "drain", "--resume")
        assert (await theirs.grid.leases()).drained == ""
        assert "free" in await say(oslo, "offers", "--on", "partners")


async def test_the_grid_is_for_administrators(two: tuple[Service, Service]) -> None:
    bergen, _ = two
    async with await bergen.user("ada") as client:
        for verb in (
            client.grid.status,
            client.grid.communities,
            client.grid.leases,
            client.grid.take_root_out,
        ):
            with pytest.raises(Forbidden):
                await verb()
    async with (
        bergen.browser() as browser,
        browser.post("/v1/grid/init", json={"name": "x", "extra": 1}) as answer,
    ):
        assert answer.status == 400 or answer.status == 422
    assert (bergen.house.data / "grid" / "root.pem").stat().st_mode & 0o777 == 0o600


async def say(service: Service, *words: str, code: int = 0) -> str:
    """Run a verb at a service; return what it wrote."""
    folder = service.house.data.parent
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gridcloud", "--data", str(service.house.data), "--config"),
        *(str(folder / "config.yaml"), *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "240", "NO_COLOR": "1"},
    )
    out, err = await process.communicate()
    assert process.returncode == code, (out.decode(), err.decode())
    return out.decode()
