"""All of lending and borrowing, put together: the desks, the accounts, and what comes in at the door for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from gridcloud.clock import Clock
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.errors import InvalidRequest
from gridcloud.federation.encoding import Json
from gridcloud.federation.leases import Status, Terms
from gridcloud.grid.accounts import Accounts
from gridcloud.grid.asking import Enquiries
from gridcloud.grid.borrowing import BorrowingDesk
from gridcloud.grid.doorway import Admission, MessageHandler, StreamHandler
from gridcloud.grid.ends import Ends
from gridcloud.grid.handover import STREAM, Handover
from gridcloud.grid.judging import Bench
from gridcloud.grid.lending import LendingDesk
from gridcloud.grid.neighbours import Neighbours
from gridcloud.grid.terms import read_terms, read_weights
from gridcloud.identity.keys import KeyFolder
from gridcloud.instances.runner import Runner
from gridcloud.settings import Settings
from gridcloud.store import Store

__all__ = ["Door", "Leasing"]


class Door(Protocol):
    """Where others come in; `doorway.Doorway` is it."""

    def handle(self, prefix: str, handler: MessageHandler) -> None:
        """Have messages of a prefix go to a handler."""

    def stream(self, name: str, handler: StreamHandler, admit: Admission | None = None) -> None:
        """Have streams of a name go to a handler, once `admit` refused none."""


class Leasing:
    """Leases given and taken. It is made before the runner of instances, which is then `attach`\\ ed."""

    lending: LendingDesk
    handover: Handover

    def __init__(
        self,
        neighbours: Neighbours,
        store: Store,
        clock: Clock,
        settings: Callable[[], Settings],
        sockets: Path,
        user_authority: Callable[[], str],
        groups: Callable[[str], Awaitable[Sequence[str]]],
        *,
        terms: Callable[[], Terms] | None = None,
        look: float = 1.0,
    ) -> None:
        """``sockets``: a private folder with a short path. ``groups`` returns those of a user. ``terms``: for tests.
        ``look``: seconds between two looks at all that is borrowed; what is lent is looked at half, books a sixtieth as
        often."""
        self._neighbours = neighbours
        self._store = store
        self._clock = clock
        self._settings = settings
        self._look = look
        self._terms = terms or (lambda: read_terms(settings().lending))
        self.accounts = Accounts(
            neighbours,
            store,
            clock,
            self._terms,
            lambda: read_weights(settings().lending),
            pause=60 * look,
        )
        enquiries = Enquiries(neighbours, clock, groups, lambda: settings().currency)
        self.name_of = enquiries.name_of
        self.borrowing = BorrowingDesk(
            neighbours, store, clock, enquiries, self._terms, sockets, user_authority, look=look
        )
        self.accounts.look_up(self.borrowing.find)

    def attach(
        self,
        runner: Runner,
        keys: Path,
        connect: Callable[[Address], Awaitable[Connection]],
        is_user: Callable[[str], Awaitable[bool]],
        door: Door,
    ) -> None:
        """Take the runner whose instances are lent, and listen at the door.

        ``keys``: a folder for the host key of leased machines. ``connect`` opens a connection of its own to an
        instance. ``is_user`` tells whether a user of ours has a name.
        """
        host_key = KeyFolder(keys).ensure("host", "gridcloud leases")
        line = " ".join(host_key.export_public_key().decode().split()[:2])
        bench = Bench(
            self._neighbours,
            runner.providers,
            runner.records,
            self._clock,
            self._settings,
            self._terms,
            self.accounts.favours,
            is_user,
        )
        self.lending = LendingDesk(
            self._neighbours,
            self._store,
            runner,
            self._clock,
            bench,
            self.accounts,
            self._terms,
            lambda: line,
            look=2 * self._look,
        )
        self.handover = Handover(self.lending, runner.records, connect, host_key)
        ends = Ends(runner, self._clock, self._terms, self.name_of, self._neighbours.members)
        self.borrowing.see_to(ends.see_to)
        door.handle("lease", self._answer)
        door.handle("ledger", self.accounts.answer)
        door.stream(STREAM, self.handover.serve, self.handover.admit)

    async def load(self) -> None:
        """Take up what was borrowed, before the runner is started: it asks what there is."""
        await self.borrowing.load()

    async def start(self) -> None:
        """Take up what is lent and the books, once the runner has been started."""
        await self.accounts.start()
        await self.borrowing.start()
        await self.lending.start()

    async def close(self) -> None:
        """Let go of everything, before the runner does; leases live on. May be called twice."""
        await self.lending.close()
        await self.borrowing.close()
        await self.accounts.close()

    async def _answer(self, sender: str, kind: str, body: Json) -> tuple[str, Json] | None:
        if not self._neighbours.initialised:
            raise InvalidRequest("nothing is lent or borrowed here")
        desk = self.borrowing if kind == Status.kind else self.lending
        return await desk.answer(sender, kind, body)
