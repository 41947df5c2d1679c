"""What the configuration says of lending, and what it is told where it is wrong."""

from __future__ import annotations

import pytest

from gridcloud.errors import InvalidSettings
from gridcloud.federation.policy import Question
from gridcloud.federation.wishes import Capacity, Wish
from gridcloud.grid.terms import lending_problems, lent_providers, read_rules, read_terms
from gridcloud.settings import Settings, parse_settings

ONE = Capacity(millicores=1000, memory=1024)


def settings(text: str) -> Settings:
    return parse_settings(f"lending:\n{text}", "config.yaml", {})


def test_rules_are_read_with_names_limits_and_reserve() -> None:
    found = settings(
        """
  providers: [local]
  policy: institution in friends and hours <= 2
  names: {friends: [bergen]}
  limits: [{group: students, cpus: 1.5, time: 1h}]
  capacity: {cpus: 8, memory: 16GiB}
  reserve: {cpus: 2}
"""
    )
    rules = read_rules(found.lending)
    wish = Wish(need="n", capacity=ONE, seconds=60, user="ada")
    assert rules.policy.refusal(Question("bergen", wish)) == ""
    assert rules.policy.refusal(Question("oslo", wish)) == "institution in friends"
    assert rules.limits[0].millicores == 1500
    assert rules.limits[0].seconds == 3600
    assert rules.reserve == Capacity(millicores=2000)
    assert lent_providers(found) == ("local",)
    assert read_terms(found.lending).ttl == 300_000


def test_a_wrong_policy_is_shown_with_its_column() -> None:
    with pytest.raises(InvalidSettings) as told:
        read_rules(settings("  policy: 'hours <= 24 and huors > 1'\n").lending)
    assert told.value.message.splitlines()[0].startswith("lending.policy: the policy is wrong at column 17")
    assert told.value.message.splitlines()[-1].endswith("^")
    assert told.value.details["column"] == 17


def test_no_more_is_reserved_than_there_is() -> None:
    with pytest.raises(InvalidSettings, match=r"lending\.capacity"):
        read_rules(settings("  reserve: {cpus: 2}\n").lending)


def test_only_own_providers_are_lent() -> None:
    with pytest.raises(InvalidSettings, match=r"lending\.providers\.1: no provider is named 'cloud'"):
        lent_providers(settings("  providers: [local, cloud]\n"))


@pytest.mark.parametrize("setting", ["allow_root", "share_account"])
def test_what_shares_our_own_account_is_lent_to_trusted_partners_only(setting: str) -> None:
    entry = f"providers: {{mine: {{driver: local, {setting}: true}}}}\nlending:\n  providers: [mine]\n"
    found = parse_settings(entry, "config.yaml", {})
    with pytest.raises(
        InvalidSettings, match=rf"lending\.providers\.0: on machines of mine .*{setting}"
    ) as told:
        lent_providers(found)
    assert "lending.trust_partners" in str(told.value.remedy)
    assert len(lending_problems(found)) == 1
    trusting = parse_settings(f"{entry}  trust_partners: true\n", "config.yaml", {})
    assert lent_providers(trusting) == ("mine",)


def test_a_wrong_key_is_shown_with_its_place() -> None:
    with pytest.raises(
        InvalidSettings, match=r"config.yaml:2:13: lending.limits.0.cpu: .*did you mean 'cpus'"
    ):
        settings("  limits: [{cpu: 4}]\n")


def test_what_is_wrong_with_lending_is_told_at_once() -> None:
    found = settings("  providers: [cloud]\n  policy: 'hours <= 24 and huors > 1'\n")
    assert [one.message.partition(":")[0] for one in lending_problems(found)] == [
        "lending.policy",
        "lending.providers.0",
    ]
