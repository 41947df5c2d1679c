"""More time for a session, asked for as its page in JupyterLab does: by the page's token, and by nobody else."""

from __future__ import annotations

import asyncio
import getpass
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import pytest

from gridcloud.client import connect_async
from gridcloud.sessions.saving import FOLDER, SCHEMA, save_pages
from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import NAVIGATE, TOKEN, UpHouse

ME = getpass.getuser()
BRIEF = {"cpus": 0.5, "memory": "512MiB", "time": "5m"}
HOUR = timedelta(hours=1)


async def page_token(browser: aiohttp.ClientSession, path: str) -> str:
    """Return the token that JupyterLab's page has, as a browser shows it."""
    async with browser.get(f"{path}lab", headers=NAVIGATE) as answer:
        text = await answer.text()
        assert answer.status == 200, text
    found = re.search(r'id="jupyter-config-data"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert found
    return str(json.loads(found[1])["token"])


async def told(browser: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    """Return what the page is told of its session."""
    async with browser.get("/hub/gridcloud/notes") as answer:
        sessions: list[dict[str, Any]] = (await answer.json())["sessions"]
    return next(one for one in sessions if one["path"] == path)


async def ask(house: UpHouse, token: str, user: str, after: Any, **more: Any) -> tuple[int, dict[str, Any]]:
    """Press the button."""
    headers = {"Authorization": f"token {token}"} | more.pop("headers", {})
    url = f"/hub/api/gridcloud/users/{user}/server/extend"
    body = more.pop("json", {"after": after})
    async with house.stranger() as page, page.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_the_page_of_a_session_extends_it_and_nobody_else_does(house: UpHouse) -> None:
    async with house.api() as client, house.browser() as browser:
        path = await house.spawn(client, ME, BRIEF)
        before = await told(browser, path)
        assert before["warn"]
        assert before["extend"]
        after = before["ends"]
        token = await page_token(browser, path)
        adas = await house.user(client, "ada")
        url = f"/hub/api/gridcloud/users/{ME}/server/extend"
        assert (await ask(house, adas, ME, after))[0] in (403, 404), "a token of somebody else"
        assert (await ask(house, TOKEN, ME, after))[0] == 403, "that of a service which may use any session"
        assert (await ask(house, "wrong", ME, after))[0] == 403
        assert (await ask(house, token, "ada", after))[0] in (403, 404), "another's session"
        for origin in ({}, {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}):
            # A browser sends the cookie whatever page has it ask.
            async with browser.post(url, json={"after": after}, headers=origin) as answer:
                assert answer.status == 403
        async with browser.get(url) as answer:
            assert answer.status in (403, 405)
        wrongs: tuple[Any, ...] = ([], {}, {"after": 3}, {"after": "soon"}, {"after": after, "longest": 0})
        for wrong in wrongs:
            status, said = await ask(house, token, ME, None, json=wrong)
            assert status == 400, said
        assert (await told(browser, path))["ends"] == after, "none of these has changed anything"

        answers = await asyncio.gather(*(ask(house, token, ME, after) for _ in range(3)))
        ends = datetime.fromisoformat(after) + HOUR
        assert {(status, said.get("ends")) for status, said in answers} == {(200, ends.isoformat())}
        now = await told(browser, path)
        assert (now["ends"], now["warn"]) == (ends.isoformat(), False)
        await house.stop_server(client, ME)
        assert (await ask(house, token, ME, None))[0] in (403, 404)


async def test_open_pages_are_asked_to_save_through_their_own_server(house: UpHouse) -> None:
    async with house.api() as client:
        path = await house.spawn(client, "ivy")
        service = await connect_async(data=house.data, config=house.config, alone=True)
        try:
            (session,) = [one for one in await service.sessions(all=False) if one.name == "ivy"]
        finally:
            await service.close()
        async with open_kernel(client, path) as kernel:
            token = (await kernel.run("import os; print(os.environ['JUPYTERHUB_API_TOKEN'])")).strip()
        assert session.endpoint

        async def saved(heard: float = 0.5) -> str:
            assert session.endpoint
            return await save_pages(session.endpoint, session.plan.probe, token, heard, 5)

        assert await saved() == "", "no page is open"
        async with client.ws_connect(f"{path}api/events/subscribe") as events:

            async def say(words: str) -> None:
                event = {"schema_id": SCHEMA, "version": "1", "data": {"action": "get", "path": words}}
                async with client.post(f"{path}api/events", json=event) as answer:
                    assert answer.status == 204, await answer.text()

            async def answer(*answers: str) -> None:
                while True:
                    event = await events.receive_json()
                    if event["path"].count("/") == 2 and event["path"].startswith(FOLDER):
                        break
                for one in answers:
                    await say(f"{event['path']}/{one}")

            for answers, words in (
                (("a/begun/0", "a/saved/2"), "1 page was to be saved: 2 saved."),
                (("a/begun/0", "b/begun/0", "a/saved/1", "b/failed/1"), "1 saved, 1 could not be."),
                (
                    ("a/begun/0", "../../b/saved/9", "a/saved/x", "a/saved/1"),
                    "1 page was to be saved: 1 saved.",
                ),
            ):
                page = asyncio.create_task(answer(*answers))
                assert words in await saved(1.0)
                await page
        assert session.endpoint
        assert await save_pages(session.endpoint, session.plan.probe, "wrong", 1, 1) == ""
        await house.stop_server(client, "ivy")


@pytest.mark.lab  # a hub of its own, which is killed
async def test_a_hub_that_was_killed_extends_within_what_the_profile_allows(
    make_house: Callable[..., UpHouse],
) -> None:
    profile = {"title": "Exercises", "request": {"time": "5m"}, "limits": {"time": "90m"}}
    house = make_house(profiles={"exercises": profile})
    house.start()
    async with house.api() as client, house.browser() as browser:
        path = await house.spawn(client, ME, {"profile": "exercises"})
        token = await page_token(browser, path)
        after = (await told(browser, path))["ends"]
        house.child("gridcloud.spawner.hub").kill()
        async with asyncio.timeout(120):
            while True:
                try:
                    status, said = await ask(house, token, ME, after)
                except (aiohttp.ClientError, ValueError):  # it is being started again
                    status, said = 503, {}
                if status == 200:
                    break
                await asyncio.sleep(0.5)
        first = datetime.fromisoformat(after)
        assert said["ends"] == (first + HOUR).isoformat()
        assert (await ask(house, token, ME, after))[1] == said
        status, said = await ask(house, token, ME, said["ends"])
        assert said["ends"] == (first + timedelta(minutes=85)).isoformat()
        status, said = await ask(house, token, ME, said["ends"])
        assert (status, "1:30:00 in all" in said["message"]) == (400, True)
        house.settings["profiles"] = {"exercises": profile | {"offered": {"users": "eve"}}}
        house.write()
        async with asyncio.timeout(60):
            while "not offered to you any more" not in said["message"]:
                status, said = await ask(house, token, ME, (first + timedelta(minutes=85)).isoformat())
                await asyncio.sleep(0.5)
        assert status == 403
        await house.stop_server(client, ME)
    house.stop()
