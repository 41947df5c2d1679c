"""Applications beside JupyterLab, as people see them: cards, a desktop with windows, VS Code."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.browser.visit import CHROMIUM, Visit, visit
from tests.spawner.uphouse import UpHouse

pytest.importorskip(
    "jupyter_server_proxy", reason="needs jupyter-server-proxy: pip install 'gridcloud[apps]'"
)

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason="needs Debian's chromium: `sudo scripts/debian-packages`"
    ),
]

ACCOUNT = {"allow_root": True} if os.geteuid() == 0 else {"share_account": True}

DESKTOP = ("Xtigervnc", "icewm-session", "xterm")

BLUE = (32, 64, 96)

WINDOW = 'sh -c "xterm -geometry 80x24+200+150 -bg rgb:20/40/60 -fg white -title Measurements & exec icewm-session"'

COUNT = """([red, green, blue]) => {
  const canvas = document.querySelector("#screen canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let at = 0; at < data.length; at += 4) {
    count += data[at] === red && data[at + 1] === green && data[at + 2] === blue;
  }
  return count;
}"""


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[UpHouse]:
    """A house whose desktops have a window."""
    folder = Path(tempfile.mkdtemp(prefix="gcu-"))
    (folder / "home").mkdir()
    monkeypatch.setenv("HOME", str(folder / "home"))
    apps = {
        "desktop": {"environment": {"GRIDCLOUD_DESKTOP": WINDOW}},
        "rstudio": {"enabled": False},
        "absent": {
            "title": "Absent",
            "command": ["no-such-program", "{socket}"],
            "install": "Ask ada for it.",
        },
    }
    house = UpHouse(folder, {"here": {"driver": "local", **ACCOUNT}}, apps=apps)
    house.start()
    yield house
    house.stop()
    shutil.rmtree(folder)


def processes(name: str) -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["name"]) if one.info["name"] == name]


@asynccontextmanager
async def at_work(house: UpHouse, folder: Path) -> AsyncIterator[Visit]:
    """Open JupyterLab in a session, as somebody whose machine is busy."""
    async with visit(folder) as ada:
        ada.page.context.set_default_timeout(180_000)
        await ada.page.goto(house.link)
        await ada.page.wait_for_url("**/hub/spawn*")
        await ada.fill_form(on="here", cpus="1", memory="1GiB")
        await ada.start()
        await ada.page.wait_for_url("**/user/*/lab**")
        await ada.page.locator(".jp-LauncherCard", has_text="Desktop").wait_for()
        yield ada


async def open_card(ada: Visit, title: str) -> Visit:
    """Click a card; return the tab that it opens."""
    async with ada.page.context.expect_page() as opened:
        await ada.page.locator(".jp-LauncherCard", has_text=title).click()
    return Visit(await opened.value, ada._folder)


@pytest.mark.skipif(
    any(shutil.which(name) is None for name in DESKTOP), reason="needs tigervnc, icewm and xterm"
)
async def test_a_desktop_with_a_window(house: UpHouse, tmp_path: Path) -> None:
    before = {one.pid for name in DESKTOP for one in processes(name)}
    async with at_work(house, tmp_path) as ada:
        await ada.photograph("cards")
        absent = await open_card(ada, "Absent")
        await absent.page.get_by_text("Absent is not on this machine. Ask ada for it.").wait_for()
        await absent.photograph("absent")
        await absent.page.close()

        desktop = await open_card(ada, "Desktop")
        await desktop.page.wait_for_selector("body[data-state=connected]")
        async with asyncio.timeout(120):
            while await desktop.page.evaluate(COUNT, list(BLUE)) < 50_000:  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.3)
        await desktop.page.locator("#screen canvas").click(position={"x": 400, "y": 300})
        home = house.folder / "home"
        await desktop.page.keyboard.type(f"glxinfo -B >{home}/gl 2>&1; id -un >{home}/who; ls -l\n", delay=30)
        async with asyncio.timeout(120):
            while not (home / "who").exists() or not (home / "who").read_text():  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.2)
        assert (home / "who").read_text().strip() == getpass.getuser()
        if shutil.which("glxinfo") and shutil.which("vglrun") is None:
            assert "llvmpipe" in (home / "gl").read_text()
        await desktop.photograph("desktop")
        assert desktop.errors == []
        assert {one.pid for one in processes("xterm")} - before
        assert not listeners_of(processes("Xtigervnc"))

        async with house.api() as client:
            await house.stop_server(client, getpass.getuser())
        left = {one.pid: one for name in DESKTOP for one in processes(name)}
        assert not set(left) - before


def listeners_of(found: list[psutil.Process]) -> list[str]:
    """What these processes listen on, beside Unix sockets."""
    return [str(one.laddr) for process in found for one in process.net_connections("inet")]


@pytest.mark.skipif(shutil.which("code-server") is None, reason="needs code-server")
async def test_vs_code(house: UpHouse, tmp_path: Path) -> None:
    async with at_work(house, tmp_path) as ada:
        code = await open_card(ada, "VS Code")
        await code.page.wait_for_selector(".monaco-workbench")
        await code.page.get_by_role("tab", name="Explorer").first.wait_for()
        await code.photograph("vs-code")
        async with house.api() as client:
            await house.stop_server(client, getpass.getuser())
    assert not [
        one for one in psutil.process_iter(["cmdline"]) if "--socket-mode" in (one.info["cmdline"] or [])
    ]
