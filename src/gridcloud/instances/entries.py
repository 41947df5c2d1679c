"""Entries of the configuration as live drivers: made from the settings, kept while they still hold something.

An entry may be removed, or come to mean another place (`ProviderSettings.place`), while something lives where it was.
So a copy of it is stored before anything is made, what was made is looked after by that copy, and nothing is made in
the new place until the old one holds nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ValidationError

from gridcloud import plugins
from gridcloud.errors import DriverUnavailable, GridcloudError, InvalidSettings, NotFound
from gridcloud.settings import ProviderSettings
from gridcloud.store import Entry, Store

__all__ = ["Entries", "Holder"]


class Holder(Protocol):
    """What holds things for us: the part that all kinds of drivers have in common."""

    @property
    def settings(self) -> ProviderSettings:
        """The entry as it was when the driver was made."""

    async def holdings(self) -> Sequence[Any]:
        """Return everything held under our owner tag."""

    async def close(self) -> None:
        """Let go of connections. May be called twice."""


D = TypeVar("D", bound=Holder)


class _Noting:
    """Those who note at the same time what they are about to make in one place."""

    def __init__(self) -> None:
        self._count = 0
        self.over = asyncio.Event()
        self.over.set()

    def begin(self) -> None:
        self._count += 1
        self.over.clear()

    def end(self) -> None:
        self._count -= 1
        if not self._count:
            self.over.set()


class Entries(ABC, Generic[D]):
    """Drivers of one kind by the name of their entry. One that left the configuration serves what it still holds."""

    kind: str
    """Kind of driver: `instances` or `clusters`."""
    record: str
    """Kind of the records that hold the copies of entries."""
    noun: str
    """What people call an entry."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._drivers: dict[str, D] = {}
        self._retired: list[D] = []
        self._saved: dict[str, dict[str, Any]] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._noting: dict[str, _Noting] = {}

    @abstractmethod
    def entries(self) -> Mapping[str, ProviderSettings | GridcloudError]:
        """Return the section of the configuration as it is now."""

    @abstractmethod
    def make(self, kind: Callable[..., D], name: str, entry: ProviderSettings, folder: Path) -> D:
        """Return a new driver of a class, with its private folder."""

    @abstractmethod
    async def known(self) -> Mapping[str, str]:
        """Return the ids of all that we know of for which something may be held, or may come to be; each with the
        entry that it is of."""

    @abstractmethod
    def subject(self, holding: Any) -> str:
        """Return the id of what something was made for."""

    async def sweep(self, driver: D) -> None:
        """Remove what serves everything of a place, once nothing else is there. Raises what the driver raises."""

    def names(self) -> list[str]:
        """Return the names in the order of the configuration."""
        return list(self.entries())

    def get(self, name: str) -> D:
        """Return the driver of a configured entry.

        Raises NotFound for an unknown name, InvalidSettings or DriverUnavailable when its entry cannot be used.
        """
        entries = self.entries()
        if name not in entries:
            known = ", ".join(entries) or "none"
            raise NotFound(f"No {self.noun} named {name!r:.100} is configured (configured: {known}).")
        entry = entries[name]
        if isinstance(entry, GridcloudError):
            raise entry
        return self._driver(name, entry)

    async def holder(self, name: str) -> D:
        """Return the driver that holds what was made at ``name``, also when that is no longer configured, or by now
        means another place: what was made is looked for where it was made."""
        try:
            driver = self.get(name)
        except (NotFound, InvalidSettings, DriverUnavailable):
            return await self._remembered_driver(name)
        return await self._former(name, driver.settings) or driver

    async def remember(self, name: str) -> None:
        """Keep a copy of an entry in the store, before anything is made there.

        Raises InvalidSettings where it means another place than before, which still holds something.
        """
        async with self.remembering(name):
            pass

    @contextlib.asynccontextmanager
    async def remembering(self, name: str) -> AsyncIterator[None]:
        """Do as `remember`, and let nobody else change the place of ``name`` until what will be made there is noted
        within: it is `known` from then on."""
        noting = self._noting.setdefault(name, _Noting())
        async with self._turns.setdefault(name, asyncio.Lock()):
            settings = self.get(name).settings
            body = settings.model_dump(mode="json")
            if self._saved.get(name) != body:
                await noting.over.wait()
                await self.check_place(name, settings)
                try:
                    record = await self._store.get(self.record, name)
                except NotFound:
                    await self._store.insert(self.record, name, self._store.keeper, "known", body)
                else:
                    await self._store.update(record, body=body)
                self._saved[name] = body
            noting.begin()
        try:
            yield
        finally:
            noting.end()

    async def remembered(self) -> list[str]:
        """Return the names of all entries that ever held something, configured ones first; not what only others that
        share the store have configured."""
        keeper = self._store.keeper
        records = [
            one for one in await self._store.find(self.record) if not keeper or one.owner in ("", keeper)
        ]
        return [*self.names(), *(one.id for one in records if one.id not in self.names())]

    async def left(self, name: str) -> bool:
        """Return whether an entry that is remembered is configured no longer, or means another place by now.

        Raises NotFound where nothing of that name is remembered.
        """
        await self._store.get(self.record, name)
        entry = self.entries().get(name)
        if entry is None or isinstance(entry, GridcloudError):
            return entry is None
        return await self._former(name, entry) is not None

    async def forget(self, name: str, message: str, data: dict[str, Any] | None = None) -> None:
        """Drop the copy of an entry, and tell of that: what may be left there is looked for no longer. Raises
        NotFound, and Conflict where it was changed meanwhile."""
        async with self._turns.setdefault(name, asyncio.Lock()):
            record = await self._store.get(self.record, name)
            await self._store.delete(record, [Entry("forgotten", message, data or {})])
            self._saved.pop(name, None)
            driver = self._drivers.pop(f"{name}\0former", None)
            if driver is not None:
                self._retired.append(driver)

    async def check_place(self, name: str, entry: ProviderSettings) -> None:
        """Raise InvalidSettings where an entry means another place than before, and something is still held there."""
        former = await self._former(name, entry)
        if former is None:
            return
        remedy = "Give the new place a name of its own, or wait until all that is held there has ended."
        text = f"The entry {name} means another place than before, where "
        known = await self.known()
        mine = sum(one == name for one in known.values())
        try:
            if not mine:
                await self.sweep(former)
            # Another entry may mean the place that this one left: what is of that one keeps nobody waiting.
            held = [one for one in await former.holdings() if known.get(self.subject(one), name) == name]
        except GridcloudError as error:
            raise InvalidSettings(f"{text}it cannot be seen what is held: {error}", remedy=remedy) from error
        if count := max(len(held), mine):
            raise InvalidSettings(
                f"{text}{count} {'thing is' if count == 1 else 'things are'} held.", remedy=remedy
            )

    async def close(self) -> None:
        """Close all drivers."""
        drivers, self._drivers = [*self._drivers.values(), *self._retired], {}
        self._retired = []
        await asyncio.gather(*(driver.close() for driver in drivers), return_exceptions=True)

    async def _former(self, name: str, entry: ProviderSettings) -> D | None:
        """Return the driver of the place that an entry meant when it was last used; None where it is the same."""
        try:
            body = await self._copy(name)
        except NotFound:
            return None
        now = entry.model_dump(mode="json")
        if all(body.get(field, now[field]) == now[field] for field in ("driver", *entry.place)):
            return None
        return await self._remembered_driver(name)

    async def _copy(self, name: str) -> Mapping[str, Any]:
        """Return the stored copy of an entry, read once where nobody else writes the store. Raises NotFound."""
        if name not in self._saved or self._store.shared:
            self._saved[name] = (await self._store.get(self.record, name)).body
        return self._saved[name]

    async def _remembered_driver(self, name: str) -> D:
        body = dict(await self._copy(name))
        kind = plugins.load(self.kind, str(body["driver"]))
        try:
            entry = kind.Settings.model_validate(body)
        except ValidationError as error:
            self._saved.pop(name, None)  # somebody may mend it in the store
            raise InvalidSettings(
                f"The entry {name}, as it was when it was last used, cannot be read: {error}",
                remedy="Write it into the configuration again, for the place that it meant.",
            ) from error
        return self._driver(name, entry, former=True)

    def renew(self) -> None:
        """Have every driver made anew at its next use: what it was given has changed."""
        self._retired += self._drivers.values()
        self._drivers.clear()

    def _driver(self, name: str, entry: ProviderSettings, former: bool = False) -> D:
        key = f"{name}\0former" if former else name
        driver = self._drivers.get(key)
        if driver is not None and driver.settings == entry:
            return driver
        if driver is not None:
            self._retired.append(driver)
        folder = self._folder / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # whatever it was before: secrets lie there
        self._drivers[key] = self.make(plugins.load(self.kind, entry.driver), name, entry, folder)
        return self._drivers[key]
