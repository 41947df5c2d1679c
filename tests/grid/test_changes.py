"""What is handed over is what was looked at, at its price; where that has changed, it is said and the next taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gridcloud.errors import GridcloudError
from gridcloud.federation.encoding import Json
from gridcloud.federation.leases import Accept, Ask, LentState, Offer, Offers, Reason, Status, read_message
from gridcloud.federation.leases import write_message as write
from gridcloud.federation.ledger import Standing
from gridcloud.federation.wishes import Capacity, Wish
from tests.grid.test_leasing import SMALL, standings, two, until
from tests.grid.towns import House, found, open_house

SMALLER = {"name": "small", "cpus": 2, "memory": "1GiB", "count": 2, "price": 0.5}
LARGER = {"name": "large", "cpus": 8, "memory": "4GiB", "count": 2, "price": 2}
ONE = Capacity(millicores=1000, memory=64)


def lender(*shapes: dict[str, Any], **lending: Any) -> dict[str, Any]:
    cloud = {"driver": "fake", "shapes": list(shapes)}
    return {"providers": {"cloud": cloud}, "lending": {"providers": ["cloud"], **lending}}


async def say(house: House, message: Ask | Accept) -> Offers | Status:
    answer = await house.leasing.lending.answer("0" * 32, *write(message))
    assert answer is not None
    said = read_message(*answer)
    assert isinstance(said, Offers | Status)
    return said


async def offered(house: House, wish: Wish) -> tuple[Offer, ...]:
    said = await say(house, Ask(wish=wish))
    assert isinstance(said, Offers)
    return said.offers


async def test_claims_and_favour_count_what_the_machine_has_at_its_price(tmp_path: Path) -> None:
    async with two(tmp_path, lender(LARGER)) as (bergen, oslo):
        instance = await oslo.obtain()
        assert instance.offer is not None
        assert (instance.offer.shape.cpus, str(instance.offer.price)) == (8, "2"), (
            "people see what they would owe"
        )
        await oslo.runner.stop(instance.id)
        await oslo.ended(instance.id)
        await until(lambda: standings(bergen) == standings(oslo) == [Standing.AGREED])
        claim = oslo.leasing.accounts.entries()[0].claim
        assert claim.capacity == Capacity(millicores=8000, memory=4096)
        assert claim.price == "2 EUR"


async def test_an_offer_that_changed_is_refused_with_the_new_one(tmp_path: Path) -> None:
    wish = Wish(need="n", capacity=ONE, seconds=600, user="eve")
    bergen = found("Bergen")[0]
    async with open_house(tmp_path, bergen, lender(SMALLER, LARGER)) as house:
        small, _ = await offered(house, wish)
        changes: dict[str, dict[str, Any]] = {
            "x-price": {"price": "0.4 EUR"},
            "x-size": {"capacity": ONE},
        }
        for lease, change in changes.items():
            said = await say(house, Accept(lease=lease, wish=wish, offer=small.model_copy(update=change)))
            assert isinstance(said, Status)
            assert (said.state, said.reason) == (LentState.ENDED, Reason.CHANGED)
            assert said.offer is not None
            assert said.offer.same(small), "the machine of that name comes first"
            assert "the offer has changed: virtual_machine small" in said.why
            assert await say(house, Accept(lease=lease, wish=wish, offer=small)) == said, (
                "an id is one answer"
            )
        assert await house.runner.records.live() == []


@pytest.mark.parametrize(("times", "why"), [(1, "no longer offers it"), (2, "0.25 EUR an hour) before")])
async def test_the_borrower_takes_what_is_offered_now(tmp_path: Path, times: int, why: str) -> None:
    """It hears of the change when it asks again, or when the lender refuses its acceptance."""
    async with two(tmp_path, lender(SMALLER)) as (bergen, oslo):
        truly, earlier = bergen.town.handlers["lease"], ["0.25 EUR"] * times

        async def answer(sender: str, kind: str, body: Json) -> tuple[str, Json] | None:
            said = await truly(sender, kind, body)
            if kind == Ask.kind and said is not None and earlier:  # it became dearer since
                offers = read_message(*said)
                assert isinstance(offers, Offers)
                price = {"price": earlier.pop()}
                cheap = tuple(one.model_copy(update=price) for one in offers.offers)
                return write(offers.model_copy(update={"offers": cheap}))
            return said

        bergen.town.handle("lease", answer)
        instance = await oslo.obtain()
        assert instance.offer is not None
        assert [str(one.price) for one in (*instance.refused, instance.offer)] == ["0.25", "0.5"]
        assert why in instance.refused[0].why_not
        assert [one.price for one in instance.charges] == [instance.offer.price], (
            "nothing was made of the first"
        )
        asked = oslo.leasing.borrowing.leases()[-1].lease.accept.offer
        assert asked.price == "0.5 EUR"


async def test_no_other_machine_is_made_than_the_one_that_was_accepted(tmp_path: Path) -> None:
    broken = {"faults": [{"call": "create", "error": "no-capacity"}]}
    configuration = lender(SMALLER, LARGER)
    configuration["providers"]["cloud"] |= broken
    bergen = found("Bergen")[0]
    async with open_house(tmp_path, bergen, configuration) as house:
        wish = Wish(need="n", capacity=ONE, seconds=600, user="eve")
        small, _ = await offered(house, wish)
        await say(house, Accept(lease="x-one", wish=wish, offer=small))
        await until(lambda: house.leasing.lending.loans()[0].lent.state is LentState.ENDED)
        assert house.leasing.lending.loans()[0].lent.reason is Reason.FAILED


async def test_limits_hold_for_what_is_offered(tmp_path: Path) -> None:
    async with two(tmp_path, lender(SMALLER, LARGER, limits=[{"cpus": 4}])) as (_, oslo):
        offers = [one for one in await oslo.runner.providers.offers(SMALL) if one.available]
        assert [one.shape.name for one in offers] == ["small"]
        with pytest.raises(GridcloudError, match="the limit of"):
            await oslo.obtain(cpus=4)
