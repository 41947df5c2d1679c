"""Invitations of agents that are instances."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path
from typing import Any

from tests.joined import Agents

from gridcloud.errors import Unreachable
from gridcloud.instances.bootstraps import forget, invite_once
from gridcloud.instances.model import Request
from gridcloud.testing.instances import driver_context

SMALL = Request(cpus=1, memory=64 << 20)


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
