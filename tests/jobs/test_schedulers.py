"""Which scheduler takes a job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gridcloud.clock import SystemClock
from gridcloud.errors import NoOffer, NotFound, Unavailable, Unreachable
from gridcloud.jobs.driver import JobOffer
from gridcloud.jobs.schedulers import Schedulers
from gridcloud.settings import Settings
from gridcloud.settings.request import Request
from gridcloud.store import open_store
from tests.jobs.pretend import Pretence

Says = JobOffer | Unreachable


class Saying(Pretence):
    """A scheduler that offers what it was told."""

    def __init__(self, folder: Path, says: Says) -> None:
        super().__init__(folder)
        self.says = says

    async def offer(self, request: Request, owner: str) -> JobOffer:
        if isinstance(self.says, JobOffer):
            return self.says
        raise self.says


class Some(Schedulers):
    """Schedulers that nobody configured."""

    drivers: dict[str, Saying]

    def names(self) -> list[str]:
        return list(self.drivers)

    def get(self, name: str) -> Saying:
        if name not in self.drivers:
            raise NotFound(name)
        return self.drivers[name]


@pytest.fixture
async def schedulers(tmp_path: Path) -> AsyncIterator[Some]:
    async def none(_: Any) -> Any:
        raise NotFound("nothing")

    async with await open_store(tmp_path / "store.sqlite", SystemClock()) as store:
        found = Some(Settings, store, tmp_path / "schedulers", none, none)
        found.drivers = {}
        yield found


def says(schedulers: Some, tmp_path: Path, **offers: Says) -> None:
    schedulers.drivers = {name: Saying(tmp_path / name, offer) for name, offer in offers.items()}


BUSY = JobOffer(wait=3600)
CLOUD = JobOffer(wait=90, price=Decimal(2))
NEAR = JobOffer(wait=300, price=Decimal(1))


@pytest.mark.parametrize(
    ("within", "chosen"), [(0, "cloud"), (60, "cloud"), (120, "cloud"), (600, "near"), (7200, "busy")]
)
async def test_the_soonest_or_the_cheapest_in_time(
    schedulers: Some, tmp_path: Path, within: int, chosen: str
) -> None:
    says(schedulers, tmp_path, busy=BUSY, cloud=CLOUD, near=NEAR, never=JobOffer(possible=False))
    assert await schedulers.choose(Request(), "ada", within=within) == chosen
    assert await schedulers.choose(Request(), "ada", ["near"], within) == "near"


async def test_who_does_not_answer_may_yet(schedulers: Some, tmp_path: Path) -> None:
    says(
        schedulers, tmp_path, silent=Unreachable("no answer"), never=JobOffer(possible=False, why_not="small")
    )
    with pytest.raises(Unavailable, match="small"):
        await schedulers.choose(Request(), "ada")
    with pytest.raises(NoOffer, match="small"):
        await schedulers.choose(Request(), "ada", ["never"])
    with pytest.raises(NotFound):
        await schedulers.choose(Request(), "ada", ["nowhere"])
