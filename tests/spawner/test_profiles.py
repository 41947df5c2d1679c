"""Profiles on the spawn page and through the REST API: who sees what, what may be chosen, other spawners."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest

from tests.spawner.test_deaths import back
from tests.spawner.test_form import xsrf
from tests.spawner.uphouse import NAVIGATE, UpHouse

FORM = '<input name="colour"><script>/* its own */</script>'


@pytest.fixture(scope="module")
def shop(make_house: Callable[..., UpHouse], tmp_path_factory: pytest.TempPathFactory) -> UpHouse:
    """A hub with profiles."""
    homes = tmp_path_factory.mktemp("homes")
    house = make_house(
        profiles={
            "small": {
                "title": "A small <one>",
                "choose": {"cpus": {"least": 1, "most": 2}, "time": ["1h", "2h"]},
                "environment": {"WHO": "{JUPYTERHUB_USER}", "TEST_RUN": str(os.getpid())},
                "requirements": ["seaborn", "scikit-*"],
            },
            "staff": {"request": {"cpus": 1}, "offered": {"groups": "staff"}, "limits": {"sessions": 1}},
            "process": {
                "spawner": {
                    "class": "jupyterhub.spawner.SimpleLocalProcessSpawner",
                    "kwargs": {
                        "home_dir_template": str(homes / "{username}"),
                        "args": ["--allow-root"],
                        "mem_limit": "2G",
                    },
                },
                "environment": {"WHO": "{JUPYTERHUB_USER}", "TEST_RUN": str(os.getpid())},
            },
            "asking": {
                "spawner": {
                    "class": "jupyterhub.spawner.SimpleLocalProcessSpawner",
                    "kwargs": {"options_form": FORM, "options_from_form": "simple"},
                },
            },
            "failing": {
                "spawner": {
                    "class": "jupyterhub.spawner.SimpleLocalProcessSpawner",
                    "kwargs": {"cmd": ["no-such-program"], "home_dir_template": str(homes / "{username}")},
                },
            },
            "missing": {"spawner": {"class": "no.such.Spawner"}},
            "strange": {
                "spawner": {"class": "jupyterhub.spawner.SimpleLocalProcessSpawner", "kwargs": {"root": 1}}
            },
        }
    )
    house.start()
    return house


def process_of(user: str) -> psutil.Process:
    """Return the server that JupyterHub's own spawner started for a user: the profile has it in its environment."""
    found = [
        one
        for one in psutil.process_iter(["cmdline"])
        if "jupyterhub-singleuser" in " ".join(one.info["cmdline"] or ())
        and one.environ().get("WHO") == user
        and one.environ().get("TEST_RUN") == str(os.getpid())
    ]
    (server,) = found
    return server


@pytest.fixture
async def admin(shop: UpHouse) -> AsyncIterator[Any]:
    async with shop.api() as client:
        yield client


async def test_the_page_shows_what_one_may_use(shop: UpHouse) -> None:
    async with shop.browser() as client, client.get("/hub/spawn", headers=NAVIGATE) as answer:
        page = await answer.text()
    assert "A small &lt;one&gt;" in page
    assert 'value="staff"' not in page
    assert re.search(r'name="cpus" class="form-control" value="1"', page)
    assert "at least 1, at most 2" in page
    assert re.search(r'<textarea id="gc-profile-\d-requirements" name="requirements"', page)
    assert "of these: seaborn, scikit-*" in page
    assert "The spawner no.such.Spawner cannot be loaded" in page
    assert "SimpleLocalProcessSpawner has no trait root" in page
    assert FORM in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Say which profile; there are asking, failing, missing, process, small, strange for you"),
        ({"profile": "smal"}, "did you mean small?"),
        ({"profile": ["small"]}, "Say which profile"),
        ({"profile": "staff"}, "is not offered to you now"),
        ({"profile": "small", "cpus": 3}, "more than the 2"),
        ({"profile": "small", "image": "other"}, "image is not for you to choose"),
        ({"profile": "small", "on": "here"}, "on is not for you to choose"),
        ({"profile": "small", "mounts": ["/"]}, "There is no option 'mounts'"),
        ({"profile": "small", "requirements": "--index-url https://elsewhere.example"}, "an option of pip"),
        ({"profile": "small", "requirements": ["seaborn @ file:///etc/passwd"]}, "come from the index alone"),
        ({"profile": "small", "requirements": "torch"}, "is not for you to add in"),
        ({"profile": "small", "requirements": {"seaborn": "1"}}, "a text, or a list of texts"),
        ({"profile": "process", "requirements": "seaborn"}, "takes no options requirements"),
        ({"profile": "process", "cmd": ["id"]}, "takes no options cmd"),
        ({"profile": "process", "fields": {"cmd": ["id"]}}, "nothing to choose of 'cmd'"),
        ({"profile": "missing"}, "cannot be loaded"),
        (
            {"profile": "failing"},
            "failed: FileNotFoundError: [Errno 2] No such file or directory: 'no-such-program'",
        ),
        ({"profile": "strange"}, "has no trait root"),
    ],
)
async def test_the_api_gets_no_more_than_the_form(
    shop: UpHouse, admin: Any, options: dict[str, Any], words: str
) -> None:
    await shop.user(admin, "eve")
    async with admin.post("/hub/api/users/eve/server", json=options) as answer:
        text = await answer.text()
        assert answer.status in (400, 403, 422, 503), text
        assert words in text
    assert not await shop.server(admin, "eve")


