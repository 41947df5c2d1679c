"""From the printed link to a cell's output, and back out of a start that is not wanted any more."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridcloud.client import connect_async
from tests.browser.visit import CHROMIUM, Visit, visit
from tests.spawner.uphouse import UpHouse

pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason="needs Debian's chromium: `sudo scripts/debian-packages`"
)

ACCOUNT = {"allow_root": True} if os.geteuid() == 0 else {"share_account": True}

GPUS = {
    "name": "gpu",
    "cpus": 32,
    "memory": "256GiB",
    "gpus": 4,
    "gpu_model": "H100",
    "count": 2,
    "price": 4.8,
}

PROVIDERS = {
    # The cheapest, free as far as it knows, and refuses.
    "campus-cloud": {
        "driver": "fake",
        "location": "Geneva",
        "latency": 300,
        "shapes": [{"name": "large", "cpus": 8, "memory": "32GiB"}],
        "faults": [{"call": "create", "error": "no-capacity", "times": "always"}],
    },
    "this-computer": {"driver": "local", "price": 0.01, **ACCOUNT},
    # It takes longer to boot than anybody waits.
    "partner-cloud": {
        "driver": "fake",
        "location": "Lugano",
        "boot_seconds": 600,
        "price": 0.2,
        "shapes": [GPUS],
    },
}


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[UpHouse]:
    """A house with a provider that refuses, this computer, and one that is slow; at home lies next to nothing."""
    folder = Path(tempfile.mkdtemp(prefix="gcu-"))
    (folder / "home" / "measurements").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder / "home"))
    house = UpHouse(folder, PROVIDERS)
    house.start()
    yield house
    house.stop()
    shutil.rmtree(folder)


@pytest.mark.timeout(300)
async def test_a_visit(house: UpHouse, tmp_path: Path) -> None:
    async with visit(tmp_path) as ada:
        await _log_in(ada, house)
        await _work(ada)
        await _change_ones_mind(ada, house)
        await _be_warned(ada, house)
        await _come_again_by_the_same_link(ada, house)
        assert ada.errors == []


async def _log_in(ada: Visit, house: UpHouse) -> None:
    await ada.page.goto(house.link)
    await ada.page.wait_for_url("**/hub/spawn*")
    assert "token" not in ada.page.url


async def _work(ada: Visit) -> None:
    """Ask for the best offer, watch the steps, run a cell."""
    await ada.fill_form(on="", cpus="1", memory="1GiB")
    await ada.page.locator("#gc-offers").get_by_text("partner-cloud").wait_for()
    await ada.photograph("spawn-page")
    await ada.start()
    await ada.see_step("campus-cloud")
    await ada.photograph("first-steps")
    await ada.page.wait_for_url("**/user/*/lab**")
    await ada.run_cell('print("sum", 1+1)', "sum 2")
    await ada.photograph("notebook")


async def _change_ones_mind(ada: Visit, house: UpHouse) -> None:
    """Start a second session where it takes long, and cancel it while it boots: nothing is left of it."""
    await ada.page.goto(f"{house.url}/hub/home")
    await ada.photograph("home")
    await ada.page.fill(".new-server-name", "second")
    await ada.page.click(".new-server-btn")
    await ada.page.click("#start-second")
    await ada.page.wait_for_url("**/hub/spawn/*/second*")
    await ada.fill_form(kind="virtual_machine", cpus="2", memory="4GiB")
    await ada.start()
    await ada.see_step("[Bb]oot|[Ss]tarting")
    await ada.photograph("steps")
    async with await connect_async(data=house.data, alone=True) as gridcloud:
        before = await gridcloud.sessions()
        assert len(before) == 2
        await ada.page.get_by_role("button", name="Cancel").click()
        second = next(session for session in before if session.name.endswith("/second"))
        async for _ in gridcloud.session_events(second.id, follow=True):
            pass
        assert [session.id for session in await gridcloud.sessions()] == [
            session.id for session in before if session is not second
        ]
        held = [instance.offer.provider for instance in await gridcloud.instances() if instance.offer]
        assert held == ["this-computer"]
    await ada.page.wait_for_url("**/hub/home")
    await ada.photograph("cancelled")


async def _be_warned(ada: Visit, house: UpHouse) -> None:
    """Work in a session that ends soon: JupyterLab says so."""
    await ada.page.goto(f"{house.url}/hub/spawn/{getpass.getuser()}/brief")
    await ada.fill_form(on="this-computer", cpus="1", memory="1GiB", time="5m")
    await ada.start()
    await ada.page.wait_for_url("**/user/*/brief/lab**")
    await ada.page.get_by_text(
        re.compile(r"Your session ends in [45] minutes, at .*Save your work")
    ).wait_for()
    await ada.photograph("warned")


async def _come_again_by_the_same_link(ada: Visit, house: UpHouse) -> None:
    await ada.page.context.clear_cookies()
    answer = await ada.page.goto(house.link)
    assert answer is not None
    assert answer.status == 403
    await ada.page.get_by_text("used already").wait_for()
    await ada.photograph("refused")
