"""Things with a life: frozen records that move from state to state by a table, each move stored with its event."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Protocol, Self, TypeVar

from gridcloud.errors import Conflict, NotFound
from gridcloud.finishing import finish
from gridcloud.store.model import Entry, Record
from gridcloud.store.records import Store

__all__ = ["Lives", "Living", "Overtaken"]

POLL = 1.0
"""Seconds between looks at a thing that another process may change."""


class Living(Protocol):
    """A frozen pydantic record with an id, an owner, a state and a version."""

    @property
    def id(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def keeper(self) -> str: ...
    @property
    def state(self) -> StrEnum: ...
    @property
    def version(self) -> int: ...
    @property
    def created(self) -> datetime: ...
    def model_copy(self, *, update: dict[str, Any]) -> Self: ...
    def model_dump(self, *, mode: str, exclude: set[str]) -> dict[str, Any]: ...
    @classmethod
    def model_validate(cls, obj: Any) -> Self: ...


T = TypeVar("T", bound=Living)


class Lives(Generic[T]):
    """All things of one kind in a store. Live ones are kept in memory where nobody else writes to the store.

    What is kept is never older than an event that was told: whoever hears of a change and asks sees it.
    """

    def __init__(
        self,
        store: Store,
        kind: str,
        model: type[T],
        step: Callable[[Any, Any], StrEnum | None],
        final: Collection[StrEnum],
    ) -> None:
        self.store = store
        self.kind = kind
        self._model = model
        self._step = step
        self._final = frozenset(final)
        self._known: dict[str, T] = {}
        # Held while a thing is written, for its event is told by the store before the writer goes on here.
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._waiting: dict[str, list[asyncio.Event]] = {}
        self._listeners: list[Callable[[T], None]] = []
        self._written: dict[str, int] = {}
        """Which version of each live thing of ours was written here last, where others write, too."""

    def listen(self, told: Callable[[T], None]) -> None:
        """Have every thing told that is stored or changed here, before whoever stores it goes on."""
        self._listeners.append(told)

    async def insert(self, thing: T, type: str, message: str, data: dict[str, Any] | None = None) -> T:
        """Store a new thing with its first event: ours to look after. Raises Conflict when there is one of its id."""
        if self.store.keeper:
            thing = thing.model_copy(update={"keeper": self.store.keeper})
        entry = Entry(type, message, data or {})
        writing = self.store.insert(self.kind, thing.id, thing.owner, thing.state, self._body(thing), [entry])
        return await finish(self._write(thing.id, writing, self._thing))

    async def get(self, id: str) -> T:
        """Return one. Raises NotFound."""
        known = self._known.get(id)
        if known is not None and id not in self._locks:
            return known
        async with self._lock(id):
            if known := self._known.get(id):
                return known
            try:
                return self._keep(self._thing(await self.store.get(self.kind, id)))
            except NotFound:
                remedy = f"See 'gridcloud {self.kind} list --all'."
                raise NotFound(f"There is no {self.kind} {id!r}.", remedy=remedy) from None

    async def find(
        self, *, owner: str | None = None, states: Iterable[StrEnum] | None = None, prefix: str = ""
    ) -> list[T]:
        """Return those of an owner, in some states, whose ids begin with ``prefix``; oldest first."""
        wanted = None if states is None else [str(state) for state in states]
        found = await self.store.find(self.kind, owner=owner, states=wanted, prefix=prefix)
        return [self._thing(record) for record in found]

    async def live(self, owner: str | None = None) -> list[T]:
        """Return all that have not ended, of one owner or of all."""
        known: type[StrEnum] = type(next(iter(self._final)))
        return await self.find(owner=owner, states=[state for state in known if state not in self._final])

    def keeps(self, thing: T) -> bool:
        """Tell whether a thing is ours to look after, and not another's that shares the store."""
        return thing.keeper in ("", self.store.keeper) or not self.store.keeper

    async def take_up(self) -> list[T]:
        """Return all that have not ended and are ours to look after. What is nobody's becomes ours."""
        ours = []
        for thing in await self.live():
            if self.store.keeper and not thing.keeper:
                with contextlib.suppress(Conflict):  # another was quicker
                    ours.append(await self.save(thing, "", "", keeper=self.store.keeper))
            elif self.keeps(thing):
                ours.append(thing)
        return ours

    async def heeded(self, states: Iterable[StrEnum]) -> list[T]:
        """Return those of ours that others who share the store have brought into one of these states, each once."""
        found = []
        for thing in await self.find(states=states):
            if self.keeps(thing) and thing.version > self._written.get(thing.id, 0):
                self._written[thing.id] = thing.version
                found.append(thing)
        return found

    def check_ours(self, thing: T) -> None:
        """Raise Conflict for a thing that another looks after: only there is what it takes to reach it."""
        if not self.keeps(thing):
            raise Conflict(
                f"The {self.kind} {thing.id} is looked after by the service {thing.keeper}, not by this one.",
                remedy=f"Ask {thing.keeper}.",
            )

    async def follow(self, id: str) -> AsyncIterator[T]:
        """Yield it as it is, then as it is after each change (some may be skipped), until it has ended."""
        seen = 0
        changed = asyncio.Event()
        waiting = self._waiting.setdefault(id, [])
        waiting.append(changed)
        try:
            while True:
                changed.clear()
                thing = await self.get(id)
                if thing.version > seen:
                    seen = thing.version
                    yield thing
                    if thing.state in self._final:
                        return
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL if self.store.shared else None):
                        await changed.wait()
        finally:
            waiting.remove(changed)
            if not waiting and self._waiting.get(id) is waiting:
                del self._waiting[id]

    async def save(
        self, thing: T, type: str, message: str, data: dict[str, Any] | None = None, **changes: Any
    ) -> T:
        """Store changed fields and one event (none when ``type`` is empty), if nobody changed it since it was read.

        Raises Conflict otherwise.
        """
        changed = thing.model_copy(update=changes)
        record = Record(
            self.kind, thing.id, changed.owner, thing.state, {}, thing.version, thing.created, thing.created
        )
        events = [Entry(type, message, data or {})] if type else []
        writing = self.store.update(
            record, owner=changed.owner, state=changed.state, body=self._body(changed), events=events
        )
        return await finish(
            self._write(
                thing.id, writing, lambda stored: changed.model_copy(update={"version": stored.version})
            )
        )

    async def happen(
        self, thing: T, event: StrEnum, message: str, data: dict[str, Any] | None = None, **changes: Any
    ) -> T | None:
        """Apply a lifecycle event and store it; return None when it came too late to mean anything.

        Somebody else may change the thing meanwhile: it is read again and the event applied to what it then is, as
        long as its state is still the one the event was meant for.
        """
        meant = thing.state
        while True:
            after = self._step(thing.state, event)
            if after is None or thing.state is not meant:
                return None
            try:
                return await self.save(thing, str(after), message, data, state=after, **changes)
            except Conflict:
                thing = await self.get(thing.id)

    async def tell(self, thing: T, type: str, message: str, data: dict[str, Any] | None = None) -> None:
        """Append an event that changes nothing."""
        await self.store.append(self.kind, thing.id, thing.owner, [Entry(type, message, data or {})])

    async def _write(self, id: str, writing: Coroutine[Any, Any, Record], thing: Callable[[Record], T]) -> T:
        """Write, keep and tell. To be waited for to its end: a write stands although its writer was cancelled, and
        those who follow the thing would never hear of it."""
        async with self._lock(id):
            try:
                record = await writing
            except BaseException:  # a conflict, or a write that may stand
                self._known.pop(id, None)
                raise
            return self._wake(self._keep(thing(record)))

    def _lock(self, id: str) -> asyncio.Lock:
        return self._locks.setdefault(id, asyncio.Lock())

    def _keep(self, thing: T) -> T:
        known = self._known.get(thing.id)
        if known is not None and known.version > thing.version:
            return known
        if thing.state in self._final:
            self._written.pop(thing.id, None)
        if thing.state in self._final or self.store.shared:
            self._known.pop(thing.id, None)
        else:
            self._known[thing.id] = thing
        return thing

    def _wake(self, thing: T) -> T:
        """Tell those who follow a thing, and those who follow all, that it was changed here."""
        if self.store.keeper and self.keeps(thing) and thing.state not in self._final:
            self._written[thing.id] = thing.version
        for told in self._listeners:
            told(thing)
        for changed in self._waiting.get(thing.id, ()):
            changed.set()
        return thing

    @staticmethod
    def _body(thing: T) -> dict[str, Any]:
        return thing.model_dump(mode="json", exclude={"version"})

    def _thing(self, record: Record) -> T:
        known = self._known.get(record.id)
        if known is not None and known.version == record.version:
            return known  # reading thousands anew takes seconds
        return self._model.model_validate({**record.body, "version": record.version})


class Overtaken:
    """Tells who works at a thing, as they read it, that a verb has changed it since.

    What the verb made of it may be read before the verb's caller goes on: who began with that is not overtaken.
    """

    def __init__(self) -> None:
        self._version = 0
        self._told = asyncio.Event()

    def by(self, version: int) -> None:
        """Note the version that a verb has written."""
        self._version = max(self._version, version)
        self._told.set()

    async def wait(self, version: int) -> None:
        """Return when a verb has written a newer one than this."""
        while self._version <= version:
            self._told.clear()
            await self._told.wait()
