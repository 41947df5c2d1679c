"""Deeds that several ask for at once."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from gridcloud.drivers.instances.ec2_batch import Batch
from gridcloud.errors import NotFound


def test_those_who_come_meanwhile_share_the_next_call() -> None:
    calls: list[list[str]] = []
    go = threading.Event()

    def perform(names: Sequence[str]) -> None:
        calls.append(list(names))
        go.wait(60)

    batch = Batch(perform, 30)
    names = [f"i-{number}" for number in range(50)]
    with ThreadPoolExecutor(50) as pool:
        asked = [pool.submit(batch.add, name) for name in names]
        while len(calls) != 1 or len(batch._waiting) != 50 - len(calls[0]):
            time.sleep(0.001)
        go.set()
        for one in asked:
            one.result(60)
    assert sorted(name for call in calls for name in call) == sorted(names)
    assert len(calls[0]) < 30
    assert [len(call) for call in calls[1:]] == [30, 20 - len(calls[0])]


def test_one_that_fails_is_told_alone_and_the_others_are_done() -> None:
    done: list[str] = []
    entered, go = threading.Event(), threading.Event()

    def perform(names: Sequence[str]) -> None:
        if "first" in names:
            entered.set()
            go.wait(10)
        if "bad" in names:
            raise NotFound("There is no bad.")
        done.extend(names)

    batch = Batch(perform, 100)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(batch.add, "first")
        entered.wait(10)
        others = [pool.submit(batch.add, name) for name in ("bad", "good", "better")]
        time.sleep(0.05)
        go.set()
        with pytest.raises(NotFound):
            others[0].result(10)
        for future in (first, others[1], others[2]):
            future.result(10)
    assert sorted(done) == ["better", "first", "good"]


def test_the_same_name_asked_again_and_again_is_begun_after_each_question() -> None:
    begun: list[int] = []
    count = itertools.count()

    def perform(names: Sequence[str]) -> None:
        begun.append(next(count))
        time.sleep(0.002)

    batch = Batch(perform, 100)

    def ask(_: int) -> tuple[int, int]:
        asked = next(count)
        batch.add("one")
        return asked, next(count)

    with ThreadPoolExecutor(10) as pool:
        asked = list(pool.map(ask, range(100)))
    assert all(any(since < at < until for at in begun) for since, until in asked)
    assert not batch._waiting
