"""Messages that are accepted, and the memory of what was accepted. What is refused is in `test_attacks.py`."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridcloud.errors import InvalidRequest, Malformed, Replayed, Throttled
from gridcloud.federation.encoding import decode, encode
from gridcloud.federation.envelopes import MAXIMUM_LIFETIME, SKEW, Receiver, ReplayCache, sign
from gridcloud.federation.keys import rotate_service_key
from tests.federation.scenes import MINUTE, YEAR, Place, key, signers


@pytest.fixture
def places() -> tuple[Place, Place]:
    return Place("Copenhagen"), Place("Aarhus")


def test_a_message_arrives_as_it_was_written(places: tuple[Place, Place]) -> None:
    home, partner = places
    data = home.write(partner, {"cpus": 4, "words": "åh"}, nonce="n-1", answers="q-1")
    envelope = partner.receiver.open(data, signers(home), answers="q-1")
    assert (envelope.sender, envelope.recipient) == (home.institution, partner.institution)
    assert envelope.body == {"cpus": 4, "words": "åh"}
    assert (envelope.kind, envelope.nonce, envelope.answers) == ("test.hello", "n-1", "q-1")
    assert encode(envelope.document()) == data == encode(decode(data))


async def test_clocks_may_differ_a_little_and_it_is_told(places: tuple[Place, Place]) -> None:
    home, partner = places
    await home.clock.advance(SKEW.total_seconds())
    ahead = partner.receiver.open(home.write(partner), signers(home))
    assert partner.receiver.skew(ahead) == -SKEW
    late = home.write(partner)
    await partner.clock.advance(SKEW.total_seconds() * 2 + 120 - 0.001)
    envelope = partner.receiver.open(late, signers(home))
    assert partner.receiver.skew(envelope) == timedelta(seconds=179.999)


async def test_a_key_that_was_rotated_signs_while_both_are_good(places: tuple[Place, Place]) -> None:
    home, partner = places
    new = key("Copenhagen service 2")
    home.keys = rotate_service_key(home.root, home.keys, new.public, home.now, YEAR, 10 * MINUTE)
    for signing in (home.service, new):
        partner.receiver.open(home.write(partner, signing=signing), signers(home))


@pytest.mark.parametrize(
    "kind", ["", "Lease", "lease/request", "lease.", "a" * 65, "lease request", "lease\n"]
)
def test_a_message_that_nobody_accepts_is_not_written(places: tuple[Place, Place], kind: str) -> None:
    home, partner = places
    with pytest.raises(Malformed):
        home.write(partner, kind=kind)


def test_a_message_that_is_too_large_is_not_written(places: tuple[Place, Place]) -> None:
    home, partner = places
    with pytest.raises(InvalidRequest, match="larger than anybody reads"):
        home.write(partner, {"words": "x" * (1 << 20)})
    with pytest.raises(InvalidRequest, match="float"):
        home.write(partner, {"hours": 1.5})


async def test_the_memory_of_nonces_survives_a_restart(places: tuple[Place, Place]) -> None:
    home, partner = places
    data = home.write(partner)
    partner.receiver.open(data, signers(home))
    state = decode(encode(partner.receiver.replays.state()))
    again = Receiver(partner.institution, partner.clock, ReplayCache.of(state))
    with pytest.raises(Replayed, match="accepted before"):
        again.open(data, signers(home))
    again.open(home.write(partner), signers(home))


async def test_a_lost_memory_accepts_nothing_that_it_may_have_known(places: tuple[Place, Place]) -> None:
    home, partner = places
    await home.clock.advance(SKEW.total_seconds())  # the worst case: a sender as far ahead as is tolerated
    data = home.write(partner)
    partner.receiver.open(data, signers(home))
    lost = Receiver(partner.institution, partner.clock, ReplayCache.lost(partner.now))
    with pytest.raises(Replayed, match="lost its memory"):
        lost.open(data, signers(home))
    for place in places:
        await place.clock.advance(1)
    lost.open(home.write(partner), signers(home))


async def test_the_memory_is_bounded_and_forgets_what_is_over(places: tuple[Place, Place]) -> None:
    home, partner = places
    other = Place("Odense")
    receiver = Receiver(partner.institution, partner.clock, ReplayCache(limit=3))
    sent = [home.write(partner) for _ in range(3)]
    for data in sent:
        receiver.open(data, signers(home, other))
    with pytest.raises(Throttled, match="too many") as flooded:
        receiver.open(home.write(partner), signers(home, other))
    assert flooded.value.details["who"] == home.institution
    receiver.open(other.write(partner), signers(home, other))
    for data in sent:
        with pytest.raises(Replayed):
            receiver.open(data, signers(home, other))
    for place in (home, partner):
        await place.clock.advance(181)
    receiver.open(home.write(partner), signers(home, other))
    receiver.replays.forget(partner.now)
    assert len(receiver.replays) == 1


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 400)), max_size=12))
def test_no_order_of_sending_again_is_accepted_twice(steps: list[tuple[int, int]]) -> None:
    """Whatever is sent again at whatever time: each message is accepted at most once."""
    home, partner = Place("Copenhagen"), Place("Aarhus")
    sent = [home.write(partner, nonce=f"n-{number}", lifetime=MAXIMUM_LIFETIME) for number in range(6)]
    cache = ReplayCache()
    accepted: list[int] = []
    elapsed = 0
    for number, wait in steps:
        elapsed += wait * 1000
        now = partner.now + elapsed
        envelope = decode(sent[number])
        if envelope["expires"] + SKEW // timedelta(milliseconds=1) <= now:
            continue
        cache.forget(now)
        try:
            cache.add(
                home.institution, envelope["nonce"], envelope["issued"], envelope["expires"] + 60_000, now
            )
        except Replayed:
            continue
        accepted.append(number)
    assert len(accepted) == len(set(accepted))


def test_a_message_is_signed_by_the_key_that_it_names(places: tuple[Place, Place]) -> None:
    home, partner = places
    data = sign(
        home.service,
        home.clock,
        kind="test.hello",
        sender=home.institution,
        recipient=partner.institution,
        body={},
    )
    assert decode(data)["key"] == home.service.public
