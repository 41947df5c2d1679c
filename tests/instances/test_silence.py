"""How long a machine may stay silent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gridcloud.instances.silence import Silences

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_a_silence_is_news_once_and_given_up_when_it_lasts() -> None:
    silences = Silences(60)
    assert silences.begin("i", at(0))
    assert not silences.begin("i", at(30))
    assert silences.given_up("i", at(59)) is None
    assert silences.given_up("i", at(60)) == at(0)
    assert silences.given_up("another", at(60)) is None


def test_an_answer_ends_a_silence_and_is_news_too() -> None:
    silences = Silences(60)
    silences.begin("i", at(0))
    assert silences.end("i")
    assert not silences.end("i")
    assert silences.begin("i", at(50))
    assert silences.given_up("i", at(70)) is None


def test_a_silence_may_last_for_ever() -> None:
    silences = Silences(0)
    silences.begin("i", at(0))
    assert silences.given_up("i", at(1e9)) is None
