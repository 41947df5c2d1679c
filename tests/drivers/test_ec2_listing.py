"""Listings that several ask for at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gridcloud.drivers.instances.ec2_listing import Listing


def test_those_who_ask_together_share_one_and_none_is_older_than_the_question() -> None:
    begun: list[float] = []

    def look() -> list[float]:
        now = time.monotonic()
        begun.append(now)
        time.sleep(0.02)
        return [now]

    listing = Listing(look)

    def ask(_: int) -> tuple[float, float]:
        asked = time.monotonic()
        return asked, listing.read()[0]

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(200)))
    assert all(looked >= asked for asked, looked in answers)
    assert not listing._ended
    assert not listing._waiting


def test_all_who_ask_while_one_looks_share_the_next_look() -> None:
    begun: list[int] = []
    go = threading.Event()

    def look() -> list[int]:
        begun.append(len(begun))
        go.wait(60)
        return begun[-1:]

    listing = Listing(look)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(listing.read)
        while not begun:
            time.sleep(0.001)
        others = [pool.submit(listing.read) for _ in range(19)]
        while listing._waiting.get(2) != 19:
            time.sleep(0.001)
        go.set()
        assert first.result(60) == [0]
        assert [other.result(60) for other in others] == [[1]] * 19
    assert begun == [0, 1]


def test_an_error_is_told_to_all_and_the_next_look_is_a_new_one() -> None:
    broken = threading.Event()
    broken.set()

    def look() -> list[int]:
        if broken.is_set():
            raise OSError("cut")
        return [1]

    listing = Listing(look)
    for _ in range(2):
        with pytest.raises(OSError, match="cut"):
            listing.read()
    broken.clear()
    assert listing.read() == [1]
