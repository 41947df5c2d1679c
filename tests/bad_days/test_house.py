"""gridcloud's own bad days: a mistyped configuration, a broken driver, stores of other versions, two owners."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from gridcloud.errors import Conflict, InvalidSettings, NoOffer, StoreTooNew
from gridcloud.instances.model import Request
from gridcloud.service.process import owning
from tests.houses import configure, ended, open_house
from tests.unit.distributions import write_distribution

FAKE = {"driver": "fake", "shapes": [{"name": "small", "cpus": 2, "memory": "4GiB", "count": 2}]}


async def say(folder: Path, *words: str) -> tuple[int, str]:
    """Run the command line over the folder; return its exit code and what it said."""
    environment = os.environ | {
        "GRIDCLOUD_CONFIG": str(folder / "config.yaml"),
        "GRIDCLOUD_DATA": str(folder / "data"),
        "COLUMNS": "500",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gridcloud", *words),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings) as refusal:
        async with open_house(tmp_path, {"cloud": FAKE}, limits={"intances": 3}):
            pass
    assert "intances" in str(refusal.value)
    assert "instances" in str(refusal.value)
    assert "config.yaml" in str(refusal.value)
    code, said = await say(tmp_path, "offers")
    assert code == InvalidSettings.exit_code, said
    assert "instances" in said


async def test_a_broken_driver_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {"gc_broken_driver": "import a_library_that_is_not_there\n"}
    points = {"broken": "gc_broken_driver:Driver"}
    monkeypatch.syspath_prepend(write_distribution(tmp_path, "gc_broken", "instances", points, modules))
    providers: dict[str, dict[str, Any]] = {"odd": {"driver": "broken"}, "good": FAKE}
    async with open_house(tmp_path, providers) as house:
        offers = {offer.provider: offer for offer in await house.providers.offers(Request())}
        assert offers["good"].available
        assert not offers["odd"].available
        assert "a_library_that_is_not_there" in offers["odd"].why_not
        assert "gc_broken" in offers["odd"].why_not
        instance = await house.instances.wait((await house.instances.submit("ada", Request())).id)
        await house.instances.stop(instance.id)
        await ended(house, instance.id)
        with pytest.raises(NoOffer, match="a_library_that_is_not_there"):
            await house.instances.wait((await house.instances.submit("ada", Request(on="odd"))).id)
        assert any("odd" in str(problem) for problem in house.settings_problems())


async def test_an_older_store_is_migrated_and_what_it_holds_goes_on(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": FAKE}) as house:
        instance = await house.instances.wait((await house.instances.submit("ada", Request())).id)
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "store.sqlite")) as store, store:
        store.execute("DROP INDEX ix_records_owner")
        store.execute("DROP INDEX ix_events_owner")
        store.execute("UPDATE alembic_version SET version_num = '0001'")
    async with open_house(tmp_path, {"cloud": FAKE}) as house:
        assert (await house.instances.wait(instance.id)).offer == instance.offer
        await house.instances.stop(instance.id)
        await ended(house, instance.id)
    assert (tmp_path / "data" / "store.sqlite.0001.backup").exists()


async def test_a_newer_store_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": FAKE}):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "store.sqlite")) as store, store:
        store.execute("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(StoreTooNew, match="0099"):
        async with open_house(tmp_path, {"cloud": FAKE}):
            pass
    code, said = await say(tmp_path, "instance", "list")
    assert code == StoreTooNew.exit_code, said
    assert "0099" in said
    assert "Traceback" not in said


async def test_one_data_folder_has_one_owner(tmp_path: Path) -> None:
    settings = configure(tmp_path, {"cloud": FAKE})
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    async with owning(settings, data):
        with pytest.raises(Conflict, match=f"process {os.getpid()}"):
            async with owning(settings, data):
                pass
        code, said = await say(tmp_path, "offers")
        assert code == 0, said
    async with owning(settings, data):
        pass
