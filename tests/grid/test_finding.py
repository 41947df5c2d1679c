"""A plug-in that finds records is believed as little as anybody: only true records of members are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from gridcloud.errors import DriverUnavailable
from gridcloud.federation.encoding import decode, encode
from gridcloud.federation.keys import PrivateKey
from gridcloud.federation.records import Profile, make_record
from gridcloud.grid.office import Office
from gridcloud.settings.grid import DiscoverySettings
from tests.grid.offices import OPEN, Place, acquaint, places, until


class Finder:
    """A plug-in that brings what the test has it bring."""

    made: ClassVar[list[Finder]]

    def __init__(self, settings: DiscoverySettings, hear: Callable[[str, bytes], None]) -> None:
        self.hear = hear
        self.records: Mapping[str, bytes] = {}
        self.closed = False
        self.made.append(self)

    async def open(self) -> None:
        pass

    async def tell(self, records: Mapping[str, bytes]) -> None:
        self.records = records

    async def close(self) -> None:
        self.closed = True


def _load(office: Office, load: Callable[[str], type[Any]]) -> None:
    office._gossiping._finding._load = load


async def test_what_a_plug_in_brings_is_checked_as_what_gossip_brings(tmp_path: Path) -> None:
    class Ours(Finder):
        made: ClassVar[list[Finder]] = []

    settings = OPEN.model_copy(update={"discovery": DiscoverySettings(driver="ours")})
    async with places(tmp_path, "alpha", "beta", settings=settings, begin=False) as (alpha, beta):
        for place in (alpha, beta):
            _load(place.office, lambda name: Ours)
            await place.office.init(place.name)
        community = (await acquaint(alpha, beta)).community
        first, second = Ours.made
        await until(lambda: community in first.records and community in second.records)
        me, them = alpha.office.me, beta.office.me
        told = decode(second.records[community])
        assert told["institution"] == them

        key, serial = beta.office.service_key(), told["serial"] + 1
        moved = Profile(name="beta", addresses=("https://192.0.2.7:1",))
        newer = make_record(key, them, moved, serial, timedelta(hours=1)).document()
        stolen = make_record(PrivateKey.generate(), them, moved, serial, timedelta(hours=1)).document()
        await asyncio.sleep(2.1)  # within 2 s of the one before it, a record is not looked at
        for wrong in (
            encode(newer | {"profile": Profile(name="a lie").document()}),
            encode(stolen),
            b"{",
            b"x" * 20_000,
        ):
            first.hear(community, wrong)
        first.hear("c-unknown", encode(newer))
        assert alpha.office.profiles()[them].addresses != moved.addresses
        why = {
            refusal.error for refusal in alpha.office.status().refusals if refusal.what.startswith("a record")
        }
        assert why == {"Forged", "UnknownSigner", "Malformed"}

        await until(lambda: _moved(alpha, first, community, newer), 10)
        for _ in range(500):
            first.hear(community, b"{")  # a flood of strangers fills neither the log nor our time
        assert me not in first.records
    assert first.closed
    assert second.closed


def _moved(place: Place, finder: Finder, community: str, record: dict[str, Any]) -> bool:
    finder.hear(community, encode(record))
    who = record["institution"]
    return place.office.profiles()[who].addresses == ("https://192.0.2.7:1",)


async def test_without_the_plug_in_the_grid_goes_on(tmp_path: Path) -> None:
    def load(name: str) -> type[Any]:
        raise DriverUnavailable(f"There is no driver {name}.")

    settings = OPEN.model_copy(update={"discovery": DiscoverySettings(driver="nothing")})
    async with places(tmp_path, "alpha", "beta", settings=settings, begin=False) as (alpha, beta):
        for place in (alpha, beta):
            _load(place.office, load)
            await place.office.init(place.name)
        await acquaint(alpha, beta)
