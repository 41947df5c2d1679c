"""Nothing that a provider's driver keeps is open to others, whatever the umask of whoever starts gridcloud."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.houses import end, here, obtain, open_house
from tests.labs.oracle import Oracle

from gridcloud.drivers.instances.ssh_notes import Notes
from gridcloud.instances.first_boot import HostKeys


@pytest.fixture(autouse=True)
def careless() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(place: Path) -> list[str]:
    """Name what others may open: what lies in a folder that is closed to them is closed."""
    if place.lstat().st_mode & 0o077 == 0:
        return []
    if not place.is_dir():
        return [str(place)]
    return [found for below in place.iterdir() for found in open_to_others(below)]


async def test_folders_of_providers_are_closed(tmp_path: Path) -> None:
    with Oracle() as oracle:
        oracle.tenancy.add_compartment("lab")
        cloud = {
            "driver": "oci", "compartment": "lab", "config_file": str(oracle.write_config(tmp_path)), "image": "*",
            "allow_from": "192.0.2.0/24", "endpoint": oracle.url,
        }  # fmt: skip
        async with open_house(tmp_path, {"here": here(), "cloud": cloud}) as house:
            instance = await obtain(house, on="here")
            await house.providers.offers(instance.request.model_copy(update={"on": "cloud"}))
            HostKeys(house.providers.get("cloud").context.folder).key("i-1")
            Notes(house.providers.get("here").context.folder / "asked").add("i-1", {})
            providers = tmp_path / "data" / "providers"
            assert sorted(one.name for one in providers.iterdir()) == ["cloud", "here"]
            # Each by itself: they may lie elsewhere one day.
            for folder in providers.iterdir():
                assert folder.stat().st_mode & 0o777 == 0o700, folder
            assert (providers / "cloud" / "host-key-seed").stat().st_mode & 0o777 == 0o600
            assert open_to_others(tmp_path / "data") == []
            await end(house, instance)
