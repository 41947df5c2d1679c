"""The borrower's desk: leases taken of other institutions, each for one instance of ours.

What follows from a status, the time or the end is said by `federation.borrowing`; here it is stored, then said and
done. While a lease may be used, a Unix socket leads to its machine, through a stream to its lender; it is cut when the
lease may be used no longer, whatever else happens. A lease is named after its instance: a crash makes no second.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from gridcloud.clock import Clock
from gridcloud.connections.driver import Forward
from gridcloud.connections.model import Socket, SSHAddress
from gridcloud.connections.relay import Reader, Writer, relay
from gridcloud.errors import Conflict, GridcloudError, InvalidRequest, NoCapacity, Transient
from gridcloud.federation import borrowing
from gridcloud.federation.borrowing import LIVE, Borrowed, BorrowedState
from gridcloud.federation.encoding import Json, milliseconds
from gridcloud.federation.leases import (
    Accept,
    Message,
    Reason,
    Status,
    Terms,
    read_message,
    write_message,
)
from gridcloud.grid.asking import Enquiries
from gridcloud.grid.borrowed import Borrowing, Borrowings
from gridcloud.grid.handover import STREAM, principal_of
from gridcloud.grid.neighbours import Neighbours
from gridcloud.identity.public_keys import read_public_key
from gridcloud.instances import peers
from gridcloud.instances.model import Finding, Phase, Request, Spec
from gridcloud.instances.peers import BorrowedMachine, Looked, PeerOffer
from gridcloud.store import Store

__all__ = ["BorrowingDesk"]

log = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks at all leases."""
ANSWER = 10.0
"""Seconds for a lender to answer."""
LONGEST_PAUSE = 10.0
"""Seconds between two times that something is said again, at most."""
CERTAIN = 15.0
"""Seconds for which a lease that is given back is waited for to be free at its lender."""
PRUNE = 86400.0
"""Seconds between two looks for leases that ended long ago."""
BLOCK = 256 << 10

State = BorrowedState


