"""No two lists of one number pass while who may sign two are put out, and what waits in vain stops nobody."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from gridcloud.errors import Conflict
from gridcloud.federation.communities import ListSignature, MemberList, draft_next
from gridcloud.federation.membership import Membership
from gridcloud.federation.rounds import can_pass, check_round, choose_round, put_out, signers_of
from tests.federation.scenes import Place, community

PLACES = [Place(f"member {number}") for number in range(9)]
ROOTS = {place.institution: place.root.public for place in PLACES}
FIRST = {count: community(*PLACES[:count], threshold=1) for count in range(3, 10)}


def after(count: int, threshold: int) -> MemberList:
    """Return the newest list of so many members: it is not looked at for signatures."""
    return FIRST[count].model_copy(update={"threshold": threshold})


def signed(draft: MemberList, who: Iterable[str]) -> MemberList:
    """Return a draft as it is known with these signatures; they are taken to have been checked."""
    made = [ListSignature(root=ROOTS[one], signature="A" * 86) for one in who]
    return draft.model_copy(update={"signatures": tuple(sorted(made, key=lambda one: one.root))})


class Town:
    """Members who sign what waits as they see it: messages arrive in any order, some never."""

    def __init__(self, chance: random.Random, *, all_put_out: bool) -> None:
        self.chance = chance
        count = chance.randrange(3, 10)
        self.before = after(count, chance.randrange(count // 2 + 1, count + 1))
        self.members = [place.institution for place in PLACES[:count]]
        most = 2 * self.before.threshold - count if all_put_out else count
        self.false = frozenset(chance.sample(self.members, chance.randrange(min(most, count))))
        self.all_put_out = all_put_out
        self.drafts: dict[str, MemberList] = {}
        self.votes: dict[str, set[str]] = {}
        self.seen: dict[str, dict[str, set[str]]] = {who: {} for who in self.members}
        self.own: dict[str, dict[int, str]] = {who: {} for who in self.members}

    def known(self, who: str) -> list[MemberList]:
        return [signed(self.drafts[digest], votes) for digest, votes in self.seen[who].items() if votes]

    def propose(self) -> None:
        who = self.chance.choice(self.members)
        gone = self.false if self.chance.random() < 0.5 else frozenset()
        if not self.all_put_out and gone:
            gone = frozenset(self.chance.sample(sorted(gone), self.chance.randrange(len(gone) + 1)))
        draft = (
            draft_next(
                self.before,
                self.before.issued + self.chance.randrange(1 << 30),
                revoke=dict.fromkeys(gone, "two signed"),
            )
            if len(self.members) - len(gone) >= self.before.threshold
            else draft_next(self.before, self.before.issued)
        )
        if who in self.false:
            turn = self.chance.randrange(4)
        else:
            try:
                turn = choose_round(self.before, draft, self.known(who), self.own[who])
            except Conflict:
                return
        if turn and self.all_put_out and not self.false <= put_out(self.before, draft):
            return
        draft = draft.model_copy(update={"round": turn})
        self.drafts[draft.digest()] = draft
        self.votes.setdefault(draft.digest(), set())
        self.sign(who, draft.digest())

    def sign(self, who: str, digest: str) -> None:
        draft = self.drafts[digest]
        if who not in self.false:
            try:
                check_round(self.before, draft, self.known(who), self.own[who])
            except Conflict:
                return
            self.own[who][draft.round] = digest
        self.votes[digest].add(who)
        self.seen[who].setdefault(digest, set()).update({who})

    def step(self) -> None:
        dice = self.chance.random()
        if dice < 0.15 or not self.drafts:
            self.propose()
            return
        digest, who = self.chance.choice(list(self.drafts)), self.chance.choice(self.members)
        if dice < 0.6:
            part = [one for one in self.votes[digest] if self.chance.random() < 0.7]
            self.seen[who].setdefault(digest, set()).update(part)
        else:
            self.sign(who, digest)

    def passed(self) -> list[str]:
        return [digest for digest, votes in self.votes.items() if len(votes) >= self.before.threshold]

    def twice(self, turn: int) -> set[str]:
        """Return who signed two lists of a round."""
        lists = [self.votes[digest] for digest, draft in self.drafts.items() if draft.round == turn]
        return {who for who in self.members if sum(who in votes for votes in lists) > 1}


@pytest.mark.parametrize("seed", range(12))
def test_no_two_lists_pass_while_all_who_may_sign_two_are_put_out(seed: int) -> None:
    """Fewer are false than two majorities must share, and later rounds put all of these out."""
    for part in range(5):
        town = Town(random.Random(seed * 5 + part), all_put_out=True)
        for _ in range(120):
            town.step()
        assert len(town.passed()) <= 1


@pytest.mark.parametrize("seed", range(12))
def test_where_two_pass_somebody_signed_two_of_one_round(seed: int) -> None:
    """Whoever is false, and however many: all who signed both, or one whom the later list does not put out."""
    for part in range(5):
        town = Town(random.Random(seed * 5 + part), all_put_out=False)
        for _ in range(120):
            town.step()
        found = sorted(town.passed(), key=lambda digest: town.drafts[digest].round)
        for place, one in enumerate(found):
            for other in found[place + 1 :]:
                earlier, later = town.drafts[one], town.drafts[other]
                both = town.votes[one] & town.votes[other]
                assert both <= town.false or town.twice(earlier.round) - put_out(town.before, later)
                assert both & town.false or town.twice(earlier.round)


def test_two_who_work_together_do_not_hold_up_a_list_that_puts_both_out() -> None:
    """Nine members, seven must sign: two have a list each, which three and four others signed."""
    before = after(9, 7)
    who = [place.institution for place in PLACES]
    one, other = (draft_next(before, before.issued + more) for more in (1, 2))
    waiting = [signed(one, [who[0], *who[2:5]]), signed(other, [who[1], *who[5:9]])]
    plain = draft_next(before, before.issued + 3, ends=before.issued + 4)
    out = draft_next(before, before.issued + 3, revoke={who[0]: "two lists", who[1]: "two lists"})
    turn = choose_round(before, out, waiting, {})
    assert turn == 1
    out = out.model_copy(update={"round": turn})
    for signer in who[2:]:
        own = {0: next(draft.digest() for draft in waiting if signer in signers_of(draft))}
        check_round(before, out, waiting, own)
        with pytest.raises(Conflict, match="was signed here before"):
            check_round(before, plain, waiting, own)


def test_who_agrees_on_nothing_tries_again() -> None:
    """Four members, three must sign, two lists with two signatures each: nobody is put out."""
    before = after(4, 3)
    who = [place.institution for place in PLACES[:4]]
    drafts = [draft_next(before, before.issued + more) for more in (1, 2, 3)]
    waiting = [signed(drafts[0], who[:2]), signed(drafts[1], who[2:])]
    with pytest.raises(Conflict, match="waits for signatures"):
        choose_round(before, drafts[2], waiting[:1], {})
    turn = choose_round(before, drafts[2], waiting, {0: drafts[0].digest()})
    third = drafts[2].model_copy(update={"round": turn})
    assert turn == 1
    check_round(before, third, waiting, {0: drafts[0].digest()})
    with pytest.raises(Conflict, match="later round"):
        check_round(before, drafts[0], waiting, {1: third.digest()})
    with pytest.raises(Conflict, match="may still come into force"):
        check_round(before, third, waiting[:1], {0: drafts[0].digest()})


def test_who_is_put_out_may_sign_two() -> None:
    """Six members, four must sign: the two who are put out could complete the list that two others signed."""
    before = after(6, 4)
    who = [place.institution for place in PLACES[:6]]
    one, other = (draft_next(before, before.issued + more) for more in (1, 2))
    waiting = [signed(one, [who[0], *who[2:4]]), signed(other, [who[1], *who[4:6]])]
    assert not can_pass(before, 0, one.digest(), waiting, ())
    assert can_pass(before, 0, one.digest(), waiting, who[:2])


def test_a_later_round_is_remembered() -> None:
    before = community(*PLACES[:4], threshold=3)
    who = [place.institution for place in PLACES[:4]]
    drafts = [draft_next(before, before.issued + more) for more in (1, 2, 3)]
    waiting = [signed(drafts[0], who[:2]), signed(drafts[1], who[2:])]
    third = drafts[2].model_copy(update={"round": 1})
    known = Membership(before)
    known.may_sign(drafts[0])
    known.may_sign(third, waiting)
    again = Membership.of(known.state())
    assert again.signed == known.signed == {(2, 0): drafts[0].digest(), (2, 1): third.digest()}
    with pytest.raises(Conflict, match="was signed here before"):
        again.may_sign(third.model_copy(update={"ends": third.issued + 9}), waiting)
