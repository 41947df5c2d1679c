"""The administrator's page of the grid: after a login only, with others' names as text, and a map."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from gridcloud.client import connect_async
from gridcloud.federation.keys import PrivateKey, institution_of
from gridcloud.grid.model import Link, Standing, Status, Way
from gridcloud.grid.reports import Hours, Line, Report, Sums
from gridcloud.spawner.grid_page import HEIGHT, SHOWN, WIDTH, draw_map
from tests.spawner.conftest import EVIL
from tests.spawner.uphouse import NAVIGATE, UpHouse

NOW = datetime(2026, 5, 1, tzinfo=UTC)
IDS = [institution_of(PrivateKey(bytes([number]) * 32).public) for number in range(1, 61)]


async def test_the_page_is_for_who_is_logged_in_and_escapes_names(house: UpHouse) -> None:
    async with house.stranger() as client, client.get("/hub/gridcloud/grid", allow_redirects=False) as answer:
        assert answer.status == 302
    async with house.browser() as client:
        async with client.get("/hub/gridcloud/grid", headers=NAVIGATE) as answer:
            assert answer.status == 200
            assert "gridcloud grid init" in await answer.text()
        service = await connect_async(data=house.data, alone=True)
        try:
            standing = await service.grid.init(EVIL)
            await service.grid.found("physics")
        finally:
            await service.close()
        async with client.get("/hub/gridcloud/grid", headers=NAVIGATE) as answer:
            page = await answer.text()
        async with client.get("/hub/home", headers=NAVIGATE) as answer:
            assert 'href="/hub/gridcloud/grid"' in await answer.text()
    assert standing.fingerprint in page
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "physics" in page
    assert "There is no other institution yet." in page


def test_map() -> None:
    status = _status(Link(institution=IDS[1], name=EVIL, way=Way.RELAYED), Link(institution=IDS[2], name=""))
    spots, arrows = draw_map(status, _report(_line(1, given="400", taken="100"), _line(9, given="50")))
    assert {(one.name[:9], one.way) for one in spots} == {
        ("Uni", "ourselves"),
        (EVIL[:9], "relayed"),
        (IDS[2][:9], "untried"),
    }
    assert [(one.given, one.hours) for one in arrows] == [(True, "400"), (False, "100")]
    assert arrows[0].width == 6
    assert arrows[1].width == 3.5, "a quarter of the hours is half as wide, beside the thinnest line"
    inside = [(one.x1, one.y1) for one in arrows] + [(one.x2, one.y2) for one in arrows]
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in inside)


@pytest.mark.parametrize("count", [0, 1, 2, 59])
def test_map_of_few_and_many(count: int) -> None:
    links = [Link(institution=who, name="x" * 200) for who in IDS[1 : count + 1]]
    lines = [_line(number, taken="0.5") for number in range(1, count + 1)]
    spots, arrows = draw_map(_status(*links), _report(*lines))
    assert len(spots) == 1 + min(count, SHOWN)
    assert len(arrows) == min(count, SHOWN)
    assert len({(one.x, one.y) for one in spots}) == len(spots)
    assert all(len(one.name) <= 24 for one in spots)


def _status(*links: Link) -> Status:
    standing = Standing(institution=IDS[0], name="Uni", fingerprint="", root_here=True)
    return Status(standing=standing, links=links)


def _line(number: int, *, given: str = "0", taken: str = "0") -> Line:
    sums = Sums(given=Hours(cpu_hours=Decimal(given)), taken=Hours(cpu_hours=Decimal(taken)), entries=1)
    return Line(institution=IDS[number], agreed=sums)


def _report(*lines: Line) -> Report:
    return Report(institution=IDS[0], name="Uni", made=NOW, lines=(), months=(), partners=lines, total=Line())