class BorrowingDesk:
    """Leases taken; it is `instances.peers.Peers`. Have `answer` called with statuses, and `start` it."""

    def __init__(
        self,
        neighbours: Neighbours,
        store: Store,
        clock: Clock,
        enquiries: Enquiries,
        terms: Callable[[], Terms],
        folder: Path,
        user_authority: Callable[[], str],
        *,
        look: float = LOOK,
    ) -> None:
        """``folder`` (0700, a short path) holds the sockets; ``user_authority`` returns the public key of who signs
        the certificates that open machines."""
        self._neighbours = neighbours
        self._clock = clock
        self._enquiries = enquiries
        self._terms = terms
        self._folder = folder
        self._authority = user_authority
        self._every = look
        self._taken = Borrowings(store)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._needs: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._doors: dict[str, Forward] = {}
        self._closing: set[asyncio.Future[None]] = set()
        self._said: dict[str, float] = {}
        self._saying: dict[str, asyncio.Task[None]] = {}
        self._changed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._due: list[Callable[[Borrowing], Awaitable[None]]] = []
        self._loop: asyncio.Task[None] | None = None
        self._pruned = 0.0

    async def load(self) -> None:
        """Take up every lease that is stored: before anybody asks what there is."""
        await self._taken.load()
        await self._prune()
        for one in self._taken.live():
            await self._see_to_door(one)

    async def start(self) -> None:
        """Look after the leases from now on."""
        self._loop = asyncio.create_task(self._run(), name="borrowing")

    async def close(self) -> None:
        """Cut all connections; leases live on until their time is over. May be called twice."""
        tasks = [task for task in (self._loop, *self._saying.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        doors, self._doors = list(self._doors.values()), {}
        await asyncio.gather(*(door.close() for door in doors), *self._closing, return_exceptions=True)

    def leases(self) -> list[Borrowing]:
        """Return the leases that are not over."""
        return self._taken.live()

    async def find(self, lease: str) -> Borrowed | None:
        """Return a lease by its id, over or not."""
        found = await self._taken.find(lease)
        return found.lease if found is not None else None

    def usable(self, one: Borrowing) -> bool:
        """Whether a lease may be used at this moment."""
        return borrowing.usable(one.lease, self._now(), self._terms())

    def see_to(self, due: Callable[[Borrowing], Awaitable[None]]) -> None:
        """Have `due` called with each lease that may be used, at every look, to do what is due on its instance."""
        self._due.append(due)

    # What the driver asks --------------------------------------------------------------------------------------

    async def offers(self, terms: peers.Terms, request: Request, owner: str) -> Sequence[PeerOffer]:
        """See `instances.peers.Peers`."""
        return await self._enquiries.offers(terms, request, owner)

    async def check(self, terms: peers.Terms) -> Sequence[Finding]:
        """See `instances.peers.Peers`."""
        return await self._enquiries.check(terms)

    async def accept(self, terms: peers.Terms, spec: Spec, looked: Looked) -> str:
        """Borrow a machine for an instance; see `instances.peers.Peers`."""
        institution = looked.institution
        async with self._needs.setdefault(spec.id, asyncio.Lock()):
            for one in self._taken.of(spec.id):
                if one.lease.state in LIVE:
                    if one.lease.lender != institution:
                        raise Conflict(f"{spec.id} has a machine of another institution still.")
                    return one.lease.id
            wish = await self._enquiries.wish(terms, spec.request, spec.owner, spec.id)
            offer = await self._enquiries.offer(wish, looked)
            former = await self._taken.former(spec.id)
            message = Accept(lease=f"{spec.id}-{len(former)}", wish=wish, offer=offer)
            step = borrowing.accept(institution, message, [one.lease for one in self._taken.live()])
            assert step.lease is not None  # noqa: S101 - a new lease is never nothing
            taken = Borrowing(lease=step.lease, provider=terms.provider, owner=spec.owner)
            await self._taken.put(taken)
            await self._say(taken.lease.id, institution, step.say)
            now = await self._taken.find(taken.lease.id)
            if now is not None and now.lease.state is State.OVER:
                self._enquiries.forget(institution, wish, offer)
                why = now.lease.why or str(now.lease.reason)
                raise NoCapacity(f"{self._enquiries.name_of(institution)}: {why}")
            return taken.lease.id

    async def machines(self, provider: str) -> Sequence[BorrowedMachine]:
        """Return what an entry borrowed; see `instances.peers.Peers`."""
        return [
            self._machine(one)
            for one in self._taken.live()
            if one.provider == provider and one.lease.state in LIVE
        ]

    async def fate(self, instance_id: str) -> str:
        """Return what became of the last lease for an instance."""
        former = await self._taken.former(instance_id)
        if not former:
            return "it was never borrowed"
        lease = former[-1].lease
        name = self._enquiries.name_of(lease.lender)
        return f"{name}: {_ENDINGS.get(lease.reason, str(lease.reason) or 'given back')}" + (
            f" ({lease.why})" if lease.why else ""
        )

    async def leave(self, instance_id: str) -> None:
        """Give back what was borrowed for an instance; see `instances.peers.Peers`."""
        async with self._needs.setdefault(instance_id, asyncio.Lock()):
            for one in self._taken.of(instance_id):
                async with self._lock(one.lease.id):
                    known = self._taken.get(one.lease.id)
                    if known is not None and known.lease.state in LIVE:
                        await self._take(known, borrowing.leave(known.lease, self._now(), self._terms()))
            await asyncio.gather(*(self._see_off(one.lease.id) for one in self._taken.of(instance_id)))

    async def _see_off(self, lease: str) -> None:
        """Say the end of a lease until its lender says that nothing is left; not for long, for it ends by itself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CERTAIN):
                while (one := self._taken.get(lease)) is not None:
                    self._changed[lease].clear()
                    if not await self._say(lease, one.lease.lender, (one.lease.end(),)):
                        return  # it does not answer: its time runs out there as well
                    if self._taken.get(lease) is not None:
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(self._every):
                                await self._changed[lease].wait()

    # Messages --------------------------------------------------------------------------------------------------

    async def answer(self, sender: str, kind: str, body: Json) -> tuple[str, Json] | None:
        """Take a status of a member; see `doorway.MessageHandler`."""
        message = read_message(kind, body)
        if not isinstance(message, Status):
            raise InvalidRequest(f"a borrower is told no {kind}")
        replies = await self._hear(sender, message)
        return write_message(replies[0]) if replies else None

    async def _hear(self, lender: str, status: Status) -> tuple[Message, ...]:
        """Take a status; return what is to be said to it."""
        async with self._lock(status.lease):
            known = await self._taken.find(status.lease)
            lease = known.lease if known is not None else None
            step = borrowing.hear(lease, lender, status, self._now(), self._terms())
            if known is not None and step.lease is not None:
                await self._take(known, step)
            return step.say

    async def _say(self, lease: str, lender: str, messages: Iterable[Message]) -> bool:
        """Say something to a lender and hear its answer; return whether it answered."""
        waiting = list(messages)
        while waiting:
            message = waiting.pop(0)
            try:
                kind, body = await self._neighbours.caller.ask(
                    lender, *write_message(message), timeout=ANSWER
                )
                if kind == Status.kind:
                    status = read_message(kind, body)
                    assert isinstance(status, Status)  # noqa: S101 - by its kind
                    if status.lease == lease:
                        waiting += await self._hear(lender, status)
            except Transient as error:
                log.info("lease %s: %s does not answer: %s", lease, lender, error)
                return False
            except GridcloudError as error:
                log.warning("lease %s: %s: %s", lease, lender, error)
                return False
        return True

    # Time ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            for one in self._taken.live():
                try:
                    await self._look(one.lease.id)
                except GridcloudError as error:
                    log.warning("lease %s: %s", one.lease.id, error)
                except Exception:  # a fault of ours at one lease must not leave the others to nobody
                    log.exception("lease %s failed", one.lease.id)
            if self._clock.monotonic() - self._pruned >= PRUNE:
                await self._prune()
            self._taken.kept.clear()
            if self._taken.live():
                await self._clock.sleep(self._every)
            else:  # most services borrow nothing most of the time
                await self._taken.kept.wait()

    async def _prune(self) -> None:
        self._pruned = self._clock.monotonic()
        try:
            if count := await self._taken.prune(self._clock.now()):
                log.info("%d leases that ended long ago are forgotten", count)
        except GridcloudError as error:
            log.warning("leases that ended long ago: %s", error)

    async def _look(self, lease: str) -> None:
        """Do what the time asks for; say again what was not heard, now and then."""
        async with self._lock(lease):
            one = self._taken.get(lease)
            if one is None:
                return
            held = one.lease.state in (State.HELD, State.WARNED)
            now = self._clock.monotonic()
            due = lease not in self._said or now - self._said[lease] >= self._pause(one.lease)
            busy = (task := self._saying.get(lease)) is not None and not task.done()
            if (held and not self.usable(one)) or (due and not busy):
                self._said[lease] = now
                step = borrowing.look(one.lease, self._now(), self._terms())
                one = await self._take(one, step)
                if step.say:
                    work = self._say_quietly(lease, one.lease.lender, step.say)
                    self._saying[lease] = asyncio.create_task(work, name=f"lease {lease}")
            await self._see_to_door(one)
        if self.usable(one):
            for see_to in self._due:
                await see_to(one)

    async def _say_quietly(self, lease: str, lender: str, messages: tuple[Message, ...]) -> None:
        try:
            await self._say(lease, lender, messages)
        except Exception:  # a fault of ours at one lease: it is looked at again
            log.exception("lease %s failed", lease)

    @staticmethod
    def _pause(lease: Borrowed) -> float:
        return min(LONGEST_PAUSE, lease.accept.offer.ttl / 20_000)

    async def _take(self, known: Borrowing, step: borrowing.Step) -> Borrowing:
        """Store what became of a lease, and open or cut what leads to it."""
        if step.lease is None:
            return known
        one = known.model_copy(update={"lease": step.lease})
        if one != known:
            await self._taken.put(one)
            self._changed[one.lease.id].set()
        await self._see_to_door(one)
        if one.lease.state is State.OVER:
            for table in (self._said, self._saying, self._changed):
                table.pop(one.lease.id, None)
        return one

    # The way to a machine ----------------------------------------------------------------------------------------

    async def _see_to_door(self, one: Borrowing) -> None:
        lease = one.lease.id
        if self.usable(one):
            if lease not in self._doors:
                lender = one.lease.lender
                self._doors[lease] = await relay(
                    Socket(path=str(self._socket(lease))), lambda: self._dial(lender, lease)
                )
        elif (door := self._doors.pop(lease, None)) is not None:
            # Whoever waits for it may be called off: what is half closed would be left.
            closing = asyncio.ensure_future(door.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            await asyncio.shield(closing)

    async def _dial(self, lender: str, lease: str) -> tuple[Reader, Writer]:
        link = await self._neighbours.caller.open_stream(lender, STREAM, lease)
        try:
            reader, writer = await asyncio.open_unix_connection(sock=link, limit=BLOCK)
        except BaseException:
            link.close()
            raise
        writer.write(f"{' '.join(self._authority().split()[:2])}\n".encode())
        return reader, writer

    def _socket(self, lease: str) -> Path:
        place = f"{self._folder}\0{lease}".encode()
        return self._folder / f"{hashlib.sha256(place).hexdigest()[:12]}.sock"

    def _machine(self, one: Borrowing) -> BorrowedMachine:
        lease, name = one.lease, self._enquiries.name_of(one.lease.lender)
        phase, address, detail = Phase.PENDING, None, f"{name} starts it"
        if lease.state is State.ACCEPTING:
            detail = f"{name} has not answered yet"
        elif lease.state is State.WARNED:
            detail = f"{name} takes it back: {lease.why}"
        if self.usable(one) and lease.id in self._doors:
            phase, address = Phase.RUNNING, self._address(one, name)
            if address is None:
                phase, detail = Phase.FAILED, f"{name} tells no host key of it"
            elif lease.state is State.HELD:
                detail = f"lent by {name}"
        return BorrowedMachine(lease.id, one.need, lease.lender, name, phase, address, detail)

    def _address(self, one: Borrowing, name: str) -> SSHAddress | None:
        told = one.lease.connection
        try:
            key = read_public_key(told.get("host_key", ""))
            line = " ".join(key.export_public_key().decode().split()[:2])
        except InvalidRequest:
            return None
        return SSHAddress(
            # What an institution calls itself is any text; a host's name is not.
            host=re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60] or one.lease.id,
            socket=str(self._socket(one.lease.id)),
            user=one.lease.id,
            principal=principal_of(one.lease.id),
            host_keys=(line,),
            directory=told.get("directory", ""),
            home=told.get("home", ""),
        )

    def _lock(self, lease: str) -> asyncio.Lock:
        return self._locks.setdefault(lease, asyncio.Lock())

    def _now(self) -> int:
        return milliseconds(self._clock.now())


_ENDINGS = {
    Reason.RETURNED: "it was given back",
    Reason.FINISHED: "its time was over",
    Reason.EXPIRED: "it could not be renewed in time",
    Reason.RECLAIMED: "it was taken back by its owner",
    Reason.REFUSED: "it was refused",
    Reason.CHANGED: "it was no longer to be had as it was offered",
    Reason.FAILED: "it could not be started",
    Reason.LOST: "its machine died",
    Reason.UNKNOWN: "its owner knows it no longer",
    Reason.UNANSWERED: "its owner did not answer",
}
