"""What a session needs to go on elsewhere outlives the service, and lies nowhere to be read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gridcloud.clock import SystemClock
from gridcloud.errors import Conflict
from gridcloud.identity.vault import Vault
from gridcloud.instances.model import Reason
from gridcloud.service.house import House
from gridcloud.sessions.model import Session, State
from gridcloud.store import open_store
from tests.houses import here, open_house
from tests.sessions.visit import begin, fetch, over

SECRET = "hub-token-8f21c0d7"
PLACES = {"one": here(), "two": here()}


async def take_back(house: House, session: Session) -> Session:
    """Have the machine of a session be taken back, as that of a partner is; return the session once it goes on."""
    instance = await house.instances.records.get(session.instance_id)
    message = "Its owner takes it back. Save your work."
    await house.instances.records.save(instance, "reclaimed", message, reclaimed=True, notice=message)
    await house.instances.stop(instance.id, Reason.EXPIRED, message)
    async with asyncio.timeout(40):
        async for now in house.sessions.lives.follow(session.id):
            assert now.state not in (State.ENDING, State.FAILING, State.FAILED), now.detail
            if now.instance_id != session.instance_id and now.state is State.RUNNING:
                return now
    raise AssertionError("it never went on")


def readable(folder: Path) -> list[Path]:
    """Return the files that hold the secret as it is."""
    return [one for one in folder.rglob("*") if one.is_file() and SECRET.encode() in one.read_bytes()]


async def test_a_session_moves_though_the_service_was_started_again(tmp_path: Path) -> None:
    async with open_house(tmp_path, PLACES) as house:
        session = await begin(house, environment={"JUPYTERHUB_API_TOKEN": SECRET})
        assert readable(tmp_path) == []
    assert readable(tmp_path) == []
    assert (tmp_path / "data" / "secrets.key").stat().st_mode & 0o777 == 0o600
    async with open_house(tmp_path, PLACES) as house:
        moved = await take_back(house, session)
        assert json.loads(await fetch(moved, "/environment"))["JUPYTERHUB_API_TOKEN"] == SECRET
        assert moved.endpoint == session.endpoint
        await house.sessions.stop(session.id)
        await over(house, session)
        async with asyncio.timeout(10):  # what ended needs none
            while await house.store.find("secrets"):  # noqa: ASYNC110 - a store tells of no removals
                await asyncio.sleep(0.05)


async def test_without_the_key_a_session_ends_and_says_so(tmp_path: Path) -> None:
    async with open_house(tmp_path, PLACES) as house:
        session = await begin(house, environment={"JUPYTERHUB_API_TOKEN": SECRET})
    (tmp_path / "data" / "secrets.key").unlink()
    async with open_house(tmp_path, PLACES) as house:
        instance = await house.instances.records.get(session.instance_id)
        await house.instances.records.save(instance, "reclaimed", "It is taken back.", reclaimed=True)
        await house.instances.stop(instance.id, Reason.EXPIRED, "It was taken back.")
        assert (await over(house, session)).state is State.FAILED


async def test_the_vault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with await open_store(tmp_path / "store.sqlite", SystemClock()) as store:
        vault = Vault(store, tmp_path / "key")
        texts = {"A": "b", "Ü": "\n'$(x)", "": ""}
        await vault.put("s-1", "ada", texts)
        await vault.put("s-2", "bo", {})
        again = Vault(store, tmp_path / "key")
        assert await again.get("s-1") == texts
        assert await again.get("s-2") == {}
        assert await again.get("s-3") is None
        with pytest.raises(Conflict):
            await vault.put("s-1", "ada", {})
        one, two = [await store.get("secrets", f"v-s-{number}") for number in (1, 2)]
        await store.update(two, state="kept", body=one.body)
        assert await again.get("s-2") is None, "what is kept for one is nobody else's"
        assert "cannot be read" in caplog.text
        await again.forget_others(["s-2"])
        assert await again.get("s-1") is None
        await again.forget("s-2")
        await again.forget("s-2")
        assert await store.find("secrets") == []
