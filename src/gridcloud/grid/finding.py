"""The optional plug-in that finds members' records besides gossip: what it brings is believed as little as all else."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from gridcloud import plugins
from gridcloud.clock import Clock
from gridcloud.errors import GridcloudError, Malformed, Throttled
from gridcloud.federation.allowances import Allowance
from gridcloud.federation.encoding import decode, encode
from gridcloud.federation.records import MAXIMUM_RECORD
from gridcloud.grid.circle import Circle, Held
from gridcloud.grid.links import LinkBook
from gridcloud.settings.grid import DiscoverySettings

__all__ = ["Finder", "Finding"]

log = logging.getLogger(__name__)


class Finder(Protocol):
    """A class behind an entry point of the group `gridcloud.discovery`."""

    def __init__(self, settings: DiscoverySettings, hear: Callable[[str, bytes], None]) -> None:
        """`hear(community, record)` is called in the loop with each record that comes, unchecked."""

    async def open(self) -> None:
        """Begin. Raises GridcloudError."""

    async def tell(self, records: Mapping[str, bytes]) -> None:
        """Have our signed record told in each of these communities, and in no other any more."""

    async def close(self) -> None:
        """End. May be called twice."""


class Finding:
    """Runs the plug-in that the settings name. `news` is called with a community when a record said something new."""

    def __init__(
        self,
        circle: Circle,
        links: LinkBook,
        clock: Clock,
        settings: Callable[[], DiscoverySettings],
        news: Callable[[Held], None],
    ) -> None:
        self._circle = circle
        self._links = links
        self._clock = clock
        self._settings = settings
        self._news = news
        self._load: Callable[[str], type[Any]] = functools.partial(plugins.load, "discovery")
        self._finder: Finder | None = None
        self._told: dict[str, bytes] = {}
        self._allowance = Allowance(messages=200, per_second=5, bytes_=1 << 20, bytes_per_second=1 << 14)

    async def open(self) -> None:
        """Begin, where the settings name a plug-in: one that cannot be had is told, and the grid goes on without."""
        settings = self._settings()
        if not settings.driver:
            return
        finder: Finder | None = None
        try:
            finder = self._load(settings.driver)(settings, self.hear)
            await finder.open()
        except GridcloudError as error:
            log.warning("discovery by %s: %s", settings.driver, error)
            if finder is not None:
                await finder.close()
            return
        self._finder, self._told = finder, {}

    async def close(self) -> None:
        """End. May be called twice."""
        finder, self._finder = self._finder, None
        if finder is not None:
            await finder.close()

    async def look(self) -> None:
        """Have our newest records told."""
        if self._finder is None:
            return
        me = self._circle.me
        records = {
            held.community: encode(held.gossip.records[me].document())
            for held in self._circle.inside()
            if me in held.gossip.records and held.membership.is_listed(me)
        }
        if records != self._told:
            self._told = records
            await self._finder.tell(records)

    def hear(self, community: str, record: bytes) -> None:
        """Take a record from anybody: whoever sent it, its author signed it, is a member, and its key is good now."""
        held = self._circle.held.get(community)
        if held is None:
            return
        try:
            self._allowance.take("discovery", len(record), int(self._clock.monotonic() * 1000))
            before = dict(held.gossip.known())
            held.gossip.hear("discovery", decode(record, limit=MAXIMUM_RECORD), self._circle.now())
        except Throttled:
            return  # strangers may send what they like: what is too much is not even told
        except Malformed as error:
            self._links.refused(error, what="a record")
            return
        if held.gossip.known() != before or held.gossip.refusals:
            self._news(held)
