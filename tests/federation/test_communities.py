"""Lists of members: who may change them, which one is newer, and what happens when there are two."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridcloud.errors import (
    Conflict,
    Expired,
    Forged,
    Forked,
    GridcloudError,
    InvalidRequest,
    Malformed,
    MessageRefused,
    Misdirected,
    Revoked,
    UnknownSigner,
    WrongVersion,
)
from gridcloud.federation.communities import (
    MemberList,
    check_first,
    check_next,
    draft_next,
    leave,
    read_leave,
    read_list,
    sign_list,
)
from gridcloud.federation.encoding import decode, encode
from gridcloud.federation.membership import Membership, communities_of, forget_ended, signers
from tests.federation.scenes import MINUTE, Place, community

A, B, C, D = (Place(name) for name in ("Copenhagen", "Aarhus", "Odense", "Roskilde"))
FIRST = community(A, B, C)


def following(before: MemberList, *by: Place, issued: int = 0, **changes: Any) -> MemberList:
    found = draft_next(before, issued or before.issued + MINUTE, **changes)
    for place in by:
        found = sign_list(found, place.root)
    return found


def test_a_community_is_founded_by_all_of_its_members() -> None:
    check_first(read_list(decode(encode(FIRST.document()))))
    lacking = FIRST.model_copy(update={"signatures": FIRST.signatures[:2]})
    with pytest.raises(UnknownSigner, match=r"2 members signed .* 3 are needed"):
        check_first(lacking)
    other = FIRST.model_copy(update={"community": "c-" + "0" * 40})
    with pytest.raises(Forged, match="not its fingerprint"):
        check_first(other)
    assert community(A, B).community != FIRST.community


def test_enough_members_take_somebody_in() -> None:
    known = Membership(FIRST)
    second = following(FIRST, A, C, join=[D.member()])
    assert known.offer(second)
    assert not known.offer(second)
    assert not known.offer(FIRST)
    assert set(known.members(A.now)) == {place.institution for place in (A, B, C, D)}
    third = following(second, D, B, threshold=3)
    assert known.offer(third)
    with pytest.raises(UnknownSigner, match="3 are needed"):
        known.offer(following(third, A, B, leave=[C.institution]))


def test_who_signed_does_not_change_the_list() -> None:
    draft = draft_next(FIRST, FIRST.issued, join=[D.member()])
    one = sign_list(sign_list(draft, A.root), B.root)
    other = sign_list(sign_list(sign_list(draft, C.root), A.root), A.root)
    assert one.digest() == other.digest() == draft.digest()
    assert len(other.signatures) == 2
    known = Membership(FIRST)
    assert known.offer(one)
    assert not known.offer(other)
    assert known.offer(following(other, A, B, leave=[D.institution]))


def _signed(found: MemberList, *by: Place) -> MemberList:
    for place in by:
        found = sign_list(found, place.root)
    return found


def _swap(found: MemberList, other: MemberList) -> MemberList:
    return found.model_copy(update={"signatures": other.signatures})


def attacks_on_lists() -> list[tuple[str, MemberList, type[GridcloudError], str]]:
    second = following(FIRST, A, B, join=[D.member()])
    revoked = following(FIRST, A, B, revoke={C.institution: "key stolen"})
    back = draft_next(revoked, revoked.issued).model_copy(update={"revoked": ()})
    renamed = second.model_copy(update={"name": "Another"})
    return [
        ("signed by too few", following(FIRST, A, join=[D.member()]), UnknownSigner, "1 members"),
        ("signed by a stranger", following(FIRST, A, D, join=[D.member()]), UnknownSigner, "not a member"),
        ("changed after signing", renamed, Forged, "changed on the way"),
        ("a signature of another list", _swap(second, following(FIRST, A, C)), Forged, "."),
        ("of another community", following(community(A, B), A, B), Misdirected, "not of"),
        ("does not follow", second.model_copy(update={"previous": "A" * 43}), Malformed, "does not follow"),
        ("turned back in time", second.model_copy(update={"issued": FIRST.issued - 1}), Malformed, "older"),
        ("takes a revocation back", _signed(back, A, B), Revoked, "takes back"),
    ]


@pytest.mark.parametrize(
    ("name", "found", "expected", "why"), attacks_on_lists(), ids=[one[0] for one in attacks_on_lists()]
)
def test_a_list_that_is_not_true_is_refused(
    name: str, found: MemberList, expected: type[GridcloudError], why: str
) -> None:
    before = FIRST if found.number == 2 else following(FIRST, A, B, revoke={C.institution: "key stolen"})
    known = Membership(FIRST)
    if before is not FIRST:
        known.offer(before)
    with pytest.raises(expected, match=why):
        known.offer(found)
    assert known.current == before


def test_the_form_of_a_list_is_checked() -> None:
    document = FIRST.document()
    members = document["members"]
    for change, expected in [
        ({"version": 2}, WrongVersion),
        ({"members": members[::-1]}, Malformed),
        ({"members": [members[0], *members]}, Malformed),
        ({"threshold": 4}, Malformed),
        ({"threshold": 0}, Malformed),
        ({"number": 0}, Malformed),
        ({"more": 1}, Malformed),
        ({"members": []}, Malformed),
        ({"signatures": document["signatures"][::-1]}, Malformed),
        ({"revoked": [{"institution": A.institution, "since": 0, "why": ""}]}, Malformed),
        ({"name": "Foam\nproject"}, Malformed),
        ({"name": "Foam \u202eproject"}, Malformed),
    ]:
        with pytest.raises(expected):
            read_list(document | change)


def test_what_cannot_be_is_not_drafted() -> None:
    with pytest.raises(InvalidRequest, match="not a member"):
        draft_next(FIRST, 0, leave=[D.institution])
    with pytest.raises(InvalidRequest, match="would have to sign"):
        draft_next(community(A, B), 0, leave=[B.institution])
    put_out = following(FIRST, A, B, revoke={C.institution: "key stolen"})
    with pytest.raises(InvalidRequest, match="needs a new root key"):
        draft_next(put_out, 0, join=[C.member()])


def test_a_revoked_member_is_no_longer_listened_to() -> None:
    keys = {place.institution: place.keys for place in (A, B, C)}
    known = Membership(FIRST)
    data = C.write(A)
    A.receiver.open(data, signers([known], keys, A.now))
    known.offer(following(FIRST, A, B, revoke={C.institution: "key stolen"}))
    with pytest.raises(Revoked, match="revoked from Foam project: key stolen"):
        A.receiver.open(C.write(A), signers([known], keys, A.now))
    with pytest.raises(UnknownSigner):
        A.receiver.open(D.write(A), signers([known], keys, A.now))
    assert C.institution not in signers([known], keys | {C.institution: A.keys}, A.now).keys


def test_a_member_leaves_by_its_own_word_and_may_come_back() -> None:
    known = Membership(FIRST)
    word = leave(FIRST.community, C.root, C.now + 1)
    assert known.offer_leave(read_leave(decode(encode(word.document()))))
    assert not known.offer_leave(word)
    assert C.institution not in known.members(A.now)
    assert "it left Foam project" in signers([known], {}, A.now).revoked[C.institution]
    again = Membership.of(decode(encode(known.state())))
    assert again.leaves == (word,)
    known.offer(following(FIRST, A, B, leave=[C.institution]))
    assert known.leaves == ()
    back = C.member().model_copy(update={"joined": C.now + MINUTE})
    known.offer(following(known.current, A, B, join=[back]))
    assert C.institution in known.members(A.now)
    assert not known.offer_leave(word), "an old word does not put out who came back"
    with pytest.raises(Forged):
        read_leave(word.document() | {"issued": C.now + 2 * MINUTE})
    with pytest.raises(Misdirected):
        known.offer_leave(leave("c-" + "0" * 40, C.root, C.now))


def test_a_fork_is_told_with_those_who_made_it() -> None:
    known = Membership(FIRST)
    ours = following(FIRST, A, B, join=[D.member()])
    theirs = following(FIRST, B, C, threshold=1)
    known.offer(ours)
    with pytest.raises(Forked, match="two true lists 2") as told:
        known.offer(theirs)
    assert told.value.details["both"] == B.institution
    assert known.current == ours
    with pytest.raises(UnknownSigner):
        known.offer(following(FIRST, A, threshold=1))
    beyond = following(theirs, C)
    known.adopt([theirs, beyond])
    assert known.current == beyond
    with pytest.raises(Malformed):
        known.adopt([following(community(A, B), A, B).model_copy(update={"number": 9})])
    assert known.current == beyond


def test_nobody_signs_two_lists_of_one_number() -> None:
    known = Membership(FIRST)
    draft = draft_next(FIRST, FIRST.issued, join=[D.member()])
    known.may_sign(draft)
    known.may_sign(draft)
    again = Membership.of(decode(encode(known.state())))
    with pytest.raises(Conflict, match="another list 2"):
        again.may_sign(draft_next(FIRST, FIRST.issued, threshold=1))
    with pytest.raises(Conflict, match="does not follow"):
        again.may_sign(draft_next(following(FIRST, A, B), FIRST.issued))


def test_several_communities_at_once_and_one_ends() -> None:
    end = A.now + MINUTE
    project = Membership(community(A, B, threshold=1, ends=end))
    lasting = Membership(community(A, C, threshold=1))
    keys = {place.institution: place.keys for place in (A, B, C)}
    assert communities_of([project, lasting], A.institution, A.now) == {project.community, lasting.community}
    assert communities_of([project, lasting], B.institution, A.now) == {project.community}
    assert set(signers([project, lasting], keys, end - 1).keys) == set(keys)
    assert B.institution not in signers([project, lasting], keys, end).keys
    with pytest.raises(Expired, match="had ended"):
        project.offer(following(project.current, A, issued=end))
    assert forget_ended([project, lasting], end - 1) == [project, lasting]
    assert forget_ended([project, lasting], end) == [lasting]
    put_off = following(project.current, A, issued=end - 1, ends=end + MINUTE)
    project.offer(put_off)
    assert B.institution in signers([project], keys, end).keys


def test_put_out_of_one_community_and_still_in_another() -> None:
    one, other = Membership(FIRST), Membership(community(A, C))
    one.offer(following(FIRST, A, B, revoke={C.institution: "left the project"}))
    found = signers([one, other], {C.institution: C.keys}, A.now)
    assert C.institution in found.keys
    assert C.institution not in found.revoked
    assert communities_of([one, other], C.institution, A.now) == {other.community}


def chain() -> list[MemberList]:
    second = following(FIRST, A, B, join=[D.member()])
    third = following(second, C, D, revoke={A.institution: "closed"})
    return [FIRST, second, third, following(third, B, C, threshold=1), following(third, B, C, threshold=1)]


CHAIN = chain()


@settings(max_examples=40, deadline=None)
@given(st.permutations(list(itertools.chain(CHAIN, CHAIN))))
def test_lists_in_any_order_and_number_lead_to_the_same(order: list[MemberList]) -> None:
    known = Membership(FIRST)
    for _ in range(4):
        for found in order:
            try:
                known.offer(found)
            except Conflict:
                continue
    assert known.current.digest() == CHAIN[-1].digest()
    assert Membership.of(decode(encode(known.state()))).state() == known.state()


@settings(max_examples=30, deadline=None)
@given(st.sets(st.sampled_from([A, B, C, D]).map(lambda place: place.name)), st.integers(1, 3))
def test_no_fewer_than_the_threshold_change_a_list(names: set[str], threshold: int) -> None:
    first = community(A, B, C, threshold=threshold)
    found = following(first, *(place for place in (A, B, C, D) if place.name in names))
    true = "Roskilde" not in names and len(names) >= threshold
    try:
        check_next(first, found)
        accepted = True
    except MessageRefused:
        accepted = False
    assert accepted == true
