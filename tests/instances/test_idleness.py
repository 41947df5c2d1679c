"""Whether an instance is used, and what becomes of one that is not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.houses import ended, here, link, obtain, open_house, story

from gridcloud.connections.driver import Command, TerminalSize
from gridcloud.errors import InvalidRequest, Rejected
from gridcloud.instances.idleness import Sighting, describe_use, idle_end, read_sighting
from gridcloud.instances.model import Instance, Reason, Request
from gridcloud.service.house import House

QUIET = Sighting(at=0, cpu=100)

HOSTILE = [
    f"hertz 1\nticks {'9' * 400}\n",
    f"hertz 1\nticks {'9' * 5000}\n",
    f"hertz 1\nticks 1\n{'9' * 400}m1.0s\n",
    "hertz 1\nticks 1\n1m1.2.3s\n",
    "hertz 1\nticks 1\nterminal \0\n",
    "hertz\nticks\n",
]
"""What a machine may say whose shell is not what it was."""


def fake(**settings: Any) -> dict[str, Any]:
    return {"driver": "fake", **settings}


def test_what_the_look_prints_is_read() -> None:
    text = "hertz 100\nticks 1234\nterminal 70\nterminal 5\ngpu 0\ngpu 97\n0m0.50s 0m1.00s\n1m0.00s 0m0.25s\n"
    assert read_sighting(text, 7.0) == Sighting(at=7.0, cpu=12.34, spent=61.75, terminal=5.0, gpu=97)
    for wrong in ("", "hertz 0\nticks 1\n", "sh: awk: not found\nhertz 100\n", "hertz x\nticks 1", *HOSTILE):
        with pytest.raises(Rejected):
            read_sighting(wrong, 0)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"cpu": 100.1}, ""),
        ({"cpu": 103.0}, "at work"),
        ({"cpu": 90.0}, ""),
        ({"cpu": 100.0, "terminal": 3.0}, "terminal"),
        ({"cpu": 100.0, "terminal": 3000.0}, ""),
        ({"cpu": 100.0, "gpu": 50}, "GPU"),
    ],
)
def test_what_counts_as_use(changes: dict[str, Any], word: str) -> None:
    use = describe_use(QUIET, replace(QUIET, at=30, **changes))
    assert bool(use) == bool(word)
    assert word in use


def test_our_own_look_is_no_use() -> None:
    assert describe_use(replace(QUIET, spent=3.0), Sighting(at=30, cpu=103.0)) == ""
    assert describe_use(None, QUIET) != ""


@contextlib.asynccontextmanager
async def watched(
    folder: Path, provider: dict[str, Any], idle: int = 1
) -> AsyncIterator[tuple[House, Instance]]:
    async with open_house(folder, {"cloud": provider}) as house:
        house.instances.timing = replace(house.instances.timing, watch=0.2)
        yield house, await obtain(house, idle=idle)


@pytest.mark.parametrize("provider", [fake(), here()], ids=["fake", "local"])
async def test_what_nobody_uses_is_warned_of_and_ends(tmp_path: Path, provider: dict[str, Any]) -> None:
    async with watched(tmp_path, provider) as (house, instance):
        last = await ended(house, instance.id)
        assert last.reason is Reason.IDLE
        told = await story(house, instance.id)
        assert told.index("idling: Not used since") < told.index("It was not used for")


async def test_who_says_that_it_is_used_has_its_time_begin_anew(tmp_path: Path) -> None:
    async with watched(tmp_path, fake()) as (house, instance):
        for _ in range(12):
            await asyncio.sleep(0.2)
            now = await house.instances.renew(instance.id)
            assert (now.idle_since, now.expires) == (None, None)
        assert (await ended(house, instance.id)).reason is Reason.IDLE
        with pytest.raises(InvalidRequest, match="stopped"):
            await house.instances.renew(instance.id)


async def test_work_is_use_and_so_is_sleeping_through_us(tmp_path: Path) -> None:
    async with watched(tmp_path, fake()) as (house, instance):
        idleness = house.instances.watch.idleness
        with idleness.using(instance.id):  # as a command that we run is, however long it takes to start one
            connection = await link(house, instance)
            sleeping = await connection.start(Command(("sleep", "60")))
            await asyncio.sleep(2.5)
            assert (await house.instances.records.get(instance.id)).idle_since is None
            await sleeping.signal("KILL")
            await sleeping.wait()
            work = await connection.start(Command(("sh", "-c", "while :; do :; done")))
        await asyncio.sleep(2.5)
        assert (await house.instances.records.get(instance.id)).idle_since is None
        await work.signal("KILL")
        await work.wait()
        assert (await ended(house, instance.id)).reason is Reason.IDLE


async def test_an_open_terminal_is_use_for_as_long_as_it_is_used(tmp_path: Path) -> None:
    async with watched(tmp_path, fake()) as (house, instance):
        with house.instances.watch.idleness.using(instance.id):
            connection = await link(house, instance)
            shell = await connection.start(Command(("sh",), terminal=TerminalSize(80, 24)))
            await shell.write(b"true\n")
        for _ in range(5):
            await shell.write(b"true\n")
            await asyncio.sleep(0.5)
        assert (await house.instances.records.get(instance.id)).idle_since is None
        last = await ended(house, instance.id, 60)
        assert last.reason is Reason.IDLE
        await shell.wait()


async def test_extending_begins_anew(tmp_path: Path) -> None:
    async with watched(tmp_path, fake(), idle=6) as (house, instance):
        async for now in house.instances.records.follow(instance.id):
            if now.idle_since is not None:
                break
        ends = idle_end(now)
        assert ends
        await asyncio.sleep(2.5)
        extended = await house.instances.extend(instance.id, house.clock.now() + timedelta(hours=1))
        assert extended.idle_since is None
        last = await ended(house, instance.id)
        assert last.ended_at
        assert last.ended_at > ends + timedelta(seconds=1)


async def test_what_cannot_be_told_is_use(tmp_path: Path) -> None:
    async def unknown(instance: Instance) -> str | None:
        return None

    async with watched(tmp_path, fake()) as (house, instance):
        house.instances.watch.idleness.asked.append(unknown)
        async with asyncio.timeout(30):
            async for event in house.store.watch(subject=instance.id):
                if event.type == "warning":
                    break
        await asyncio.sleep(1.5)
        told = await story(house, instance.id)
        assert told.count("taken to be in use") == 1
        assert "idling" not in told
        await house.instances.stop(instance.id)
        await ended(house, instance.id)


async def test_limits_of_the_configuration_hold(tmp_path: Path) -> None:
    limits, defaults = {"idle": "2h"}, {"idle": "1h"}
    async with open_house(tmp_path, {"cloud": fake()}, limits=limits, defaults=defaults) as house:
        assert house.complete(Request()).idle == 3600
        assert house.complete(Request(idle=60)).idle == 60
        with pytest.raises(InvalidRequest, match="without use"):
            house.check(Request(idle=3 * 3600))
