"""What sessions are told of their end."""

from __future__ import annotations

import asyncio
import getpass
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gridcloud.settings import SettingsFile
from gridcloud.spawner.desk import Desk
from gridcloud.spawner.lab import lab_files
from gridcloud.spawner.notes import endings_for, notes_for
from tests.spawner.uphouse import UpHouse

NOTES = "/hub/gridcloud/notes"


def test_an_end_is_warned_of_in_time(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("limits: {warning: 10m}\n")
    desk, now = Desk(SettingsFile(tmp_path / "config.yaml"), tmp_path), datetime(2030, 1, 1, tzinfo=UTC)
    for owner, server, minutes in (("ada", "", 11), ("ada", "b", 10), ("ada", "c", -1), ("eve", "", 5)):
        desk.expires[owner, server] = now + timedelta(minutes=minutes)
    endings = endings_for(desk, "ada", now)
    assert {server: (ending["left"], ending["warn"]) for server, ending in endings.items()} == {
        "": (660, False),
        "b": (600, True),
        "c": (0, True),
    }
    assert endings_for(desk, "nobody", now) == {}


def test_a_notice_is_told_also_of_what_has_no_end(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}\n")
    desk, now = Desk(SettingsFile(tmp_path / "config.yaml"), tmp_path), datetime(2030, 1, 1, tzinfo=UTC)
    desk.expires["ada", "b"] = now + timedelta(hours=1)
    desk.notices = {("ada", ""): "80 % are spent.", ("ada", "b"): "Not used.", ("eve", ""): "No."}
    endings = endings_for(desk, "ada", now)
    nothing = {"ends": None, "left": None, "warn": False, "extend": False}
    assert endings[""] == nothing | {"notice": "80 % are spent."}
    assert (endings["b"]["left"], endings["b"]["notice"]) == (3600, "Not used.")
    assert [note["text"] for note in notes_for(desk, "ada", now)][:2] == ["80 % are spent.", "Not used. (b)"]


def test_the_extension_is_what_its_package_says() -> None:
    files = lab_files()
    package = json.loads(files["gridcloud-notice/package.json"])
    build = package["jupyterlab"]["_build"]
    program = files[f"{package['name']}/{build['load']}"]
    assert f'window._JUPYTERLAB["{package["name"]}"]' in program
    assert f'"{build["extension"]}":' in program


async def test_strangers_are_told_nothing(house: UpHouse) -> None:
    async with house.stranger() as client, client.get(NOTES, allow_redirects=False) as answer:
        assert answer.status == 403


async def test_one_is_told_of_ones_own_sessions_only(house: UpHouse) -> None:
    me = getpass.getuser()
    async with house.api() as client, house.browser() as browser:
        limit = {"cpus": 0.5, "memory": "512MiB", "time": "5m"}
        paths = await asyncio.gather(*(house.spawn(client, name, limit) for name in ("ada", me)))
        async with browser.get(NOTES) as answer:
            assert answer.status == 200
            (session,) = (await answer.json())["sessions"]
        assert session["path"] == paths[1]
        assert 200 < session["left"] <= 300
        assert session["warn"]
        await asyncio.gather(*(house.stop_server(client, name) for name in ("ada", me)))
        async with browser.get(NOTES) as answer:
            assert (await answer.json())["sessions"] == []
