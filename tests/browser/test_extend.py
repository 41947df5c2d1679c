"""A session that is about to end: JupyterLab says so, extends it, and saves what is open before it is gone."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gridcloud.client import AsyncClient, connect_async
from gridcloud.sessions.model import Session
from tests.browser.visit import CHROMIUM, Visit, visit
from tests.spawner.conftest import HERE
from tests.spawner.uphouse import UpHouse

if TYPE_CHECKING:
    from playwright.async_api import Locator, Page

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(560),
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason="needs Debian's chromium: `sudo scripts/debian-packages`"
    ),
]

WARNED = re.compile(r"Your session ends in [2-8] minutes?, at .*Save your work")


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[UpHouse]:
    """A house where nothing lives longer than eight minutes; a page warns of every end."""
    folder = Path(tempfile.mkdtemp(prefix="gcu-"))
    (folder / "home").mkdir()
    monkeypatch.setenv("HOME", str(folder / "home"))
    house = UpHouse(folder, {"here": HERE}, limits={"time": "8m", "retry_first": 0.1})
    house.start()
    yield house
    house.stop()
    shutil.rmtree(folder)


async def test_a_session_is_extended_and_saved(house: UpHouse, tmp_path: Path) -> None:
    async with visit(tmp_path) as ada, await connect_async(data=house.data, alone=True) as gridcloud:
        await ada.page.goto(house.link)
        await ada.page.wait_for_url("**/hub/spawn*")
        await ada.fill_form(cpus="1", memory="1GiB", time="5m")
        await ada.start()
        await ada.page.wait_for_url("**/user/*/lab**", timeout=120_000)
        (session,) = await gridcloud.sessions()
        await _extend(ada, gridcloud, session)
        await _be_refused(ada)
        await _be_saved(ada, gridcloud, session, house.folder / "home")
        assert ada.errors == []


async def _extend(ada: Visit, gridcloud: AsyncClient, session: Session) -> None:
    """Press the button, twice, where two pages of the session are open."""
    before = (await gridcloud.instance(session.instance_id)).expires
    assert before
    other = await ada.page.context.new_page()
    await other.goto(ada.page.url)
    for page in (other, ada.page):
        await _button(page).wait_for(timeout=120_000)
    told = await other.locator(".jp-toast-message").filter(has_text="Your session ends").inner_text()
    await ada.photograph("extend")
    await _button(ada.page).dblclick()
    await ada.page.get_by_text("Your session goes on until").wait_for()
    await ada.photograph("extended")
    expires = (await gridcloud.instance(session.instance_id)).expires
    assert expires == before + timedelta(minutes=3), "as far as it goes, once"
    # The other page learns of it, and tells of the new end.
    await other.get_by_text(told, exact=True).wait_for(state="detached")
    await _button(other).wait_for()
    await other.close()


async def _be_refused(ada: Visit) -> None:
    await _button(ada.page).click()
    reason = ada.page.get_by_text(re.compile(r"It may live 0:08:00 in all, until .* UTC"))
    await reason.wait_for()
    await ada.photograph("extend-refused")
    await ada.page.get_by_role("button", name="OK", exact=True).click()
    await reason.wait_for(state="detached")


async def _be_saved(ada: Visit, gridcloud: AsyncClient, session: Session, home: Path) -> None:
    """Write something, and have the time be over before JupyterLab saves it by itself."""
    await ada.run_cell('print("what", "nobody saved")', "what nobody saved")
    (notebook,) = home.glob("*.ipynb")
    assert "nobody saved" not in notebook.read_text()
    await gridcloud.extend(session.instance_id, time=5)
    async with asyncio.timeout(120):
        told = [event.message async for event in gridcloud.session_events(session.id, follow=True)]
    assert "What was open in 1 page was to be saved: 1 saved." in told
    assert "nobody saved" in notebook.read_text()


def _button(page: Page) -> Locator:
    return page.locator(".jp-toast-buttonBar").get_by_role("button", name="Extend")
