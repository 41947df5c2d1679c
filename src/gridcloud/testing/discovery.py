"""What every plug-in of discovery does, as a suite to subclass.

class TestMine(DiscoveryContract):
    @pytest.fixture
    def meeting(self, ...):
        return Meeting(Mine, [DiscoverySettings(...), ...])   # of three that can find each other
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gridcloud.grid.finding import Finder
from gridcloud.settings.grid import DiscoverySettings

__all__ = ["DiscoveryContract", "Meeting"]

NORTH, SOUTH = "c-north", "c-south"


@dataclass(frozen=True)
class Meeting:
    """The plug-in, and the settings of three who run it."""

    finder: type[Any]
    settings: list[DiscoverySettings]
    seconds: float = 30.0
    """The most that it may take until they have heard each other."""


class DiscoveryContract:
    """Records reach those who are in the community, as they were told, and nobody else."""

    async def test_records_reach_all_others_of_the_community(self, meeting: Meeting) -> None:
        async with _open(meeting) as (finders, heard):
            for number, finder in enumerate(finders):
                await finder.tell({NORTH: b"north of %d" % number})
            for number, each in enumerate(heard):
                others = {(NORTH, b"north of %d" % other) for other in range(3) if other != number}
                await _until(lambda each=each, others=others: each == others, meeting)  # type: ignore[misc]

    async def test_records_reach_nobody_of_another_community(self, meeting: Meeting) -> None:
        async with _open(meeting) as (finders, heard):
            first, second, third = finders
            await first.tell({NORTH: b"first"})
            await second.tell({NORTH: b"second", SOUTH: b"second"})
            await third.tell({SOUTH: b"third"})
            await _until(lambda: heard[1] == {(NORTH, b"first"), (SOUTH, b"third")}, meeting)
            await _until(lambda: heard[2] == {(SOUTH, b"second")}, meeting)
            assert heard[0] <= {(NORTH, b"second")}

    async def test_newer_record_is_told_again_and_none_of_what_was_left(self, meeting: Meeting) -> None:
        async with _open(meeting) as (finders, heard):
            for number, finder in enumerate(finders):
                await finder.tell({NORTH: b"%d" % number})
            await _until(lambda: (NORTH, b"1") in heard[0] & heard[2], meeting)
            await finders[1].tell({NORTH: b"newer"})
            await _until(lambda: (NORTH, b"newer") in heard[0] & heard[2], meeting)
            await finders[1].tell({})
            await finders[2].tell({NORTH: b"after"})
            await _until(lambda: (NORTH, b"after") in heard[0], meeting)
            assert (NORTH, b"after") not in heard[1]

    async def test_closing_twice_and_unopened_is_fine(self, meeting: Meeting) -> None:
        finder: Finder = meeting.finder(meeting.settings[0], lambda community, record: None)
        await finder.close()
        async with _open(meeting) as (finders, _):
            await finders[0].close()


@contextlib.asynccontextmanager
async def _open(meeting: Meeting) -> AsyncIterator[tuple[list[Finder], list[set[tuple[str, bytes]]]]]:
    heard: list[set[tuple[str, bytes]]] = [set() for _ in meeting.settings]
    finders: list[Finder] = [
        meeting.finder(settings, lambda community, record, one=one: one.add((community, record)))
        for settings, one in zip(meeting.settings, heard, strict=True)
    ]
    try:
        for finder in finders:
            await finder.open()
        yield finders, heard
    finally:
        for finder in finders:
            await finder.close()


async def _until(true: Callable[[], bool], meeting: Meeting) -> None:
    try:
        async with asyncio.timeout(meeting.seconds):
            while not true():  # noqa: ASYNC110 - what is waited for comes over a network
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {meeting.seconds:g} s")
