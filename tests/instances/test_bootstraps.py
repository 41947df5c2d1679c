"""Invitations of agents that are instances."""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gridcloud.errors import Unreachable
from gridcloud.identity.credentials import Secret
from gridcloud.instances.bootstraps import forget, invite_once
from gridcloud.instances.driver import JoinedMachine
from gridcloud.instances.model import Request
from gridcloud.testing.instances import driver_context

SMALL = Request(cpus=1, memory=64 << 20)


class Agents:
    """Gives tokens, and counts them."""

    def __init__(self) -> None:
        self.count = 0
        self.forgotten: list[str] = []

    async def machines(self) -> Sequence[JoinedMachine]:
        return ()

    async def call(self, name: str, call: str, arguments: Mapping[str, Any], timeout: float = 8.0) -> Any:
        raise Unreachable("nobody is there")

    async def invite(
        self,
        name: str,
        provider: str,
        *,
        seconds: int,
        caps: Mapping[str, float],
        addresses: Sequence[str] = (),
    ) -> Secret:
        self.count += 1
        return Secret(f"token-{self.count}")

    async def forget(self, name: str, provider: str) -> None:
        self.forgotten.append(name)


async def test_what_is_made_twice_is_invited_once(tmp_path: Path) -> None:
    agents = Agents()
    context = dataclasses.replace(driver_context(tmp_path / "p", _connect), agents=agents)
    first = await invite_once(context, "i-one", SMALL, ())
    again = await invite_once(context, "i-one", SMALL, ())
    assert first.reveal() == again.reveal() == "token-1"
    assert (await invite_once(context, "i-two", SMALL, ())).reveal() == "token-2"
    (kept,) = (tmp_path / "p").glob("*/i-one")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    await forget(context, "i-one")
    await forget(context, "i-one")
    assert not kept.exists()
    assert agents.forgotten.count("i-one") == 3, "once before it was invited: of a former life"
    assert (await invite_once(context, "i-one", SMALL, ())).reveal() == "token-3"


async def _connect(_: object) -> Any:
    raise Unreachable("nothing is connected to here")
