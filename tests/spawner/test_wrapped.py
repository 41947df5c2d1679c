"""What becomes of another spawner's session where its hub died, its class is gone, or its user is deleted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gridcloud.errors import InvalidSettings, TimedOut
from gridcloud.settings.profiles import SpawnerSettings
from gridcloud.spawner.login import Login
from gridcloud.spawner.session_spawner import GridcloudSpawner, Refused
from gridcloud.spawner.wrapped import Wrapped

MODULE = """
import asyncio
from pathlib import Path
from jupyterhub.spawner import Spawner
from traitlets import Unicode

class Theirs(Spawner):
    folder = Unicode(config=True)
    job = Unicode()

    def note(self, text):
        with (Path(self.folder) / "notes").open("a") as file:
            file.write(text + "\\n")

    def get_state(self):
        return {"job": self.job, **super().get_state()}

    def load_state(self, state):
        self.job = state.get("job", "")

    async def start(self):
        self.job = "made"
        self.note(self.get_env()["SECRET"])
        await asyncio.sleep(60)

    async def poll(self):
        return None

    async def stop(self, now=False):
        self.note(f"stopped {self.job}")

    async def delete_forever(self):
        self.note(f"deleted {self.job} of {self.user.name}")
"""


async def nothing_known() -> None:
    """A user's state of login."""


def outer(state: dict[str, Any] | None = None) -> GridcloudSpawner:
    """The hub's spawner of a user, as the hub makes it."""
    user = SimpleNamespace(
        name="ada", escaped_name="ada", url="/user/ada/", id=1, get_auth_state=nothing_known, groups=[]
    )
    hub = SimpleNamespace(base_url="/hub/", public_host="", api_url="http://127.0.0.1:1/hub/api", port=1)
    spawner = GridcloudSpawner(user=user, hub=hub)
    if state is not None:
        spawner.load_state(state)
    return spawner


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings of a spawner that notes what it is told."""
    (tmp_path / "theirs_of_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return {"class": "theirs_of_test.Theirs", "kwargs": {"folder": str(tmp_path)}}


def notes(folder: Path) -> list[str]:
    """What it noted."""
    path = folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


async def test_what_a_dead_hub_was_starting_is_ended(tmp_path: Path, theirs: dict[str, Any]) -> None:
    found = outer({"profile": "p", "wrapped": {**theirs, "started": False, "state": {"job": "half"}}})
    assert found.of_another
    assert await found.poll() == 0
    assert notes(tmp_path) == ["stopped half"]


async def test_what_it_had_started_goes_on(tmp_path: Path, theirs: dict[str, Any]) -> None:
    found = outer({"profile": "p", "wrapped": {**theirs, "started": True, "state": {"job": "whole"}}})
    assert await found.poll() is None
    assert found.get_state()["wrapped"]["state"]["job"] == "whole"
    await found.stop()
    assert notes(tmp_path) == ["stopped whole"]


async def test_a_session_whose_class_is_gone_is_not_forgotten() -> None:
    state = {"profile": "p", "wrapped": {"class": "no.such.Spawner", "kwargs": {}, "state": {"job": 1}}}
    found = outer(state)
    assert await found.poll() is None
    assert found.get_state()["wrapped"] == state["wrapped"]
    with pytest.raises(
        Refused, match=r"no\.such\.Spawner, which started this session, is not there any more"
    ):
        await found.stop()


async def test_what_outlives_sessions_goes_with_the_user(tmp_path: Path, theirs: dict[str, Any]) -> None:
    gone = {"class": "no.such.Spawner", "kwargs": {}, "state": {}}
    found = outer({"left": {"other": gone, "p": {**theirs, "state": {"job": "volume"}}}})
    assert await found.poll() == 0
    await found.delete_forever()
    assert notes(tmp_path) == ["deleted volume of ada"]


async def test_a_start_that_hangs_or_is_cancelled_is_taken_back(
    tmp_path: Path, theirs: dict[str, Any]
) -> None:
    kept: list[dict[str, Any]] = []
    hub = outer()
    hub.login = Login(environment={"SECRET": "{not a placeholder}"})
    theirs["kwargs"]["start_timeout"] = 1
    slow = Wrapped(hub, SpawnerSettings.model_validate(theirs), {})
    assert await slow.poll() == 0
    with pytest.raises(TimedOut, match="within 1 seconds"):
        await slow.start(hub, {}, keep=lambda: kept.append(slow.get_state()))
    assert kept[-1]["state"]["job"] == "made"
    assert "SECRET" not in str(kept), "what a login told is not kept"
    theirs["kwargs"]["start_timeout"] = 60
    work = asyncio.create_task(Wrapped(hub, SpawnerSettings.model_validate(theirs), {}).start(hub, {}))
    while len(notes(tmp_path)) < 3:  # noqa: ASYNC110 - a file tells
        await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert notes(tmp_path) == ["{not a placeholder}", "stopped made"] * 2


def test_a_trait_that_cannot_be_configured_is_refused(theirs: dict[str, Any]) -> None:
    theirs["kwargs"]["job"] = "mine"
    with pytest.raises(InvalidSettings, match="has no trait job that can be configured"):
        Wrapped(outer(), SpawnerSettings.model_validate(theirs), {})
