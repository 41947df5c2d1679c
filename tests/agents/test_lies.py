"""A machine that joined and lies: it harms nobody but itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gridcloud.agents.exchange import Exchange, plain
from gridcloud.errors import ConnectionLost, GridcloudError, InvalidSettings
from gridcloud.instances.model import Handle, Phase, Request, Spec
from tests.agents.machines import Little, admit, dialling
from tests.agents.test_hosting import make_driver
from tests.services import Service, open_service

SMALL = Request(cpus=0.25, memory=64 << 20)


class Liar(Little):
    """Answers what it is told to, by call."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.lies: dict[str, Any] = {}

    async def answer(self, call: str, arguments: dict[str, Any]) -> Any:
        lie = self.lies.get(call)
        if isinstance(lie, Exception):
            raise lie
        return lie


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with open_service(tmp_path) as opened:
        yield opened


def offer(**shape: Any) -> dict[str, Any]:
    whole = {"cpus": 0.25, "memory": 64 << 20} | shape
    return {
        "provider": "x",
        "kind": "bare_metal",
        "shape": whole,
        "why_not": "a\x1b[2Jb",
        "spot": True,
        "wait": 10**17,
    }


async def test_what_a_liar_says_stays_with_it(service: Service, tmp_path: Path) -> None:
    liar, honest = Liar(tmp_path), Liar(tmp_path)
    async with (
        dialling(service, *await admit(service, tmp_path / "liar", "liar"), liar),
        dialling(service, *await admit(service, tmp_path / "honest", "honest"), honest),
    ):
        driver = make_driver(service, tmp_path / "provider")
        honest.lies["offers"] = []
        liar.lies["offers"] = [offer(cpus=10**9, memory=2**50, gpus=8)]
        (made,) = [one for one in await driver.offers(SMALL) if one.shape.name == "liar"]
        assert (made.shape.cpus, made.shape.memory, made.shape.gpus) == (0.25, 64 << 20, 0)
        assert made.wait <= 30 * 86400
        assert (made.why_not, made.spot, made.location) == ("a [2Jb", False, "liar")
        for wrong in ({"memory": -5}, {"cpus": 0.1}, {"gpus": -8}):
            liar.lies["offers"] = [offer(**wrong)]
            assert not any(one.possible for one in await driver.offers(SMALL))
        # What it lists are names of no files of ours, nor what others have.
        prey = tmp_path / "prey"
        prey.write_text("mine")
        wish = Spec(
            id="t-1234",
            owner="ada",
            request=SMALL,
            offer=made.model_copy(update={"choice": {"agent": "honest"}}),
        )
        honest.lies["create"] = {"version": 1, "data": {}}
        await driver.create(wish)
        names = ("../../prey", "t-1234", "shared", "", "t-5678")
        liar.lies["holdings"] = [
            {"instance_id": one, "what": "w", "name": "n", "created": "2026-01-01T00:00:00"} for one in names
        ]
        honest.lies["holdings"] = []
        held = await driver.holdings()
        assert [(one.instance_id, one.created) for one in held] == [("t-5678", None)]
        await driver.destroy("../../prey", Handle(data={"agent": "liar"}))
        assert prey.exists()
        # Errors that look like ours hide its own things only.
        for call in ("observe", "holdings"):
            liar.lies[call] = InvalidSettings("Your entry is wrong.")
        honest.lies["observe"] = {
            "t-1234": {"phase": "running", "address": {"via": "local", "directory": "/"}}
        }
        handles = {"t-1234": Handle(data={"agent": "honest"}), "t-5678": Handle(data={"agent": "liar"})}
        seen = await driver.observe(handles)
        assert (seen["t-1234"].phase, seen["t-5678"].phase) == (Phase.RUNNING, Phase.PENDING)
        address = seen["t-1234"].address
        assert getattr(address, "socket", "") == str(service.house.switchboard.socket_to("honest"))
        assert await driver.holdings() == []
        honest.lies["create"] = {"version": 1, "data": {"long": "x" * 9000}}
        with pytest.raises(ConnectionLost, match="handle"):
            await driver.create(wish.model_copy(update={"id": "t-9999"}))


@pytest.mark.parametrize(
    "line",
    [
        b'{"report": {"load": Infinity}}',
        b'{"report": {"load": 1e999}}',
        b'{"report": {"free": {"memory": 1' + b"0" * 4000 + b"}}}",
        b'{"report": ' + b"[" * 100_000,
        b"3",
    ],
)
async def test_lines_that_make_no_sense_end_it(line: bytes) -> None:
    with pytest.raises(ConnectionLost):
        await _said(line + b"\n")


async def test_who_says_too_much_is_not_listened_to() -> None:
    with pytest.raises(ConnectionLost, match="unasked"):
        await _said(b'{"report": null}\n' * 300, unasked=1 << 20)
    assert len(await _said(b'{"report": null}\n' * 100, unasked=1 << 20)) == 100


async def test_what_is_said_is_one_line_without_orders_to_a_terminal() -> None:
    assert await _said(b'{"re\\u001bport": ["a\\nb\\ud800", {"c": "\\u202e"}]}\n') == [
        ("re port", ["a b ", {"c": " "}])
    ]
    assert plain("x\x1b]0;y\x07\n" * 1000).isprintable()
    assert len(plain("x" * 100_000)) == 1000


async def _said(lines: bytes, **more: Any) -> list[tuple[str, Any]]:
    heard: list[tuple[str, Any]] = []
    reader = asyncio.StreamReader()
    reader.feed_data(lines)
    reader.feed_eof()

    class Nowhere:
        def write(self, data: bytes, /) -> None:
            raise GridcloudError("nothing is to be said")

        async def drain(self) -> None:
            return

    await Exchange(reader, Nowhere(), notice=lambda kind, what: heard.append((kind, what)), **more).run()
    return heard
