"""The administrators' page of sessions, the figures and the health pages: what is there, and for whom."""

from __future__ import annotations

import asyncio
import getpass
import re
from html import unescape

import aiohttp

from gridcloud.client import connect_async
from gridcloud.instances.model import Request
from gridcloud.sessions.model import Plan
from tests.spawner.conftest import EVIL
from tests.spawner.uphouse import NAVIGATE, UpHouse

PAGE = "/hub/gridcloud/sessions"
XSRF = 'name="_xsrf" value=""'
"""For a page without a session to stop."""

SENT = {**NAVIGATE, "Sec-Fetch-Site": "same-origin"}


async def look(client: aiohttp.ClientSession, path: str = PAGE) -> str:
    async with client.get(path, headers=NAVIGATE) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["Cache-Control"] == "no-store"
        return await answer.text()


async def test_sessions_their_ends_and_their_stop(house: UpHouse) -> None:
    plan = Plan(words=("sh", "-c", "echo 'no <b>licence</b>'; exit 3"))
    async with house.api() as api, house.browser() as admin:
        await house.spawn(api, "sam")
        async with await connect_async(data=house.data, alone=True) as service:
            failed = await service.start_session(
                Request(cpus=0.1, memory=64 << 20), plan, owner=EVIL, profile=EVIL, name=EVIL
            )
            async for _ in service.session_events(failed.id, follow=True):
                pass
            [session] = await service.sessions(owner="sam")
            page = await look(admin)
            assert ">sam<" in page.replace(" ", "")
            assert session.id in page
            assert failed.id not in page, "it lives no more"

            page = await look(admin, f"{PAGE}?show=failed&text=LICENCE")
            assert "<strong>Rejected</strong>" in page
            assert "exit code 3: no &lt;b&gt;licence" in page
            assert "<script>alert(1)" not in page
            assert 'value="LICENCE"' in page
            story = await look(admin, f"{PAGE}/{failed.id}")
            assert "<script>alert(1)" not in story
            assert "no &lt;b&gt;licence" in story
            assert "failing: The program ended with exit code 3" in story

            xsrf = unescape(re.findall(r'name="_xsrf" value="([^"]*)"', await look(admin))[0])
            async with admin.post(PAGE, data={"stop": session.id}, headers=SENT) as answer:
                assert answer.status == 403, "without the page's token"
            assert (await service.session(session.id)).state == "running"
            data = {"stop": session.id, "_xsrf": xsrf}
            async with admin.post(f"{PAGE}?text=sam", data=data, headers=SENT) as answer:
                assert answer.status == 200
                assert "text=sam" in str(answer.url)
                assert "is being stopped" in await answer.text()
            data["stop"] = "s-no-such"
            async with admin.post(PAGE, data=data, headers=SENT) as answer:
                assert answer.status == 404
            for _ in range(300):
                if not await house.server(api, "sam"):
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError(house.logs())
            for query in ("?page=x", "?page=0", "?page=999999999", "?show=<b>", "?provider=none&service=x"):
                await look(admin, PAGE + query)


async def test_who_sees_what(house: UpHouse) -> None:
    async with house.stranger() as client:
        async with client.get(PAGE, allow_redirects=False) as answer:
            assert answer.status == 302
        async with client.get("/hub/gridcloud/metrics") as answer:
            assert answer.status == 403
        async with client.get("/hub/gridcloud/health/live") as answer:
            assert await answer.json() == {"alive": True}
        async with client.get("/hub/gridcloud/health/ready") as answer:
            assert answer.status == 200
            parts = {"ready": True, "hub": True, "proxy": True, "service": True, "store": True}
            assert await answer.json() == parts, "and nothing else"
    async with house.api() as service:
        ada = await house.user(service, "tim")
    async with house.api(ada) as client:
        for path in (PAGE, f"{PAGE}/s-1", "/hub/gridcloud/metrics"):
            async with client.get(path, allow_redirects=False) as answer:
                assert answer.status == (403 if "metrics" in path else 302), path
        async with client.get("/hub/gridcloud/health/ready") as answer:
            assert set(await answer.json()) == set(parts)
    token = (house.data / "hub" / "metrics-token").read_text().strip()
    assert (house.data / "hub" / "metrics-token").stat().st_mode & 0o077 == 0
    async with house.api(token) as prometheus:
        async with prometheus.get("/hub/gridcloud/metrics") as answer:
            text = await answer.text()
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert "gridcloud_sessions" in text
            assert "sam" not in text
            assert getpass.getuser() not in re.findall(r'="([^"]*)"', text)
        async with prometheus.get("/hub/metrics") as answer:
            assert answer.status == 200
            assert "jupyterhub_" in await answer.text()
        async with prometheus.get("/hub/gridcloud/health/ready") as answer:
            told = await answer.json()
            assert {one["name"] for one in told["providers"]} == {"here", "broken"}
        for path in ("/hub/api/users", PAGE):
            async with prometheus.get(path, allow_redirects=False) as answer:
                assert answer.status in (302, 403), path


async def test_who_is_no_longer_an_administrator_sees_nothing(house: UpHouse) -> None:
    me = f"/hub/api/users/{getpass.getuser()}"
    async with house.browser() as admin, house.api() as service:
        page = await look(admin)
        data = {"stop": "s-1", "_xsrf": unescape(re.findall(r'name="_xsrf" value="([^"]*)"', page + XSRF)[0])}
        ours, theirs = [await house.user(service, name) for name in (getpass.getuser(), "uma")]
        async with house.api(theirs) as uma, house.api(ours) as root:
            async with root.patch("/hub/api/users/uma", json={"admin": True}) as answer:
                assert answer.status == 200
            async with uma.patch(me, json={"admin": False}) as answer:
                assert answer.status == 200
            try:
                for path in (PAGE, f"{PAGE}/s-1"):
                    async with admin.get(path, headers=NAVIGATE) as answer:
                        assert answer.status == 403, path
                async with admin.post(PAGE, data=data, headers=SENT) as answer:
                    assert answer.status == 403
            finally:
                async with uma.patch(me, json={"admin": True}) as answer:
                    assert answer.status == 200
                async with root.patch("/hub/api/users/uma", json={"admin": False}) as answer:
                    assert answer.status == 200
