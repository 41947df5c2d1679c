"""An administrator at the page of sessions: find what failed, read why, stop what runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridcloud.client import connect_async
from gridcloud.instances.model import Request
from gridcloud.sessions.model import Plan
from tests.browser.test_hub import PROVIDERS
from tests.browser.visit import CHROMIUM, visit
from tests.spawner.uphouse import UpHouse

pytestmark = [
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason="needs Debian's chromium: `sudo scripts/debian-packages`"
    ),
    pytest.mark.lab,
    pytest.mark.timeout(900),
]

ASKED = {"cpus": 0.25, "memory": 64 << 20}


@pytest.fixture
def house() -> Iterator[UpHouse]:
    """A house with a provider that refuses and this computer."""
    house = UpHouse(Path(tempfile.mkdtemp(prefix="gcu-")), PROVIDERS)
    try:
        house.start(timeout=500)
        yield house
    finally:
        house.stop()
        shutil.rmtree(house.folder)


async def test_an_administrator_looks_after_sessions(house: UpHouse, tmp_path: Path) -> None:
    licence = Plan(words=("sh", "-c", "echo 'No licence is free for <COMSOL>.'; exit 3"))
    async with house.api() as api, await connect_async(data=house.data, alone=True) as service:
        await house.spawn(api, "grace", {"on": "this-computer"})
        wishes = [
            ("ada", licence, Request(on="this-computer", **ASKED)),
            ("<b>ben</b>", licence, Request(on="campus-cloud", **ASKED)),
        ]
        for owner, plan, request in wishes:
            failed = await service.start_session(request, plan, owner=owner, profile="modelling")
            async for _ in service.session_events(failed.id, follow=True):
                pass
        async with visit(tmp_path) as root:
            await root.page.goto(house.link)
            await root.page.wait_for_url("**/hub/spawn*")
            await root.page.get_by_role("link", name="Sessions", exact=True).click()
            await root.page.locator("#gc-rows").get_by_text("grace").wait_for()
            await root.page.select_option("#gc-show", "all")
            await root.page.click("#gc-filter [type=submit]")
            rows = root.page.locator("#gc-rows tbody tr")
            await root.page.get_by_text("3 found").wait_for()
            assert await rows.count() == 3
            await root.page.get_by_text("<b>ben</b>", exact=True).first.wait_for()
            await root.page.get_by_text("No licence is free for <COMSOL>.").first.wait_for()
            await root.photograph("sessions-page")
            await rows.nth(1).get_by_role("link").click()
            await root.page.locator("#gc-log").get_by_text("No licence is free").wait_for()
            await root.photograph("session-page")
            await root.page.get_by_role("link", name="All sessions").click()
            await root.page.get_by_role("button", name="Stop the session of grace").click()
            await root.page.get_by_text("is being stopped").wait_for()
            assert root.errors == []
        [session] = await service.sessions(owner="grace", all=True)
        async for _ in service.session_events(session.id, follow=True):
            pass
        assert (await service.session(session.id)).reason == "asked"
