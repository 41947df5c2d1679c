"""Machines that dial in, by the verbs of plain programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridcloud.agents.model import Caps, State
from gridcloud.client import connect
from gridcloud.errors import InvalidRequest, NotFound
from tests.houses import configure
from tests.services import FAKE


def test_plain_programs_invite_label_drain_and_remove_machines(tmp_path: Path) -> None:
    settings = configure(tmp_path, FAKE)
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with connect(config=settings.path, data=data) as client:
        made = client.invite_agent(
            "lab-pc", time=60, caps=Caps(cpus=2), labels={"room": "4.1"}, addresses=["192.0.2.0/24"]
        )
        assert made.token.startswith("gca_")
        assert (made.machine.caps.cpus, made.machine.addresses) == (2, ("192.0.2.0/24",))
        assert client.label_agent("lab-pc", {"room": None, "fast": "yes"}).labels == {"fast": "yes"}
        assert [one.name for one in client.agents()] == ["lab-pc"]
        with pytest.raises(InvalidRequest, match="is invited"):
            client.drain_agent("lab-pc")
        client.remove_agent("lab-pc")
        assert client.agents() == []
        assert [one.state for one in client.agents(all=True)] == [State.REMOVED]
        assert client.agent("lab-pc").state is State.REMOVED
        with pytest.raises(NotFound):
            client.agent("nobody")
        with pytest.raises(InvalidRequest, match=r"^name: "):
            client.invite_agent("Lab PC")