async def test_a_group_opens_a_profile_and_its_limit_counts(shop: UpHouse, admin: Any) -> None:
    await shop.user(admin, "stella")
    async with admin.post("/hub/api/groups/staff") as answer:
        assert answer.status == 201, await answer.text()
    async with admin.post("/hub/api/groups/staff/users", json={"users": ["stella"]}) as answer:
        assert answer.status == 200
    await shop.spawn(admin, "stella", {"profile": "staff"})
    async with admin.post("/hub/api/users/stella/servers/two", json={"profile": "staff"}) as answer:
        assert answer.status == 403
        assert "1 of 1 sessions are running" in await answer.text()
    await shop.stop_server(admin, "stella")


async def test_a_sent_form_starts_what_was_chosen(shop: UpHouse, admin: Any) -> None:
    async with shop.browser() as client:
        token = await xsrf(client)
        wrong = {"profile": "small", "cpus": "9", "time": "2h"}
        async with client.post(f"/hub/spawn?_xsrf={token}", data=wrong, headers=NAVIGATE) as answer:
            text = await answer.text()
            assert answer.status == 400
        assert "is more than the 2" in text
        assert 'value="9"' in text
        right = {"profile": "small", "cpus": "2", "time": "2h"}
        async with client.post(f"/hub/spawn?_xsrf={token}", data=right, allow_redirects=False) as answer:
            assert answer.status == 302, await answer.text()
        async with client.get("/hub/home") as answer:
            user = re.findall(r'user: "(.+?)"', await answer.text())[0]
        async with client.get(
            f"/hub/api/users/{user}/server/progress", headers={"X-XSRFToken": token}
        ) as answer:
            assert '"ready": true' in await answer.text()
        await shop.stop_server(admin, user)


async def test_another_spawner_starts_progresses_and_stops(shop: UpHouse, admin: Any) -> None:
    path = await shop.spawn(admin, "pat", {"profile": "process"})
    async with admin.get(f"{path}api/status") as answer:
        assert answer.status == 200, await answer.text()
    server = process_of("pat")
    assert server.environ()["MEM_LIMIT"] == str(2 << 30)
    async with shop.api(server.environ()["JUPYTERHUB_API_TOKEN"]) as own, own.get("/hub/api/user") as answer:
        assert (await answer.json()).get("name") == "pat", "its token is its user's"
    await shop.stop_server(admin, "pat")
    assert not server.is_running()


@pytest.mark.keeps("the hub, anew")
async def test_another_spawners_session_outlives_its_hub(shop: UpHouse, admin: Any) -> None:
    path = await shop.spawn(admin, "lee", {"profile": "process"})
    hub = shop.child("gridcloud.spawner.hub")
    hub.kill()
    await back(shop, "gridcloud.spawner.hub", hub.pid)
    assert (await shop.server(admin, "lee")).get("ready")
    async with admin.get(f"{path}api/status") as answer:
        assert answer.status == 200
    server = process_of("lee")
    await shop.stop_server(admin, "lee")
    assert not server.is_running()
