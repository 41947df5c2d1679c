"""Records over IPv8, between real instances on an address of a network card."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from gridcloud.drivers.discovery.ipv8 import DATAGRAM, IPv8Discovery
from gridcloud.errors import DriverUnavailable, InvalidSettings
from gridcloud.settings.grid import DiscoverySettings
from gridcloud.testing.discovery import DiscoveryContract, Meeting

MISSING = importlib.util.find_spec("ipv8") is None


@pytest.mark.skipif(MISSING, reason="pyipv8 is not installed: pip install 'gridcloud[ipv8]'")
class TestIPv8(DiscoveryContract):
    @pytest.fixture
    def meeting(self) -> Meeting:
        host = _own_address()
        ports = [_free_port(host) for _ in range(3)]
        contacts = tuple(f"{host}:{port}" for port in ports)
        return Meeting(
            IPv8Discovery,
            [DiscoverySettings(driver="ipv8", listen=f"{host}:{port}", contacts=contacts) for port in ports],
        )

    async def test_record_that_does_not_fit_is_told_and_not_sent(
        self, meeting: Meeting, caplog: pytest.LogCaptureFixture
    ) -> None:
        finder = IPv8Discovery(meeting.settings[0], lambda community, record: None)
        await finder.open()
        try:
            await finder.tell({"c-north": bytes(n * n % 251 ^ n % 241 for n in range(16_000))})
        finally:
            await finder.close()
        assert f"{DATAGRAM} fit" in caplog.text


async def test_what_is_missing_is_said() -> None:
    with pytest.raises(InvalidSettings, match=r"grid\.discovery\.listen"):
        IPv8Discovery(DiscoverySettings(driver="ipv8"), lambda community, record: None)
    if MISSING:
        finder = IPv8Discovery(
            DiscoverySettings(driver="ipv8", listen="127.0.0.1:1"), lambda community, record: None
        )
        with pytest.raises(DriverUnavailable, match="ipv8"):
            await finder.open()
        await finder.close()


def _own_address() -> str:
    """Return an address of a network card: IPv8 introduces nobody to others at loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this computer has no network card with a route, and IPv8 does not work on loopback")
        return str(probe.getsockname()[0])


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
