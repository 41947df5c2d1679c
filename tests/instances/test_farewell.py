"""The command that saves what is on an instance before its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.houses import ended, open_house, story

from gridcloud.instances.model import Instance, Reason, Request, State
from gridcloud.service.house import House


def fake(**settings: Any) -> dict[str, Any]:
    return {"driver": "fake", **settings}


async def start(house: House, words: tuple[str, ...], **asked: Any) -> Instance:
    wish = await house.instances.submit("ada", Request(**asked), before_end=words)
    return await house.instances.wait(wish.id)


@pytest.mark.parametrize("reason", [Reason.ASKED, Reason.IDLE, Reason.BUDGET])
async def test_it_is_run_before_the_end_and_what_it_says_is_told(tmp_path: Path, reason: Reason) -> None:
    saved = tmp_path / "saved"
    words = ("sh", "-c", f"echo 'it is kept'; cp work '{saved}'")
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        instance = await start(house, words)
        (house.providers.get("cloud").context.folder / "instances" / instance.id / "work").write_text(
            "all of it"
        )
        await house.instances.stop(instance.id, reason)
        assert (await ended(house, instance.id)).reason is reason
        assert saved.read_text() == "all of it"
        told = await story(house, instance.id)
        assert "it is kept" in told
        assert "ended with exit code 0" in told
        assert await house.providers.get("cloud").holdings() == []


async def test_it_is_run_when_its_time_is_over(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        house.instances.timing = replace(house.instances.timing, watch=0.05)
        instance = await start(house, ("touch", str(tmp_path / "saved")), time=2)
        assert (await ended(house, instance.id)).reason is Reason.EXPIRED
        assert (tmp_path / "saved").exists()


async def test_it_holds_nothing_up(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        house.instances.timing = replace(house.instances.timing, before_end=0.5)
        slow = await start(house, ("sleep", "600"))
        wrong = await start(house, ("no-such-program",))
        for one in (slow, wrong):
            await house.instances.stop(one.id)
            last = await ended(house, one.id)
            assert (last.state, last.reason) == (State.STOPPED, Reason.ASKED)
        assert "not done within 0.5 s" in await story(house, slow.id)
        assert "saved: " in await story(house, wrong.id)


async def test_it_is_not_run_on_what_was_never_ready(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": fake(boot_seconds=60)}) as house:
        wish = await house.instances.submit("ada", Request(), before_end=("touch", str(tmp_path / "saved")))
        async for now in house.instances.records.follow(wish.id):
            if now.state is State.STARTING:
                break
        await house.instances.stop(wish.id)
        await ended(house, wish.id)
        assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("path", [b"/bin\n/a\0b\n", b"/\xff\xfe\n", b"/x" * 200_000])
async def test_nothing_that_lies_on_a_machine_keeps_it_from_being_ended(tmp_path: Path, path: bytes) -> None:
    """Whoever could, would have a machine for ever."""
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        wish = await house.instances.submit(
            "ada",
            Request(),
            configure=[{"use": "script", "text": "mkdir -p .gridcloud"}],
            before_end=("echo", "hello"),
        )
        one = await house.instances.wait(wish.id)
        folder = house.providers.get("cloud").context.folder / "instances" / one.id
        (folder / ".gridcloud" / "path").write_bytes(path)
        await house.instances.stop(one.id, Reason.BUDGET)
        assert (await ended(house, one.id)).state is State.STOPPED
        assert await house.providers.get("cloud").holdings() == []


@pytest.mark.parametrize(
    "words",
    [
        ("x" * 3_000_000,),
        ("sh", "-c", "head -c 100000000 /dev/zero"),
        ("sh", "-c", "printf 'a\\000b\\377\\033[2J'; exit 3"),
        ("sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1; done"),
    ],
    ids=["too long", "says too much", "says what is no text", "does not end"],
)
async def test_no_command_keeps_a_machine_from_being_ended(tmp_path: Path, words: tuple[str, ...]) -> None:
    async with open_house(tmp_path, {"cloud": fake()}) as house:
        house.instances.timing = replace(house.instances.timing, before_end=3)
        one = await start(house, words)
        await house.instances.stop(one.id, Reason.BUDGET)
        assert (await ended(house, one.id)).state is State.STOPPED
        assert (await story(house, one.id)).count("saved: ") == 1
        assert await house.providers.get("cloud").holdings() == []
