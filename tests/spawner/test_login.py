"""The link to log in, and what others may not do."""

from __future__ import annotations

import getpass
import json
import stat
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from gridcloud.client import connect_async
from gridcloud.settings import SettingsFile
from gridcloud.spawner.hub_files import HubFiles
from gridcloud.spawner.links import claim_link, issue_link
from gridcloud.spawner.up import new_link
from tests.spawner.uphouse import NAVIGATE, UpHouse


async def test_the_link_lets_in_once_and_is_gone_from_the_address(house: UpHouse) -> None:
    link = new_link(SettingsFile(house.config), house.data)
    async with house.stranger() as first, first.get(link, headers=NAVIGATE) as answer:
        assert answer.status == 200
        assert answer.url.path == "/hub/spawn"
        assert not answer.url.query
        async with first.get("/hub/home") as home:
            assert getpass.getuser() in await home.text()
        async with first.get("/hub/admin") as admin:
            assert admin.status == 200
    async with house.stranger() as second, second.get(link, headers=NAVIGATE) as answer:
        assert answer.status == 403
        assert "was used already" in await answer.text()
    token = link.partition("token=")[2]
    assert token not in house.logs()
    assert token not in "".join(path.read_text() for path in (house.data / "hub").glob("*.json"))


async def test_the_link_that_was_printed_is_void_once_another_is(house: UpHouse) -> None:
    new_link(SettingsFile(house.config), house.data)
    async with house.stranger() as client, client.get(house.link, headers=NAVIGATE) as answer:
        assert answer.status == 403


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", r"/\\evil.example"])
async def test_the_link_leads_nowhere_else(house: UpHouse, elsewhere: str) -> None:
    link = new_link(SettingsFile(house.config), house.data)
    async with (
        house.stranger() as client,
        client.get(link, params={"next": elsewhere}, headers=NAVIGATE, allow_redirects=False) as answer,
    ):
        assert answer.status == 302
        place = urlsplit(answer.headers["Location"])
        assert (place.scheme, place.netloc) == ("", "")
        assert place.path.startswith(("/hub/", "/%5C"))


async def test_nobody_gets_in_without(house: UpHouse) -> None:
    async with house.stranger() as client:
        for path in ("/hub/home", "/hub/spawn", "/hub/admin", "/user/root/lab"):
            async with client.get(path, headers=NAVIGATE) as answer:
                assert answer.url.path == "/hub/login"
                assert "paste its token" in await answer.text()
        for token in ("", "wrong", "é" * 20):
            async with client.get("/hub/login", params={"token": token}, headers=NAVIGATE) as answer:
                assert answer.url.path == "/hub/login"
        async with client.post("/hub/gridcloud/offers") as answer:
            assert answer.status == 403


async def test_a_post_needs_the_page_it_comes_from(house: UpHouse) -> None:
    async with house.browser() as client:
        for path in ("/hub/spawn", "/hub/gridcloud/offers"):
            async with client.post(path, data={}) as answer:
                assert answer.status == 403


async def test_users_cannot_reach_each_other(house: UpHouse) -> None:
    async with house.api() as admin:
        path = await house.spawn(admin, "ada")
        ben = await house.user(admin, "ben")
        ada = await house.user(admin, "ada")
        async with house.api(ben) as client:
            for place in (
                f"{path}api/status",
                f"{path}api/contents",
                f"{path}api/kernels",
                "/hub/api/users/ada",
                "/hub/api/users/ada/server",
                "/hub/api/users/ada/tokens",
                "/hub/api/users/ada/server/progress",
                "/hub/api/users",
                "/hub/api/proxy",
            ):
                async with client.get(place, allow_redirects=False) as answer:
                    assert answer.status in (302, 403, 404), place
            async with client.delete("/hub/api/users/ada/server") as answer:
                assert answer.status in (403, 404)
            async with client.post("/hub/api/users/ada/server", json={}) as answer:
                assert answer.status in (403, 404)
        async with house.api(ada) as client, client.get(f"{path}api/status") as answer:
            assert answer.status == 200
        async with await connect_async(data=house.data, alone=True) as gridcloud:
            [session] = await gridcloud.sessions(owner="ada")
            said = session.model_dump_json() + "".join(
                [event.model_dump_json() async for event in gridcloud.session_events(session.id)]
            )
        assert "TOKEN" not in said
        await house.stop_server(admin, "ada")


def test_files_are_private(house: UpHouse) -> None:
    for path in (house.data / "hub", house.data / "logs", *(house.data / "hub").iterdir()):
        assert not path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) or path.parent.name == "hub"
    for name in ("cookie-secret", "api-token", "proxy-token", "ports.json"):
        assert stat.S_IMODE((house.data / "hub" / name).stat().st_mode) == 0o600


def test_an_old_link_lets_nobody_in(house: UpHouse) -> None:
    files = HubFiles(house.folder)
    token = issue_link(files, "http://hub").partition("token=")[2]
    known = json.loads(files.link.read_text())
    assert token not in files.link.read_text()
    files.write_link({**known, "until": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()})
    assert claim_link(files, token) is None
    assert claim_link(files, token) is None
    token = issue_link(files, "http://hub").partition("token=")[2]
    assert claim_link(files, "no") is None
    assert claim_link(files, token) == getpass.getuser()
    assert claim_link(files, token) is None
