"""Log in by the headers of a front server: for real, through the hub's own proxy, from addresses of this computer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.spawner.conftest import HERE
from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import NAVIGATE, UpHouse

SECRET = "s3cret-" + "x" * 40
FRONT, STRANGER = "127.0.0.2", "127.0.0.3"
"""Of this computer: who the front server is, and who it is not."""

HEADER = {
    "user": "X-Subject",
    "trusted_proxies": [f"{FRONT}/32"],
    "parsers": {
        "X-Subject": {
            "match": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+|^[\w-]+-0$|^ada$|^ADA$",
            "replace": {"@": "_", ".": "_"},
        },
        "X-Claims": "json",
    },
    "keep": ["X-Claims", "X-Display"],
    "environment": {"CLAIMS": "X-Claims", "DISPLAY_NAME": "X-Display", "MOUNT": "data"},
    "groups": "X-Groups",
    "allowed_groups": ["staff"],
    "addresses": "X-Mail",
    "contexts": "X-Course",
    "settable": ["data"],
    "logout_url": "/front/sign_out",
}


@pytest.fixture(scope="module")
def front(make_house: Callable[..., UpHouse], tmp_path_factory: pytest.TempPathFactory) -> UpHouse:
    """A hub whose front server is at 127.0.0.2."""
    folder = tmp_path_factory.mktemp("front")
    secret = folder / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    (folder / "list.csv").write_text("email\nada@example.org\n")
    house = make_house(
        {"here": HERE},
        profiles={"all": {"environment": {"OF": "all"}}, "listed": {"offered": []}, "told": {"offered": []}},
        courses={
            "by-list": {"roster": {"file": str(folder / "list.csv")}, "profiles": ["listed"]},
            "by-course": {"roster": {"lti": ["course-7"]}, "profiles": ["told"]},
        },
    )
    more = Path(house.settings["hub"]["configuration"])
    more.write_text(more.read_text().replace("c.Authenticator.allow_all = True\n", ""))
    house.settings["hub"] |= {
        "authenticator": "header",
        "header": {**HEADER, "secret": f"file:{secret}"},
        "allowed_users": ["my-username-0", "mail_sdfsf_com", "fballam0_auda_org_au", "ada"],
    }
    house.write()
    house.start()
    return house


@asynccontextmanager
async def visitor(
    house: UpHouse, address: str = FRONT, **headers: str
) -> AsyncIterator[aiohttp.ClientSession]:
    """Open what connects from an address and sends these headers with every request; ``_`` stands for ``-``."""
    connector = aiohttp.TCPConnector(
        resolver=aiohttp.ThreadedResolver(), force_close=True, local_addr=(address, 0)
    )
    sent = {name.replace("_", "-"): value for name, value in headers.items()} | NAVIGATE
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(house.url, cookie_jar=jar, connector=connector, headers=sent) as client:
        yield client


async def log_in(client: aiohttp.ClientSession, **query: str) -> tuple[int, str]:
    """Return the status and where it leads."""
    async with client.get(
        "/hub/login", params=query, headers={"X-Hub-Secret": SECRET}, allow_redirects=False
    ) as answer:
        return answer.status, answer.headers.get("Location", "")


async def status(client: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with client.get(path, allow_redirects=False) as answer:
        return answer.status, urlsplit(answer.headers.get("Location", "")).path


async def test_whom_the_front_server_names_is_in(front: UpHouse) -> None:
    """AUTH-01, AUTH-03, AUTH-12."""
    async with visitor(front, X_Subject="my-username-0") as client:
        assert await status(client, "/hub/home") == (302, "/hub/login")
        assert await log_in(client) == (302, "/hub/home")
        assert await status(client, "/hub/home") == (200, "")
        assert await status(client, "/hub/logout") == (302, "/front/sign_out")
        assert await status(client, "/hub/home") == (302, "/hub/login")
        async with client.post("/hub/login", headers={"X-Hub-Secret": SECRET}) as answer:
            assert answer.status in (403, 405)


@pytest.mark.parametrize(
    "place",
    [
        "https://evil.example/x",
        "//evil.example/x",
        r"/\evil.example",
        r"\\evil.example",
        "///evil.example",
        "/%09/evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        "http:evil.example",
        "@evil.example",
    ],
)
async def test_it_leads_nowhere_else(front: UpHouse, place: str) -> None:
    """AUTH-04."""
    async with visitor(front, X_Subject="my-username-0") as client:
        code, where = await log_in(client, next=place)
    assert code == 302
    there = urlsplit(where)
    assert (there.scheme, there.netloc) == ("", "")
    assert there.path.startswith("/")
    assert there.path[1:2] not in ("/", "\\", "\t")


async def test_it_leads_to_a_page_of_the_hub(front: UpHouse) -> None:
    async with visitor(front, X_Subject="my-username-0") as client:
        assert await log_in(client, next="/hub/token") == (302, "/hub/token")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("/C=DK/emailAddress=mail@sdfsf.com", 302),
        ("fballam0@auda.org.au", 302),
        ("noemail", 401),
        ("", 401),
        ("other@x.com", 403),
        ("mail@sdfsf.com, other@x.com", 401),
    ],
)
async def test_a_name_is_found_in_a_header(front: UpHouse, said: str, code: int) -> None:
    """AUTH-06. Two names in one header, as where the front server adds to what a client sent, are nobody's."""
    async with visitor(front, X_Subject=said) as client:
        assert (await log_in(client))[0] == code


