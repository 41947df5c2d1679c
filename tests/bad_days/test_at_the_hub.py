"""Bad days at one hub: providers that hang, links that lead away, strange names, options of the API, others' pages."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import pytest
from yarl import URL

from gridcloud.client import connect_async
from gridcloud.spawner.form import PATIENCE
from tests.spawner.conftest import HERE
from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import NAVIGATE, UpHouse

pytestmark = pytest.mark.timeout(300)

FRONT = "127.0.0.2"

SECRET = "front-" + "x" * 40

LONGEST_ANSWER = 3.0
"""Seconds that a page may take on a computer with other work: without it, a twentieth of that."""

EVIL = [
    "//evil",
    "///evil",
    "////evil",
    r"/\evil",
    r"/\\evil",
    r"\\evil",
    r"\/evil",
    "%2f%2fevil",
    "/%2f%2fevil",
    "/%2fevil",
    "/%5cevil",
    "/%09/evil",
    "/\t/evil",
    "\t//evil",
    "/\n/evil",
    " //evil",
    "https:evil",
    "https:/evil",
    "https:///evil",
    "https:\\\\evil",
    "HTTPS://evil",
    "javascript:alert(1)",
    "data:text/html,x",
    "/hub/../..//evil",
    "/hub/..//evil",
    "/./\\evil",
    "/hub/home@evil",
    "//127.0.0.1@evil",
]


@pytest.fixture(scope="module")
def hub(make_house: Callable[..., UpHouse]) -> UpHouse:
    """A hub with people of a front server, this computer, and two clouds that do not answer."""
    hung = [{"call": "offers", "error": "hang", "times": "always"}]
    stuck = [{"call": "create", "error": "hang", "times": "always"}]
    house = make_house(
        {
            "here": HERE,
            "hung": {"driver": "fake", "faults": hung},
            "stuck": {"driver": "fake", "faults": stuck},
        },
        limits={"retry_first": 0.1, "offers": 2},
    )
    secret = house.folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    house.settings["hub"] |= {
        "authenticator": "header",
        "header": {"user": "X-Subject", "trusted_proxies": [f"{FRONT}/32"], "secret": f"file:{secret}"},
        "allow_all": True,
    }
    house.write()
    house.start()
    return house


@asynccontextmanager
async def student(hub: UpHouse, name: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a browser of sorts behind the front server."""
    connector = aiohttp.TCPConnector(
        resolver=aiohttp.ThreadedResolver(), force_close=True, local_addr=(FRONT, 0)
    )
    headers = {"X-Subject": name, "X-Hub-Secret": SECRET, **NAVIGATE}
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(hub.url, cookie_jar=jar, connector=connector, headers=headers) as client:
        async with client.get("/hub/login") as answer:
            assert answer.status == 200, await answer.text()
        yield client


# A provider that does not answer -----------------------------------------------------------------------------------


async def test_a_provider_that_hangs_holds_up_no_page_and_lets_its_user_go(hub: UpHouse) -> None:
    users = ("ann", "ben")
    async with hub.api() as client, student(hub, "eve") as eve:
        for user in ("cyd", *users):
            await hub.user(client, user)
        async with client.post("/hub/api/users/cyd/server", json={"on": "hung"}) as answer:
            assert answer.status == 409, "one that tells no offers is given up soon"
            assert "hung: It did not answer" in await answer.text()
        starts = [asyncio.create_task(start(client, user, on="stuck")) for user in users]
        for _ in range(600):
            if all([await hub.server(client, user) for user in users]):
                break
            await asyncio.sleep(0.05)
        times = [await took(eve, "/hub/home") for _ in range(7)]
        print(f"/hub/home: median {statistics.median(times):.3f} s, longest {max(times):.3f} s")
        assert statistics.median(times) < LONGEST_ANSWER, times
        assert await took(eve, "/hub/spawn") < LONGEST_ANSWER + PATIENCE, "it asks what is free now"
        for user in users:
            assert (await hub.server(client, user)).get("pending") == "spawn"
            began = time.monotonic()
            await hub.stop_server(client, user)
            print(f"cancelled after {time.monotonic() - began:.2f} s")
            assert time.monotonic() - began < 20
        await asyncio.gather(*starts)
        async with await connect_async(data=hub.data, alone=True) as gridcloud:
            for user in users:
                for session in await gridcloud.sessions(owner=user):
                    async for _ in gridcloud.session_events(session.id, follow=True):
                        pass
                assert await gridcloud.instances(owner=user) == []


