"""Hooks of a real hub, before sessions of ours and of another spawner: LDAP-02, LDAP-03, LDAP-05."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from gridcloud.testing.sshd import SSHServer
from tests.hooks.try_hook import write_try_hook
from tests.spawner.kernel import open_kernel
from tests.spawner.uphouse import UpHouse

REFUSING = """
import os

def hook(spawner):
    return False if spawner.user.name == "false" else None

c.Spawner.pre_spawn_hook = hook
"""


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hooks") / "noted"


@pytest.fixture(scope="module")
def hooked(make_house: Callable[..., UpHouse], noted: Path) -> UpHouse:
    """A hub with hooks of its own and of its profiles."""

    def before(does: str) -> list[dict[str, Any]]:
        return [{"use": "try", "does": does, "name": does, "limit": 1, "noted": str(noted)}]

    wrapped = {
        "class": "jupyterhub.spawner.SimpleLocalProcessSpawner",
        "kwargs": {"home_dir_template": str(noted.parent / "{username}"), "args": ["--allow-root"]},
    }
    gone = {**wrapped, "kwargs": {**wrapped["kwargs"], "cmd": ["no-such-program"]}}  # type: ignore[dict-item]
    house = make_house(
        profiles={
            "ours": {"before_start": before("give")},
            "wrapped": {"before_start": before("give"), "spawner": wrapped},
            "gone": {"before_start": before("give"), "spawner": gone},
            "mount": {
                "before_start": [{"use": "try", "does": "mount", "mount": str(noted.parent / "mount")}]
            },
            **{does: {"before_start": before(does)} for does in ("refuse", "crash", "sleep")},
            "false": {"before_start": before("false"), "spawner": wrapped},
        },
    )
    house.settings["hub"]["before_start"] = [
        {"use": "try", "name": "hub", "noted": str(noted)},
    ]
    more = Path(house.settings["hub"]["configuration"])
    more.write_text(more.read_text() + REFUSING)
    house.write()
    with pytest.MonkeyPatch.context() as patch:
        path = [str(write_try_hook(noted.parent)), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        house.start()
    return house


@pytest.fixture
async def admin(hooked: UpHouse) -> AsyncIterator[Any]:
    async with hooked.api() as client:
        yield client


async def test_a_session_gets_what_hooks_give(hooked: UpHouse, admin: Any) -> None:
    path = await hooked.spawn(admin, "ada", {"profile": "ours"})
    async with open_kernel(admin, path) as kernel:
        said = await kernel.run("import os; print([os.environ.get(one) for one in ('GIVEN', 'HUB', 'GIVE')])")
    assert said.strip() == "['give to ada', '1', '1']"
    await hooked.stop_server(admin, "ada")


@pytest.mark.skipif(
    not shutil.which("sshfs") or not os.access("/dev/fuse", os.W_OK), reason="no sshfs, or no /dev/fuse"
)
async def test_a_session_finds_a_folder_of_a_file_server(hooked: UpHouse, admin: Any, noted: Path) -> None:
    place = noted.parent / "server"
    place.mkdir()
    (place / "theirs").mkdir()
    at = f"remote-{place.parent.name}"
    with SSHServer(place) as server:
        known = {
            "host": "127.0.0.1",
            "port": server.port,
            "account": server.user,
            "key": (place / "user_key").read_text(),
            "host_keys": [" ".join(server.host_key.split()[:2])],
            "folder": str(place / "theirs"),
            "at": at,
        }
        (noted.parent / "mount").write_text(json.dumps(known))
        path = await hooked.spawn(admin, "mia", {"profile": "mount"})
        async with open_kernel(admin, path) as kernel:
            code = f"open('{at}/v1', 'w').write('hello'); import os; print(os.path.realpath('{at}'))"
            where = Path((await kernel.run(code)).strip())
        assert (place / "theirs" / "v1").read_text() == "hello"
        assert f" {where} fuse.sshfs " in Path("/proc/self/mounts").read_text()
        await hooked.stop_server(admin, "mia")
        for _ in range(200):
            await asyncio.sleep(0.05)
            if f" {where} fuse.sshfs " not in Path("/proc/self/mounts").read_text():
                break
        else:
            raise AssertionError("it is still mounted")
        (noted.parent / "mount").write_text(json.dumps({**known, "host_keys": ["ssh-ed25519 AAAA"]}))
        async with admin.post("/hub/api/users/mia/server", json={"profile": "mount"}) as answer:
            assert "The remote folder is not mounted" in await answer.text()
        where.rmdir()


async def test_a_session_of_another_spawner_gets_it_too(hooked: UpHouse, admin: Any) -> None:
    await hooked.spawn(admin, "bob", {"profile": "wrapped"})
    given = [
        one.environ().get("GIVEN")
        for one in psutil.process_iter(["cmdline"])
        if "jupyterhub-singleuser" in " ".join(one.info["cmdline"] or ())
        and one.environ().get("JUPYTERHUB_USER") == "bob"
    ]
    await hooked.stop_server(admin, "bob")
    assert given == ["give to bob"]


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("refuse", "The hook try refused the start: You may not. Ask them."),
        ("crash", "The hook try failed: ZeroDivisionError: division by zero"),
        ("sleep", "The hook try did not finish within 1 seconds."),
        ("false", "The hook try refused the start: it returned False."),
        ("gone", "no-such-program"),
    ],
)
async def test_a_hook_stops_the_start_and_nothing_is_left(
    hooked: UpHouse, admin: Any, noted: Path, profile: str, words: str
) -> None:
    await hooked.user(admin, "eve")
    noted.write_text("")
    async with admin.post("/hub/api/users/eve/server", json={"profile": profile}) as answer:
        text = await answer.text()
        assert answer.status in (400, 403, 503, 504), text
    assert words in text
    assert not await hooked.server(admin, "eve")
    done = noted.read_text().split()
    assert done[:2] == ["run-hub", f"run-{'give' if profile == 'gone' else profile}"]
    assert done[-1] == "undo-hub"


async def test_the_hubs_own_hook_that_returns_false_stops_it(hooked: UpHouse, admin: Any) -> None:
    await hooked.user(admin, "false")
    for profile in ("ours", "wrapped"):
        async with admin.post("/hub/api/users/false/server", json={"profile": profile}) as answer:
            assert answer.status == 403
            assert "pre_spawn_hook, returned False" in await answer.text()
    assert not await hooked.server(admin, "false")
