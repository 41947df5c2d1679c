"""A person at a browser: what one clicks and types in the hub's pages, and the screenshots of it."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.async_api import Page

playwright = pytest.importorskip(
    "playwright.async_api", reason="needs Playwright: `make setup`, or pip install 'gridcloud[test]'"
)

__all__ = ["CHROMIUM", "Visit", "visit"]

CHROMIUM = Path("/usr/bin/chromium")
"""Debian's own; nothing is downloaded."""

FLAGS = (
    "--no-sandbox",  # as root it has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

SECONDS = 30_000
"""Milliseconds that anything on a page may take."""


class Visit:
    """One person's page; ``errors`` is what its console complained about."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page = page
        self.errors: list[str] = []
        self._folder = folder
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    async def photograph(self, name: str) -> None:
        """Keep a screenshot."""
        await self.page.screenshot(path=self._folder / f"{name}.png")

    async def fill_form(self, **fields: str) -> None:
        """Fill in fields of the spawn page by their names."""
        for name, value in fields.items():
            field = self.page.locator(f"#spawn_form [name={name}]")
            if await field.evaluate("field => field.tagName") == "SELECT":
                await field.select_option(value)
            else:
                await field.fill(value)

    async def start(self) -> None:
        """Send the spawn page."""
        await self.page.click("#spawn_form [type=submit]")

    async def see_step(self, words: str) -> None:
        """Return when a step on the progress page says so."""
        await self.page.locator("#progress-log").get_by_text(re.compile(words)).first.wait_for()

    async def run_cell(self, code: str, output: str) -> None:
        """Make a notebook in JupyterLab, run a cell, return when its output is there."""
        news = self.page.get_by_text("official Jupyter news")
        no = self.page.get_by_role("button", name="No", exact=True)
        await self.page.add_locator_handler(news, no.click)
        await self.page.click('.jp-LauncherCard[data-category="Notebook"] >> nth=0')
        await self.page.wait_for_selector(r"text=/Python 3 .*\| Idle/")
        await self.page.click(".jp-Notebook .cm-content >> nth=0")
        await self.page.keyboard.type(code)
        await self.page.keyboard.press("Shift+Enter")
        await self.page.wait_for_selector(f'.jp-OutputArea-output:has-text("{output}")')


@asynccontextmanager
async def visit(folder: Path) -> AsyncIterator[Visit]:
    """Open a browser; screenshots go to ``folder``, or where GRIDCLOUD_SCREENSHOTS says."""
    folder = Path(os.environ.get("GRIDCLOUD_SCREENSHOTS") or folder)
    folder.mkdir(parents=True, exist_ok=True)
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            context = await browser.new_context(viewport={"width": 1280, "height": 900})
            context.set_default_timeout(SECONDS)
            person = Visit(await context.new_page(), folder)
            try:
                yield person
            except BaseException:
                await person.photograph("failure")
                raise
        finally:
            await browser.close()