async def test_two_people_do_not_become_one(front: UpHouse) -> None:
    async with visitor(front, X_Subject="mail@sdfsf.com") as client:
        assert (await log_in(client))[0] == 302
    async with visitor(front, X_Subject="mail@sdfsf_com") as client:
        assert (await log_in(client))[0] in (401, 403)
    async with visitor(front, X_Subject="MAIL@sdfsf.com") as client:
        assert (await log_in(client))[0] == 302
    async with visitor(front, X_Subject="mail.sdfsf@com.example") as client:
        assert (await log_in(client))[0] == 403


async def test_nobody_else_sets_the_headers(front: UpHouse) -> None:
    """A forged header: from another address, without the secret, past the proxy, and with all that can be said."""
    said = {"X_Subject": "my-username-0"}
    async with visitor(front, **said) as client, client.get("/hub/login", allow_redirects=False) as answer:
        assert answer.status == 403  # without the secret
    for secret in ("", "wrong", SECRET + "x", SECRET[:-1], "é" * 40):
        async with visitor(front, **said, X_Hub_Secret=secret) as client:
            assert (await status(client, "/hub/login"))[0] == 403
    forged = {
        "X_Forwarded_For": FRONT, "X_Real_Ip": FRONT, "Forwarded": f"for={FRONT}", "X_Forwarded_Proto": "http",
    }  # fmt: skip
    async with visitor(front, STRANGER, **said, **forged) as client:
        assert (await log_in(client))[0] == 403
    # Past the proxy, to the port that every session knows, the secret is not enough.
    port = json.loads((front.data / "hub" / "ports.json").read_text())["hub"]
    for address in (FRONT, STRANGER):
        async with visitor(front, address, **said, **forged, X_Hub_Secret=SECRET) as client:
            url = f"http://127.0.0.1:{port}/hub/login"
            async with client.get(url, allow_redirects=False) as answer:
                assert answer.status == 403
    # A client behind the front server says who it is itself: the front server's own word is the only one that counts.
    async with visitor(front, FRONT, **said, X_Forwarded_For=STRANGER) as client:
        assert (await log_in(client))[0] == 302
    text = front.logs()
    assert "past the hub's proxy" in text
    assert STRANGER in text
    assert SECRET not in text + (front.data / "logs" / "hub.log").read_text(errors="replace")


@pytest.mark.keeps("the house's new process")
async def test_the_way_in_outlives_the_proxy(front: UpHouse) -> None:
    front.child("configurable-http-proxy").kill()
    async with visitor(front, X_Subject="my-username-0") as client:
        for _ in range(300):
            try:
                if await log_in(client) == (302, "/hub/home"):
                    break
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
        else:
            raise TimeoutError(front.logs())


