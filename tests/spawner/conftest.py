"""One hub for most tests; those that hurt it have their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.spawner.uphouse import UpHouse

HERE: dict[str, Any] = {"driver": "local"} | (
    {"allow_root": True} if os.geteuid() == 0 else {"share_account": True}
)

EVIL = '"><script>alert(1)</script>{{7*7}}'


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A hub, its proxy, a session and a kernel start one after another: minutes on a computer with other work."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def make_house() -> Iterator[Callable[..., UpHouse]]:
    """Make houses that end with the run."""
    made: list[UpHouse] = []

    def make(providers: dict[str, Any] | None = None, **settings: Any) -> UpHouse:
        folder = Path(tempfile.mkdtemp(prefix="gcu-"))  # short: sockets lie below it
        house = UpHouse(folder, providers or {"here": HERE}, **settings)
        made.append(house)
        return house

    yield make
    for house in made:
        house.stop()
        shutil.rmtree(house.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def house(make_house: Callable[..., UpHouse]) -> UpHouse:
    """A house that is up, with this computer, whose location is an attack, and a provider that is broken."""
    house = make_house({"here": {**HERE, "location": EVIL}, "broken": {"driver": "no-such-driver"}})
    house.start()
    return house
