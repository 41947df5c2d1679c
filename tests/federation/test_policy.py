"""Policies: what they allow, what they refuse to read, and limits beside them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from gridcloud.errors import InvalidSettings
from gridcloud.federation.limits import Held, Limit, Rules, judge
from gridcloud.federation.policy import NAMES, Question, read_policy
from gridcloud.federation.wishes import Capacity, Wish

WISH = Wish(
    need="s-1",
    capacity=Capacity(millicores=4000, memory=8192, gpus=1),
    seconds=12 * 3600,
    user="ada",
    groups=("physics", "students"),
    purpose="teaching",
)
ASKED = Question(
    "uni-a",
    WISH,
    favour=10,
    free=0.5,
    communities=frozenset({"nordic"}),
    when=datetime(2026, 3, 7, 22, tzinfo=UTC),
)
ISSUE = 'institution in friends and purpose == "teaching" and hours <= 24 and favour >= 0'
FRIENDS = {"friends": ["uni-a", "uni-b"]}


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        (ISSUE, True),
        ("institution not in friends", False),
        ('"students" in groups and weekday in ("sat", "sun")', True),
        ("hour >= 20 or hour < 6", True),
        ("not (gpus > 0 and favour < 10)", True),
        ("0 < gpus <= 1 and cpus == 4 and memory == 8", True),
        ("free - 0.2 >= 0.3", True),
        ("favour + 1 > 11", False),
        ("-favour < -9", True),
        ('"nordic" in communities', True),
        ('user != "ada"', False),
        ("True", True),
        ("False or False", False),
    ],
)
def test_expressions(text: str, allowed: bool) -> None:
    assert (not read_policy(text, FRIENDS).refusal(ASKED)) is allowed


def test_what_says_no_is_named() -> None:
    policy = read_policy("(institution in friends and hours <= 6) and favour >= 0", FRIENDS)
    assert policy.refusal(ASKED) == "hours <= 6"


@pytest.mark.parametrize(
    ("text", "column", "word"),
    [
        ("__import__('os').system('id')", 1, "a call has no place"),
        ("gpus < 2 and institution.upper()", 14, "a call has no place"),
        ("institution.name", 1, "an attribute"),
        ("gpus < 2 and groups[0] == 'a'", 14, "an index"),
        ("hours <= twelve", 10, "'twelve' is no name"),
        ("hours <= '12'", 10, "a number is needed"),
        ("hours", 1, "true or false is needed"),
        ("gpus in groups", 1, "only a text can be in a list"),
        ("user < 'b'", 1, "only numbers are compared"),
        ("hours ** 9 < 4", 1, "no place"),
        ("hours * 9 < 4", 1, "no place"),
        ("(lambda: True)", 2, "a function"),
        ("[user for user in groups]", 1, "ListComp"),
        ("user is None", 9, "Constant"),
        ("user in ('ä', hours)", 15, "texts only"),
        ("hours < 1e400", 9, "too large"),
        ("hours < 1j", 9, "no place"),
        ("(user := 'a') == 'a'", 2, "no place"),
        ("\0", 1, "null bytes"),
    ],
)
def test_refusals_show_the_place(text: str, column: int, word: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        read_policy(text, FRIENDS)
    assert word in str(caught.value)
    assert caught.value.details["column"] == column


def test_own_names_are_told() -> None:
    with pytest.raises(InvalidSettings, match="friends"):
        read_policy("institution in freinds", FRIENDS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gpus <",
        "x" * 2001,
        " and ".join(["True"] * 201),
        "not " * 60 + "True",
        "(" * 300 + "True" + ")" * 300,
    ],
)
def test_bounds(text: str) -> None:
    with pytest.raises(InvalidSettings):
        read_policy(text)


@settings(max_examples=60, deadline=None)
@given(
    some.lists(
        some.sampled_from(
            [*NAMES, "friends", "and", "or", "not", "in", "<", "==", "(", ")", "1", "'a'", "+", "-"]
        ),
        max_size=12,
    )
)
def test_what_is_read_never_fails(words: list[str]) -> None:
    """Between institutions, promise D."""
    try:
        policy = read_policy(" ".join(words), FRIENDS)
    except InvalidSettings:
        return
    assert isinstance(policy.refusal(ASKED), str)


FREE = Capacity(millicores=8000, memory=32768, gpus=2)
HAS = WISH.capacity


def held(institution: str, capacity: Capacity = HAS) -> Held:
    return Held(institution, WISH, capacity)


def test_limits_count_what_is_lent() -> None:
    rules = Rules(read_policy("True"), (Limit(gpus=2), Limit(institution="uni-b", leases=0)))
    assert judge(rules, ASKED, [held("uni-b"), held("uni-c")], FREE, HAS) == ""
    assert judge(rules, ASKED, [held("uni-a")], FREE, HAS) == ""
    assert "2 GPUs" in judge(rules, ASKED, [held("uni-a")] * 2, FREE, HAS)
    assert "leases" in judge(rules, Question("uni-b", WISH), [], FREE, HAS)


def test_limits_and_room_count_what_machines_have() -> None:
    rules = Rules(read_policy("cpus <= 4"), (Limit(millicores=9000),))
    large = Capacity(millicores=6000, memory=16384, gpus=1)
    assert judge(rules, ASKED, [], FREE, large) == ""
    assert "it would be 10000" in judge(rules, ASKED, [held("uni-a", large)], FREE, HAS)
    assert "it would be 10000" in judge(rules, ASKED, [held("uni-a")], FREE, large)
    assert judge(rules, ASKED, [], HAS, large) == "there is no room now"


def test_limits_of_groups() -> None:
    rules = Rules(read_policy("True"), (Limit(group="students", millicores=6000, seconds=24 * 3600),))
    staff = WISH.model_copy(update={"groups": ("staff",)})
    assert judge(rules, ASKED, [Held("uni-a", staff, HAS)], FREE, HAS) == ""
    assert "group students" in judge(rules, ASKED, [held("uni-a")], FREE, HAS)
    long = Question("uni-a", WISH.model_copy(update={"seconds": 25 * 3600}))
    assert "seconds for one lease" in judge(rules, long, [], FREE, HAS)


def test_own_users_come_first() -> None:
    rules = Rules(read_policy("True"), reserve=Capacity(gpus=2))
    assert judge(rules, ASKED, [], FREE, HAS) == "there is no room now"
    assert "the policy" in judge(Rules(read_policy("hours < 1")), ASKED, [], FREE, HAS)