async def test_only_its_own_account_opens_the_door(front: UpHouse) -> None:
    [door] = (front.data / "run").glob("*.door")
    assert stat.S_ISSOCK(door.stat().st_mode)
    assert stat.S_IMODE(door.stat().st_mode) == 0o600
    assert stat.S_IMODE(door.parent.stat().st_mode) == 0o700


async def test_groups_come_along_and_go(front: UpHouse) -> None:
    async with visitor(front, X_Subject="grace@example.org", X_Groups="staff; night owls,,staff") as client:
        assert (await log_in(client))[0] == 302
    async with front.api() as admin, admin.get("/hub/api/users/grace_example_org") as answer:
        assert sorted((await answer.json())["groups"]) == ["night owls", "staff"]
    async with visitor(front, X_Subject="grace@example.org") as client:
        assert (await log_in(client))[0] == 403  # no longer of the staff


async def test_pages_set_values_of_their_user(front: UpHouse) -> None:
    """AUTH-10."""
    bodies = [
        (b'{"data": {"host": "files", "port": 22}}', 200),
        (b'{"admin": true}', 400),
        (b'{"data": 1, "admin": true}', 400),
        (b"{nope", 400),
        (b"\xff", 400),
        (b"[1]", 400),
        (b"{}", 400),
        (b"", 400),
        (b'{"data": NaN}', 400),
        (b"[" * 20000, 400),
        (b'{"data": "' + b"x" * 70000 + b'"}', 413),
    ]
    async with visitor(front, X_Subject="my-username-0") as client:
        async with client.post("/hub/set-user-data", data=b'{"data": 1}') as answer:
            assert answer.status == 403  # no session
        await log_in(client)
        assert (await status(client, "/hub/home"))[0] == 200
        [token] = [cookie.value for cookie in client.cookie_jar if cookie.key == "_xsrf"]
        for body, code in bodies:
            async with client.post("/hub/set-user-data", data=body, headers={"X-XSRFToken": token}) as answer:
                assert answer.status == code, body[:40]
        async with client.post("/hub/set-user-data", data=b'{"data": 1}') as answer:
            assert answer.status == 403  # of another page
    async with front.api() as admin:
        own = await front.user(admin, "my-username-0")
    async with front.api(own) as client, client.post("/hub/set-user-data", json={"data": 1}) as answer:
        assert answer.status == 403  # a session's token is no browser


async def test_what_is_known_reaches_the_session_and_nobody_else(front: UpHouse) -> None:
    """AUTH-07, AUTH-09: kept encrypted, in the environment as text; courses by address and by context."""
    claims = '{"roles": ["a", "b"], "hidden-in-auth-state": {"x": null}}'
    async with visitor(
        front,
        X_Subject="ada",
        X_Claims=claims,
        X_Display="Ädä",
        X_Mail="ADA@example.org",
        X_Course="course-7",
    ) as client:
        assert (await log_in(client))[0] == 302
        async with client.get("/hub/spawn") as page:
            shown = await page.text()
        assert all(f'value="{name}"' in shown for name in ("all", "listed", "told"))
        [token] = [cookie.value for cookie in client.cookie_jar if cookie.key == "_xsrf"]
        body = {"data": "from a page"}
        async with client.post("/hub/set-user-data", json=body, headers={"X-XSRFToken": token}) as answer:
            assert answer.status == 200
        assert (await log_in(client))[0] == 302  # it outlives the next login
    async with front.api() as admin:
        path = await front.spawn(admin, "ada", {"profile": "listed"})
        async with open_kernel(admin, path) as kernel:
            found = json.loads(await kernel.run("import json, os; print(json.dumps(dict(os.environ)))"))
        assert json.loads(found["CLAIMS"]) == json.loads(claims)
        assert found["DISPLAY_NAME"] == "Ädä"
        assert found["MOUNT"] == "from a page"
        await front.stop_server(admin, "ada")
    kept = front.data / "hub" / "hub.sqlite"
    with contextlib.closing(sqlite3.connect(kept)) as database:
        [(state,)] = database.execute("select encrypted_auth_state from users where name = 'ada'").fetchall()
    assert state
    for file in (front.data / "hub").iterdir():
        if file.is_file():
            assert b"hidden-in-auth-state" not in file.read_bytes(), file
    key = front.data / "hub" / "auth-state-key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
