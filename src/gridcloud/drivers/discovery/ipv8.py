"""Members' records over IPv8 (UDP): how those meet whose known addresses have all changed. Off unless it is asked for.

Only signed records travel here, each sent by whom it is about; whoever hears one checks it as what gossip brings. No
lease, invitation or member list ever goes this way. IPv8's own identities are made anew at each start and mean nothing;
its public servers are not asked: members begin at the `contacts` of the settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import socket
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from gridcloud.errors import DriverUnavailable, InvalidSettings
from gridcloud.federation.records import MAXIMUM_RECORD
from gridcloud.settings.grid import DiscoverySettings

__all__ = ["IPv8Discovery"]

log = logging.getLogger(__name__)

RECORD = 1
"""The number of the one message of ours."""
DATAGRAM = 1300
"""Bytes of a compressed record that are sent: more would be cut to pieces on the way, and lost whole with each."""
LOOK = 1.0
"""Seconds between two looks for peers who have not been told our record."""
AGAIN = 300.0
"""Seconds after which a peer is told again: a datagram may have been lost."""


def _make_meeting(service: Any, community: str, hear: Callable[[bytes], None]) -> Any:
    """Return the overlay of one community, whose id is made from the community's; it looks for peers from now on.

    Raises ModuleNotFoundError without pyipv8, as `IPv8Discovery.open` does before.
    """
    from ipv8.community import Community, CommunitySettings  # type: ignore[import-not-found]
    from ipv8.peerdiscovery.discovery import RandomWalk  # type: ignore[import-not-found]

    class Meeting(Community):  # type: ignore[misc]
        community_id = hashlib.sha256(b"gridcloud:discovery:1\n" + community.encode()).digest()[:20]

    settings = CommunitySettings(
        my_peer=service.keys["us"], endpoint=service.endpoint, network=service.network, max_peers=-1
    )
    meeting = Meeting(settings)
    head = len(meeting.get_prefix()) + 1

    def on_record(source: Any, data: bytes) -> None:
        """Hand on a record, whoever sent it: it is its signature that counts."""
        with contextlib.suppress(zlib.error):
            record = zlib.decompressobj().decompress(data[head:], MAXIMUM_RECORD + 1)
            if 0 < len(record) <= MAXIMUM_RECORD:
                hear(record)

    meeting.add_message_handler(RECORD, on_record)
    service.add_strategy(meeting, RandomWalk(meeting), -1)
    return meeting


class IPv8Discovery:
    """The plug-in `ipv8` of the group `gridcloud.discovery`; see `gridcloud.grid.finding.Finder`."""

    def __init__(self, settings: DiscoverySettings, hear: Callable[[str, bytes], None]) -> None:
        """`hear(community, record)` is called with what came, unchecked. Raises InvalidSettings."""
        host, _, port = settings.listen.rpartition(":")
        if not host or not port.isdecimal():
            raise InvalidSettings("grid.discovery.listen: is needed, HOST:PORT of UDP on which IPv8 listens.")
        self._place = (host.strip("[]"), int(port))
        self._contacts = [
            (one.rpartition(":")[0].strip("[]"), int(one.rpartition(":")[2])) for one in settings.contacts
        ]
        self._hear = hear
        self._service: Any = None
        self._meetings: dict[str, Any] = {}
        self._told: dict[tuple[str, bytes], tuple[bytes, float]] = {}
        self._records: dict[str, bytes] = {}
        self._telling: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listen and begin to look for peers. Raises DriverUnavailable, InvalidSettings when the port cannot be had."""
        try:
            from ipv8.configuration import ConfigBuilder  # type: ignore[import-not-found]
            from ipv8_service import IPv8  # type: ignore[import-not-found]
        except ModuleNotFoundError as error:
            raise DriverUnavailable(
                f"The discovery ipv8 needs the Python module {error.name!r}.",
                remedy="pip install 'gridcloud[ipv8]'",
            ) from error
        host, port = self._place
        builder = ConfigBuilder().clear_keys().clear_overlays().set_address(host).set_port(port)
        configuration = builder.add_ephemeral_key("us").finalize()
        configuration["logger"] = {"handlers": [logging.NullHandler()]}  # who runs us decides what is logged
        self._service = IPv8(configuration)
        try:
            await self._service.start()
        except OSError as error:
            raise InvalidSettings(f"grid.discovery.listen: {host}:{port}: {error}.") from error
        self._telling = asyncio.create_task(self._tell(), name="grid: ipv8")

    async def tell(self, records: Mapping[str, bytes]) -> None:
        """Have our record of each of these communities told there; others are left."""
        self._records = {}
        for community, record in records.items():
            packed = zlib.compress(record, 9)
            if len(packed) > DATAGRAM:
                log.warning("our record is too long for IPv8: %d bytes, and %d fit", len(packed), DATAGRAM)
                continue
            self._records[community] = packed
        for community in set(self._meetings) - set(self._records):
            await self._service.unload_overlay(self._meetings.pop(community))
        for community in set(self._records) - set(self._meetings):
            hear = functools.partial(self._hear, community)
            self._meetings[community] = _make_meeting(self._service, community, hear)

    async def close(self) -> None:
        """Leave. May be called twice."""
        telling, self._telling = self._telling, None
        if telling is not None:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        service, self._service = self._service, None
        if service is not None:
            await service.stop()
        self._meetings.clear()

    async def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for community, meeting in list(self._meetings.items()):
                if not meeting.get_peers():
                    await self._begin_at_contacts(meeting)
                self._tell_peers(community, meeting, loop.time())
            await asyncio.sleep(LOOK)

    async def _begin_at_contacts(self, meeting: Any) -> None:
        """Greet the contacts, whose names may lead elsewhere by now; IPv8 takes IPv4 addresses only."""
        loop = asyncio.get_running_loop()
        for host, port in self._contacts:
            with contextlib.suppress(OSError):  # it has no address now: it is tried again
                found = await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_DGRAM)
                meeting.walk_to(found[0][4])

    def _tell_peers(self, community: str, meeting: Any, now: float) -> None:
        """Send our record to each peer that has not had it, or had it long ago."""
        record, peers = self._records.get(community, b""), meeting.get_peers()
        there = {(community, peer.mid) for peer in peers}
        self._told = {who: when for who, when in self._told.items() if who[0] != community or who in there}
        for peer in peers if record else []:
            known, when = self._told.get((community, peer.mid), (b"", 0.0))
            if known != record or now - when > AGAIN:
                self._told[community, peer.mid] = (record, now)
                meeting.endpoint.send(peer.address, meeting.get_prefix() + bytes([RECORD]) + record)