async def start(client: aiohttp.ClientSession, user: str, **options: Any) -> int:
    """Ask for a session, and return the status that the hub answers with when it is there, given up or cancelled."""
    async with client.post(f"/hub/api/users/{user}/server", json=options) as answer:
        return answer.status


async def took(client: aiohttp.ClientSession, path: str) -> float:
    """Return the seconds that a page took."""
    began = time.monotonic()
    async with client.get(path) as answer:
        assert answer.status == 200
        await answer.read()
    return time.monotonic() - began


# Where a login leads -----------------------------------------------------------------------------------------------


def leads_to(base: str, location: str) -> str:
    """Return the host that a browser goes to: backslashes are slashes to it, and tabs and newlines nothing at all."""
    text = location.strip("".join(map(chr, range(33))))
    text = "".join(one for one in text if one not in "\t\r\n").replace("\\", "/")
    scheme, colon, rest = text.partition(":")
    if colon and scheme.isalnum():
        # Of its own scheme and without slashes it would be relative; of another, or with slashes, it has a host.
        if scheme.lower() not in ("http", "https"):
            return f"{scheme}:"
        own = scheme.lower() == urlsplit(base).scheme and not rest.startswith("/")
        return str(urlsplit(base).hostname) if own else rest.lstrip("/").partition("/")[0].rpartition("@")[2]
    if text.startswith("//"):
        return text.lstrip("/").partition("/")[0].rpartition("@")[2]
    return str(urlsplit(base).hostname)


def test_what_a_browser_makes_of_addresses() -> None:
    base = "http://hub:8000/hub/login"
    assert [leads_to(base, one) for one in ("/hub/home", "home", "http:home", "/%2f/x", "")] == ["hub"] * 5
    away = ("//evil", "/\\evil", "/\t/evil", "https:evil", "https:/evil", "http://hub@evil/", " \n//evil")
    assert [leads_to(base, one) for one in away] == ["evil"] * len(away)


async def test_a_login_leads_nowhere_else(hub: UpHouse) -> None:
    async with student(hub, "eve") as client:
        for place in EVIL:
            for sent in {quote(place, safe=""), quote(place, safe="/:@%")}:
                await never_leaves(client, hub, URL(f"{hub.url}/hub/login?next={sent}", encoded=True))


async def never_leaves(client: aiohttp.ClientSession, hub: UpHouse, url: URL) -> None:
    """Follow redirects for as long as there are any, as a browser does, and see that each stays here."""
    for _ in range(6):
        async with client.get(url, allow_redirects=False) as answer:
            where = answer.headers.get("Location")
            if where is None:
                return
        there = leads_to(str(url), where)
        assert there == "127.0.0.1", f"{url} leads to {where!r}"
        if not where.startswith("/hub/"):
            return  # of a session, or not there
        url = URL(f"{hub.url}{where}", encoded=True)
    raise AssertionError(f"{url} goes on and on")


# Names -------------------------------------------------------------------------------------------------------------

NAMES = [
    "../root",
    "a b",
    "ünï",
    "n" * 64,
    "o" * 200,
    "Zoe",
    "zoe",
    "a/b",
    "-rf",
    "a%2fb",
    "a\\b",
    "{port}",
    ".",
]


@pytest.mark.lab  # for the time that its sessions take
@pytest.mark.timeout(400)
async def test_each_name_gets_a_session_of_its_own_or_is_refused(hub: UpHouse) -> None:
    seen: dict[str, str] = {}
    async with hub.api() as client:
        for name in NAMES:
            async with client.post("/hub/api/users", json={"usernames": [name]}) as answer:
                text = await answer.text()
                if answer.status == 409:
                    assert name.lower() in seen, "only another spelling of a name that is there"
                    continue
                if answer.status == 400:
                    assert "message" in text
                    continue
                assert answer.status == 201, text
                [known] = [one["name"] for one in await answer.json()]
            seen[known] = await visit(hub, client, known)
    refused = set(NAMES) - set(seen) - {"Zoe"}
    print(f"sessions: {sorted(seen)}; refused: {sorted(refused)}")
    assert {"a b", "ünï", "zoe"} <= set(seen)
    assert len(set(seen.values())) == len(seen), "folders of instances are shared"


