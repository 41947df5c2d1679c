"""Everybody knows who keeps what, and a newcomer moves little of it."""

from __future__ import annotations

import hashlib

from gridcloud.federation.ring import COPIES, GUIDED, SHARDS, Ring, shard_of

MEMBERS = [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(300)]


def test_in_a_small_community_everybody_keeps_all() -> None:
    ring = Ring(MEMBERS[:100])
    assert ring.keepers(5) == tuple(sorted(MEMBERS[:100]))
    assert ring.shards(MEMBERS[0]) == frozenset(range(SHARDS))
    assert ring.keeps(MEMBERS[0], MEMBERS[1])
    assert len(ring.neighbours(MEMBERS[0])) == 99
    assert ring.shards("stranger") == frozenset()


def test_in_a_large_one_each_shard_has_its_keepers_whoever_computes_them() -> None:
    ring, same = Ring(MEMBERS), Ring(reversed(MEMBERS))
    for shard in range(SHARDS):
        assert ring.keepers(shard) == same.keepers(shard)
        assert COPIES <= len(set(ring.keepers(shard))) <= COPIES + 1
        assert ring.keepers(shard)[0] == ring.keepers(shard - shard % GUIDED)[0] in ring.guides
    kept = [len(ring.shards(member)) for member in MEMBERS]
    assert sum(kept) <= SHARDS * COPIES + SHARDS * (GUIDED - 1) / GUIDED
    assert max(kept) <= 12
    assert 8 < len(ring.guides) <= SHARDS / GUIDED
    for member in MEMBERS[:20]:
        assert ring.keeps(member, member)
        for other in MEMBERS:
            kept_by = {*ring.keepers(shard_of(other)), other}
            assert ring.keeps(member, other) == (member in kept_by or other in ring.guides)
        assert set(ring.keepers(shard_of(member))) - {member} <= ring.neighbours(member)


def test_one_who_comes_moves_only_what_it_takes() -> None:
    before, after = Ring(MEMBERS[:-1]), Ring(MEMBERS)
    newcomer = MEMBERS[-1]
    for shard in range(SHARDS):
        gained = set(after.keepers(shard)) - set(before.keepers(shard))
        assert gained <= {newcomer}
    assert len(after.shards(newcomer)) < 12


def test_institutions_are_spread_over_the_shards() -> None:
    counts = [0] * SHARDS
    for member in MEMBERS:
        counts[shard_of(member)] += 1
    assert sum(counts) == len(MEMBERS)
    assert max(counts) < 20
    assert shard_of("0" * 32) == shard_of("0" * 32) < SHARDS
