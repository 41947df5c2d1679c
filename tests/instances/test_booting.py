"""A machine that runs and does not answer yet: nobody is told to mend a network that is well."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from tests.houses import end, obtain, open_house, story

from gridcloud.connections.model import SSHAddress
from gridcloud.drivers.instances.fake import FakeDriver, FakeSettings
from gridcloud.instances.model import Handle, Observation, Phase

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDZRH7gnnQhXjhmbUbovosyIblQRcI4BR8n/izQBN/zQ"


class SlowToAnswer(FakeDriver):
    """Runs at once, and answers at its address only when it was looked at twice."""

    port = 0
    looks = 0

    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        seen = await super().observe(handles)
        self.looks += 1
        if self.looks > 2:
            return seen
        address = SSHAddress(host="127.0.0.1", port=self.port, user="ada", host_keys=(KEY,))
        return {name: Observation(phase=Phase.RUNNING, address=address) for name in seen}


async def test_a_machine_that_is_booting_alarms_nobody(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"cloud": {"driver": "fake"}}) as house:
        known = house.providers.get("cloud")
        assert isinstance(known.settings, FakeSettings)
        slow = SlowToAnswer(known.settings, known.context)
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # and nobody listens
            slow.port = nobody.getsockname()[1]
            house.providers._drivers["cloud"] = slow
            instance = await obtain(house)
        told = await story(house, instance.id)
        assert "waiting: It runs, and may still be starting: " in told
        assert "Check address" not in told
        await end(house, instance)