async def visit(hub: UpHouse, client: aiohttp.ClientSession, name: str) -> str:
    """Start the user's session, have it say whose it is, and return its instance's folder."""
    user = quote(name, safe="")
    base = URL(f"{hub.url}/hub/api/users/{user}", encoded=True)
    async with client.post(base / "server", json={"on": "here"}) as answer:
        assert answer.status in (201, 202), f"{name}: {await answer.text()}"
    for _ in range(1200):
        async with client.get(base) as answer:
            server = (await answer.json())["servers"].get("", {})
        if server.get("ready"):
            break
        assert server.get("pending"), f"{name}: {hub.logs()}"
        await asyncio.sleep(0.1)
    path = str(server["url"])
    async with client.get(URL(f"{hub.url}{path}api/status", encoded=True)) as answer:
        assert answer.status == 200, f"{name}: {await answer.text()}"
    async with await connect_async(data=hub.data, alone=True) as gridcloud:
        [session] = await gridcloud.sessions(owner=name)
        assert session.program is not None
        folder = session.program.folder
    async with client.delete(base / "server") as answer:
        assert answer.status in (202, 204)
    return str(Path(folder).parents[2])


async def test_the_front_servers_names_are_plain_or_refused(hub: UpHouse) -> None:
    """Kept apart from JupyterHub's own check, which takes any name but an empty one."""
    for name in ("../root", "a b", "ünï", "n" * 64, "a/b", "-rf", "a%2fb", "", "a\\b", ".."):
        headers = {"X-Subject": name.encode().decode("latin-1")}
        async with student(hub, "eve") as client:
            client.cookie_jar.clear()
            async with client.get("/hub/login", headers=headers) as answer:
                assert answer.status in (401, 403), name
                assert "name" in await answer.text()


# What the form forbids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"mounts": ["/"]},
        {"volumes": {"/": "/host"}},
        {"user": "root"},
        {"uid": 0},
        {"privileged": True},
        {"owner": "ann"},
        {"instance_id": "i-1"},
        {"configure": [{"use": "packages"}]},
        {"environment": {"JUPYTERHUB_API_TOKEN": "x"}},
        {"cmd": ["id"]},
        {"spawner": {"class": "jupyterhub.spawner.SimpleLocalProcessSpawner"}},
        {"profile": "other"},
        {"on": "elsewhere"},
        {"image": {"name": "x"}},
        {"start_timeout": 1},
        [],
        "on",
    ],
)
async def test_the_api_refuses_what_the_form_has_not(hub: UpHouse, options: Any) -> None:
    async with hub.api() as admin:
        own = await hub.user(admin, "mal")
    async with hub.api(own) as client:
        async with client.post("/hub/api/users/mal/server", json=options) as answer:
            text = await answer.text()
            if not options and answer.status < 300:  # nothing was asked for, so that it is an ordinary start
                await hub.stop_server(client, "mal")
                return
            assert 400 <= answer.status < 500, text
        assert not await hub.server(client, "mal")


# Pages of others ---------------------------------------------------------------------------------------------------


async def test_a_student_who_opens_anothers_address_sees_nothing(hub: UpHouse) -> None:
    async with hub.api() as admin:
        path = await hub.spawn(admin, "ann", {"on": "here"})
        async with open_kernel(admin, path) as kernel:
            async with student(hub, "eve") as eve:
                for place in ("", "lab", "tree", "api/kernels", "files/x", "terminals/1", "api/contents"):
                    async with eve.get(f"{path}{place}") as answer:
                        text = await answer.text()
                        assert answer.status in (403, 404), f"{place}: {answer.status} {answer.url}"
                        assert "jupyter-config-data" not in text
                for place in ("/hub/spawn/ann", "/hub/spawn-pending/ann", "/hub/user/ann/", "/hub/admin"):
                    async with eve.get(place) as answer:
                        assert answer.status in (403, 404), f"{place}: {answer.status} {answer.url}"
                with pytest.raises(aiohttp.WSServerHandshakeError):
                    await eve.ws_connect(f"{path}api/kernels/{kernel.id}/channels")
            async with student(hub, "ann") as ann, ann.get(f"{path}lab") as answer:
                assert answer.status == 200
                assert "jupyter-config-data" in await answer.text()
        await hub.stop_server(admin, "ann")
