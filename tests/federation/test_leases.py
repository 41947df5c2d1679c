"""Leases: never two holders and nothing left, whatever the network, the clocks and the programs do."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gridcloud.errors import Conflict, Forbidden, InvalidRequest, Malformed
from gridcloud.federation import borrowing, lending
from gridcloud.federation.borrowing import Borrowed, BorrowedState, usable
from gridcloud.federation.leases import End, LentState, Reason, Renew, read_message
from gridcloud.federation.lending import Event, Lent
from tests.federation.lease_world import FATES, TERMS, World

LENDERS = ("l0", "l1")
BORROWERS = ("b0", "b1", "b2")
PARTIES = LENDERS + BORROWERS

fates = some.sampled_from((FATES[0], *FATES))
places = some.integers(0, 30)
lenders = some.sampled_from(LENDERS)
borrowers = some.sampled_from(BORROWERS)


class Leases(RuleBasedStateMachine):
    """Between institutions, promises A and B: every move of the world, in every order that is found."""

    world: World

    @initialize(offsets=some.lists(some.integers(0, TERMS.tolerance // 1000), min_size=5, max_size=5))
    def begin(self, offsets: list[int]) -> None:
        self.world = World(dict(zip(PARTIES, offsets, strict=True)))

    @rule(borrower=borrowers, lender=lenders, fate=fates)
    def accept(self, borrower: str, lender: str, fate: str) -> None:
        self.world.accept(borrower, lender, fate)

    @rule(borrower=borrowers, lender=lenders)
    def hand_over(self, borrower: str, lender: str) -> None:
        """All goes well for a moment, so that most stories are of leases that are held."""
        self.world.accept(borrower, lender)
        deliver_all(self.world)
        self.world.happen(lender, Event.STARTED)
        deliver_all(self.world)

    @rule(place=places, copy=some.booleans(), fate=fates)
    def deliver(self, place: int, copy: bool, fate: str) -> None:
        self.world.deliver(place, copy=copy, fate=fate)

    @rule(place=places)
    def deliver_more(self, place: int) -> None:
        for _ in range(4):
            self.world.deliver(place)

    @rule(place=places)
    def lose(self, place: int) -> None:
        self.world.lose(place)

    @rule(party=some.sampled_from(PARTIES), fate=fates)
    def look(self, party: str, fate: str) -> None:
        self.world.look(party, fate)

    @rule(lender=lenders, event=some.sampled_from((Event.STARTED, Event.STARTED, Event.RECLAIM)), fate=fates)
    def happen(self, lender: str, event: Event, fate: str) -> None:
        self.world.happen(lender, event, 0, fate)

    @rule(lender=lenders, event=some.sampled_from((Event.FAILED, Event.LOSE)))
    def break_down(self, lender: str, event: Event) -> None:
        self.world.happen(lender, event)

    @rule(borrower=borrowers, fate=fates)
    def leave(self, borrower: str, fate: str) -> None:
        self.world.leave(borrower, fate)

    @rule(borrower=borrowers, lender=lenders)
    def cut(self, borrower: str, lender: str) -> None:
        self.world.cut ^= {frozenset((borrower, lender))}

    @rule(seconds=some.sampled_from((1, 5, 19, 21, 40, 61, 99, 121, 500)))
    def wait(self, seconds: int) -> None:
        self.world.now += seconds

    @rule(party=some.sampled_from(PARTIES))
    def lose_disk(self, party: str) -> None:
        self.world.lose_disk(party)

    @invariant()
    def one_holder(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()


Leases.TestCase.settings = settings(
    max_examples=50, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLeases = Leases.TestCase


@pytest.mark.parametrize("seed", range(6))
def test_long_stories(seed: int) -> None:
    """Between institutions, promises A and B.

    Longer than hypothesis goes: leases live through many renewals and reclaims, in calm and in storm.
    """
    chance = random.Random(seed)
    world = World({party: chance.randint(0, TERMS.tolerance // 1000) for party in PARTIES})
    held = 0
    for turn in range(1500):
        storm = turn % 100 >= 75
        fate = FATES[0] if chance.random() < 0.95 else chance.choice(FATES)
        match chance.choices(
            range(8), (3, *((2, 4) if storm else (18, 0.5)), 8, 4, 1 if storm else 0.3, 0.3, 0.05)
        )[0]:
            case 0:
                world.accept(chance.choice(BORROWERS), chance.choice(LENDERS), fate)
            case 1:
                for _ in range(1 if storm else 3):
                    world.deliver(chance.randrange(8), copy=chance.random() < 0.1, fate=fate)
            case 2:
                world.lose(chance.randrange(8))
            case 3:
                world.look(chance.choice(PARTIES), fate)
            case 4:
                world.happen(chance.choice(LENDERS), Event.STARTED, 0, fate)
            case 5:
                bad = Event.RECLAIM if storm else chance.choice((Event.RECLAIM, Event.FAILED, Event.LOSE))
                world.happen(chance.choice(LENDERS), bad, 0, fate)
            case 6:
                world.leave(chance.choice(BORROWERS), fate)
            case 7:
                world.lose_disk(chance.choice(PARTIES))
        world.now += chance.choice((1, 2, 5, 10, 20) if storm else (0, 0, 1, 1, 2, 5))
        world.check()
        held += sum(
            usable(Borrowed.model_validate_json(text), world.clock(name), TERMS)
            for name, leases in world.borrowed.items()
            for text in leases.values()
        )
    assert held > 150, f"nothing was proved: little was held ({held})"
    world.settle()


def begin() -> World:
    return World(dict.fromkeys(PARTIES, 0))


def hand_over(world: World, borrower: str = "b0", lender: str = "l0") -> None:
    world.accept(borrower, lender)
    deliver_all(world)
    world.happen(lender, Event.STARTED)
    deliver_all(world)


def deliver_all(world: World) -> None:
    while world.post:
        world.deliver(0)


def seen(world: World, borrower: str = "b0") -> Borrowed:
    return Borrowed.model_validate_json(list(world.borrowed[borrower].values())[-1])


def given(world: World, lender: str = "l0") -> Lent:
    return Lent.model_validate_json(list(world.lent[lender].values())[-1])


def test_a_lease_from_acceptance_to_return() -> None:
    world = begin()
    hand_over(world)
    lease = seen(world)
    assert lease.state is BorrowedState.HELD
    assert lease.connection == {"path": "/leases/x"}
    for _ in range(10):
        world.now += 30
        world.look("b0")
        deliver_all(world)
        assert usable(seen(world), world.clock("b0"), TERMS)
    world.leave("b0")
    deliver_all(world)
    assert seen(world).state is BorrowedState.OVER
    assert given(world).reason is Reason.RETURNED
    assert given(world).ended - given(world).began == 300_000
    assert world.charges == {("l0", "b0", lease.id): 1}
    world.now += 400
    world.look("l0")
    assert not world.lent["l0"]


def test_time_is_up() -> None:
    world = begin()
    hand_over(world)
    for _ in range(15):
        world.now += 30
        for party in PARTIES:
            world.look(party)
        deliver_all(world)
    assert seen(world).state is BorrowedState.OVER
    world.settle()


def test_time_counts_from_the_handover() -> None:
    world = begin()
    world.accept("b0", "l0")
    deliver_all(world)
    for _ in range(12):  # a machine that takes longer to start than it is wished for
        world.now += 40
        world.look("b0")
        world.look("l0")
        deliver_all(world)
    world.happen("l0", Event.STARTED)
    deliver_all(world)
    assert seen(world).state is BorrowedState.HELD
    assert given(world).until == world.clock("l0") + 400_000


def test_a_lost_handover_is_asked_for() -> None:
    world = begin()
    world.accept("b0", "l0")
    deliver_all(world)
    world.happen("l0", Event.STARTED)
    world.lose(0)
    world.now += 1
    world.look("b0")
    deliver_all(world)
    assert seen(world).state is BorrowedState.HELD


def test_a_partition_within_the_ttl_is_not_felt() -> None:
    world = begin()
    hand_over(world)
    world.cut = {frozenset(("b0", "l0"))}
    for _ in range(3):
        world.now += 25
        world.look("b0")
        world.look("l0")
        deliver_all(world)
    world.cut.clear()
    world.look("b0")
    deliver_all(world)
    world.now += 60
    assert usable(seen(world), world.clock("b0"), TERMS)
    assert given(world).state is LentState.HELD


def test_a_partition_beyond_the_ttl_frees_both_sides() -> None:
    world = begin()
    hand_over(world)
    world.cut = {frozenset(("b0", "l0"))}
    world.now += TERMS.ttl // 1000
    world.look("l0")
    world.look("b0")
    world.accept("b1", "l0")
    deliver_all(world)
    assert given(world).borrower == "b1"
    assert seen(world).state is BorrowedState.LEAVING
    world.accept("b0", "l1")
    deliver_all(world)
    world.happen("l1", Event.STARTED)
    deliver_all(world)
    assert seen(world).lender == "l1"
    assert usable(seen(world), world.clock("b0"), TERMS)
    world.check()


def test_a_reclaim_warns_and_waits_for_the_deadline() -> None:
    """Between institutions, promise C."""
    world = begin()
    hand_over(world)
    world.happen("l0", Event.RECLAIM)
    deliver_all(world)
    assert seen(world).state is BorrowedState.WARNED
    assert given(world).heard
    world.now += (TERMS.grace - TERMS.tolerance) // 1000 - 1
    assert usable(seen(world), world.clock("b0"), TERMS)
    world.now += 1
    assert not usable(seen(world), world.clock("b0"), TERMS)
    world.now += TERMS.tolerance // 1000
    world.look("l0")
    assert given(world).reason is Reason.RECLAIMED
    assert not world.machines["l0"]


def test_a_reclaim_that_is_not_heard_waits_for_the_ttl() -> None:
    """Between institutions, promise C."""
    world = begin()
    hand_over(world)
    world.cut = {frozenset(("b0", "l0"))}
    world.happen("l0", Event.RECLAIM)
    world.now += TERMS.grace // 1000 + 1
    world.look("l0")
    assert given(world).state is LentState.WARNED
    assert usable(seen(world), world.clock("b0"), TERMS)
    world.now += (TERMS.ttl - TERMS.grace) // 1000 - 1
    world.look("l0")
    assert given(world).state is LentState.ENDED


def test_an_end_that_overtakes_its_acceptance() -> None:
    world = begin()
    world.accept("b0", "l0")
    world.leave("b0")
    world.deliver(1)
    assert given(world).state is LentState.ENDED
    world.deliver(0)
    assert given(world).state is LentState.ENDED
    assert not world.machines["l0"]


def test_a_renewal_that_comes_twice_renews_once() -> None:
    world = begin()
    hand_over(world)
    lent, now = given(world), world.clock("l0")
    message = Renew(lease=lent.id, turn=1)
    first = lending.answer(lent, "b0", message, now + 50_000, TERMS, lambda _: "").lease
    assert first is not None
    assert first.expires == now + 50_000 + TERMS.ttl
    again = lending.answer(first, "b0", message, now + 100_000, TERMS, lambda _: "").lease
    assert again == first


def test_refusals() -> None:
    world = begin()
    hand_over(world)
    world.accept("b1", "l0")
    deliver_all(world)
    assert seen(world, "b1").reason is Reason.REFUSED
    assert seen(world, "b1").why == "no room"
    lease = seen(world)
    with pytest.raises(Conflict, match="leave that first"):
        borrowing.accept("l1", lease.accept, [lease])
    with pytest.raises(Forbidden):
        borrowing.hear(lease, "l1", given(world).status(), world.clock("l0"), TERMS)
    with pytest.raises(Forbidden):
        lending.answer(given(world), "b0", lease.end(), world.clock("l0"), TERMS, lambda _: "")
    far = End(lease="x-1", before=world.clock("l0") + 10_000_000)
    with pytest.raises(InvalidRequest, match="too long to remember"):
        lending.answer(None, "x-1", far, world.clock("l0"), TERMS, lambda _: "")
    late = lending.answer(None, "b0", lease.accept, world.clock("l0") + 1_000_000, TERMS, lambda _: "")
    assert late.lease is None
    assert "ask again" in late.say[0].why


def test_what_nobody_knows_is_told() -> None:
    world = begin()
    hand_over(world)
    world.lose_disk("l0")
    world.now += 60
    world.look("b0")
    deliver_all(world)
    assert seen(world).reason is Reason.UNKNOWN
    world = begin()
    hand_over(world)
    world.lose_disk("b0")
    world.happen("l0", Event.RECLAIM)
    deliver_all(world)
    assert given(world).reason is Reason.RETURNED


@pytest.mark.parametrize("kind", ["lease.accept", "lease.status", "lease.nothing", "lease.end"])
def test_messages_that_are_none(kind: str) -> None:
    with pytest.raises(Malformed):
        read_message(kind, {"lease": "UPPER", "surprise": 1})


def test_states_are_reached() -> None:
    """Every state of both tables has a way in, and every one but the last a way out."""
    assert {state for state, _ in lending.TABLE} == set(LentState)
    assert set(lending.TABLE.values()) == set(LentState)
    assert {state for state, _ in borrowing.TABLE} == set(BorrowedState) - {BorrowedState.OVER}
    assert set(borrowing.TABLE.values()) == set(BorrowedState) - {BorrowedState.ACCEPTING}
