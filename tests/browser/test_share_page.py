"""The page of a shared folder, used by a person at a browser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gridcloud.clock import SystemClock
from gridcloud.data.model import Rights
from gridcloud.data.shares import Wish
from gridcloud.data.webdoor import WebDoor
from tests.browser.visit import CHROMIUM, FLAGS, playwright
from tests.data.parts import make, open_shares

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium: apt-get install chromium")


async def test_files_go_up_and_are_shown(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "Ünïcode & <b>.txt").write_text("x")
    data = os.urandom(40 << 20)  # more than one part
    (tmp_path / "big.bin").write_bytes(data)
    (tmp_path / "empty").touch()
    async with open_shares(tmp_path) as shares, playwright.async_playwright() as driver:
        door = WebDoor(shares, SystemClock())
        top = f"http://127.0.0.1:{await door.open('127.0.0.1', 0)}/s"
        browser = await driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            page = await browser.new_page()
            wrong: list[str] = []
            page.on("console", lambda message: wrong.append(message.text))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            made = await make(shares, folder, Wish(rights=Rights.READ_WRITE, name="Foam"))
            await page.goto(f"{top}/{made.secret}/")
            async with page.expect_navigation():  # it shows what is there now
                await page.set_input_files("#files", [tmp_path / "big.bin", tmp_path / "empty"])
            await page.wait_for_selector("text=big.bin")
            assert "Ünïcode & <b>.txt" in await page.inner_text("table")
            assert (folder / "big.bin").read_bytes() == data
            assert (folder / "empty").read_bytes() == b""
            box = await make(shares, folder, Wish(rights=Rights.WRITE))
            await page.goto(f"{top}/{box.secret}/")
            await page.set_input_files("#files", [tmp_path / "empty"])
            await page.wait_for_selector("text=is there")
            assert not await page.query_selector("table")
            assert (folder / "empty (2)").exists()
            assert not wrong
        finally:
            await browser.close()
            await door.close()
