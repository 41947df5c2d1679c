"""A provider's entry that comes to mean another place: what was made is looked for, and removed, where it was made."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.houses import end, obtain, open_house

from gridcloud.drivers.instances.fake import FakeDriver, FakeSettings
from gridcloud.errors import InvalidSettings
from gridcloud.instances.model import Holding
from gridcloud.instances.reconciliation import Difference, _is_same, _Live

HERE = {"cloud": {"driver": "fake", "location": "here"}}


async def test_what_is_held_is_looked_for_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fake machines are anywhere: that their location counts as a place is for this test alone.
    monkeypatch.setattr(FakeSettings, "place", ("location",))
    async with open_house(tmp_path, HERE) as house:
        instance = await obtain(house)
        entry = house.settings().providers["cloud"]
        assert isinstance(entry, FakeSettings)
        moved = entry.model_copy(update={"location": "there"})
        house.settings().providers["cloud"] = moved
        holder = await house.providers.holder("cloud")
        assert isinstance(holder, FakeDriver)
        assert holder.settings.location == "here"
        with pytest.raises(InvalidSettings, match="another place"):
            await house.providers.remember("cloud")
        (offer,) = await house.providers.offers(instance.request)
        assert not offer.available
        assert "another place" in offer.why_not
        await end(house, instance)
        await house.providers.remember("cloud")
        assert (await house.providers.holder("cloud")).settings == moved


def test_two_entries_of_one_account_do_not_remove_each_others_machines() -> None:
    def holding(name: str) -> Holding:
        return Holding(instance_id="i-1", what="pod", name=name)

    live = _Live("ready", "first")
    away = Difference("first", "first", "away", "")
    assert _is_same("i-1", [holding("one")], live, {"first": {"i-1": [holding("one")]}})
    assert _is_same("i-1", [holding("one")], live, {"first": away})
    assert not _is_same("i-1", [holding("left")], live, {"first": {"i-1": [holding("one")]}})
