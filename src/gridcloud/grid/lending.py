"""The lender's desk: leases given to other institutions, each an ordinary instance of one of our own providers.

What follows from a message, an event or the time is said by `federation.lending`; here it is stored, then done. What is
to be done is asked of every lease again after a restart, and everything is idempotent by the lease: its instance's id
is made from it. Our own users come first: see `LendingDesk.make_room`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any
from weakref import WeakValueDictionary

from gridcloud.clock import Clock
from gridcloud.errors import (
    Conflict,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NotFound,
    QuotaExceeded,
    Throttled,
    Transient,
)
from gridcloud.federation import lending
from gridcloud.federation.encoding import Json, milliseconds, moment
from gridcloud.federation.leases import (
    Accept,
    Ask,
    End,
    Heard,
    LentState,
    Offers,
    Renew,
    Status,
    Terms,
    read_message,
    write_message,
)
from gridcloud.federation.lending import Lent, Order
from gridcloud.federation.wishes import NOTHING
from gridcloud.grid.accounts import Accounts
from gridcloud.grid.judging import Bench, Verdict
from gridcloud.grid.loans import Key, Loan, Loans
from gridcloud.grid.neighbours import Neighbours
from gridcloud.grid.wishes import capacity_of, request_of
from gridcloud.instances.model import FINAL, Instance, State
from gridcloud.instances.model import Reason as Ending
from gridcloud.instances.runner import Runner
from gridcloud.store import Store

__all__ = ["LendingDesk"]

log = logging.getLogger(__name__)

LOOK = 2.0
"""Seconds between two looks at all leases."""
PLACING = 5.0
"""Seconds for which a new acceptance waits for machines that were just accepted to take their room."""
REMEMBERED = 1000
"""Leases of one borrower that are remembered at a time, refused ones too."""
ASKED = 32
"""Questions and acceptances of one borrower that are judged at a time: each asks our providers. Ours says 8 at most."""
SPARE = 60
"""Seconds at least that a machine lives on by itself where nobody renews it any more."""
TELL = 15.0
"""Seconds for a borrower to take a status."""
UNPLACED = (State.REQUESTED, State.CREATING, State.DISCARDING)

UNJUDGED = Verdict()
HeldStates = (LentState.HELD, LentState.WARNED)


class LendingDesk:
    """Leases given. Make it, have `answer` called with messages, `start` it; `close` leaves all as it is."""

    def __init__(
        self,
        neighbours: Neighbours,
        store: Store,
        runner: Runner,
        clock: Clock,
        bench: Bench,
        accounts: Accounts,
        terms: Callable[[], Terms],
        host_key: Callable[[], str],
        *,
        look: float = LOOK,
    ) -> None:
        """``bench`` judges wishes, ``terms`` are as configured now, ``host_key`` is the public line to be told."""
        self._neighbours = neighbours
        self._store = store
        self._runner = runner
        self._clock = clock
        self._bench = bench
        self._accounts = accounts
        self._terms = terms
        self._host_key = host_key
        self._every = look
        self._loans = Loans(store)
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        self._accepting = asyncio.Lock()
        self._asked: Counter[str] = Counter()
        self._carrying: dict[Key, asyncio.Task[None]] = {}
        self._again: set[Key] = set()
        self._telling: set[asyncio.Task[None]] = set()
        self._ended_listeners: list[Callable[[Key], None]] = []
        self._loop: asyncio.Task[None] | None = None
        self._drained = ""
        runner.records.listen(self._note)

    async def start(self) -> None:
        """Look at every lease that is stored, and go on with it."""
        await self._loans.load()
        self._drained = await self._store.meta("lending.drained") or ""
        self._loop = asyncio.create_task(self._run(), name="lending")

    async def close(self) -> None:
        """Let go of everything; leases live on. May be called twice."""
        tasks = [task for task in (self._loop, *self._carrying.values(), *self._telling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._carrying.clear()

    # What people see and do ------------------------------------------------------------------------------------

    def loans(self) -> list[Loan]:
        """Return the leases that are remembered."""
        return self._loans.all()

    def held(self, borrower: str, lease: str) -> Loan | None:
        """Return a lease while its borrower may use it."""
        loan = self._loans.get((borrower, lease))
        if loan is None or loan.lent.state not in HeldStates or self._now() >= loan.lent.expires:
            return None
        return loan

    def when_ended(self, told: Callable[[Key], None]) -> None:
        """Have `told` called with each lease that may no longer be used, at once."""
        self._ended_listeners.append(told)

    @property
    def drained(self) -> str:
        """Why nothing new is lent, as `drain` was told; empty: something may be."""
        return self._drained

    async def reclaim(self, borrower: str, lease: str, why: str, seconds: float | None = None) -> Loan:
        """Warn a borrower that its machine ends in so many seconds; the configured grace where none are given.

        Raises NotFound for a lease that does not run.
        """
        key = borrower, lease
        async with self._lock(key):
            loan = self._loans.get(key)
            if loan is None or loan.lent.state not in (LentState.STARTING, *HeldStates):
                raise NotFound(f"No lease {lease!r:.80} of {borrower} runs here.")
            grace = self._terms().grace if seconds is None else round(1000 * seconds)
            now = self._now()
            step = lending.happen(
                loan.lent, lending.Event.RECLAIM, now, deadline=now + grace, why=why or "it is needed here"
            )
            return await self._take(loan, step) or loan

    async def drain(self, why: str, seconds: float | None = None) -> list[Loan]:
        """Lend nothing new until `resume`, and take back what is lent; return what is being taken back."""
        self._drained = why or "maintenance"
        await self._store.set_meta("lending.drained", self._drained)
        taken = []
        for loan in self._loans.all():
            with contextlib.suppress(NotFound):
                taken.append(await self.reclaim(*loan.key, self._drained, seconds))
        return taken

    async def resume(self) -> None:
        """Lend again."""
        self._drained = ""
        await self._store.set_meta("lending.drained", "")

    # Messages --------------------------------------------------------------------------------------------------

    async def answer(self, sender: str, kind: str, body: Json) -> tuple[str, Json] | None:
        """Take a message of a member about a lease of ours; see `doorway.MessageHandler`."""
        message = read_message(kind, body)
        match message:
            case Ask():
                with self._counted(sender):
                    offers = await self._bench.offer(sender, message.wish, self._loans.all(), self._drained)
                return write_message(offers)
            case Accept():
                status = await self._accept(sender, message)
            case Renew() | Heard() | End():
                status = await self._hear(sender, message)
            case Offers() | Status():
                raise InvalidRequest(f"a lender is told no {kind}")
        return write_message(status) if status is not None else None

    async def _accept(self, sender: str, message: Accept) -> Status | None:
        key = sender, message.lease
        if self._loans.get(key) is not None or self._now() > message.offer.before:
            return await self._hear(sender, message)
        # Two that are judged at once would both have the last room.
        with self._counted(sender):
            return await self._accept_new(sender, message)

    async def _accept_new(self, sender: str, message: Accept) -> Status | None:
        async with self._accepting:
            await self._until_placed()
            verdict = await self._bench.judge(
                sender, message.wish, message.offer, self._loans.all(), self._drained
            )
            return await self._hear(sender, message, verdict)

    async def _hear(
        self,
        sender: str,
        message: Accept | Renew | Heard | End,
        verdict: Verdict = UNJUDGED,
    ) -> Status | None:
        key = sender, message.lease
        async with self._lock(key):
            loan = self._loans.get(key)
            lent = loan.lent if loan is not None else None
            said = verdict.instead or verdict.why
            step = lending.answer(lent, sender, message, self._now(), self._terms(), lambda _: said)
            if loan is None and step.lease is not None:
                if Counter(one.lent.borrower for one in self._loans.all())[sender] >= REMEMBERED:
                    raise Throttled(f"{REMEMBERED} leases of {sender} are remembered here: too many")
                await self._loans.put(Loan(lent=step.lease, machines=verdict.machines))
            elif loan is not None and step.lease is not None and step.lease != lent:
                await self._store_step(loan, step.lease)
        if step.do:
            self._wake(key)
        return step.say[0] if step.say else None

    @contextlib.contextmanager
    def _counted(self, sender: str) -> Iterator[None]:
        """Bound what is judged for one borrower at a time, so that others have their turn."""
        if self._asked[sender] >= ASKED:
            raise Throttled(
                f"{ASKED} wishes of {sender} are judged here already.", remedy="Say it again later."
            )
        self._asked[sender] += 1
        try:
            yield
        finally:
            self._asked[sender] -= 1
            self._asked += Counter()  # what is zero goes

    async def _until_placed(self) -> None:
        """Wait until what was accepted before has taken its room at a provider, or could not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PLACING):
                for loan in self._loans.all():
                    if loan.lent.state is not LentState.STARTING:
                        continue
                    if (task := self._carrying.get(loan.key)) is not None:
                        await asyncio.wait({task})
                    instance = await self._instance(loan)
                    if instance is not None and instance.state in UNPLACED:
                        async for now in self._runner.records.follow(instance.id):
                            if now.state not in UNPLACED:
                                break

    # Time and what happens ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            for loan in self._loans.all():
                self._wake(loan.key)
            self._loans.kept.clear()
            if self._loans.all():
                await self._clock.sleep(self._every)
            else:  # most services lend nothing most of the time
                await self._loans.kept.wait()

    def _note(self, instance: Instance) -> None:
        """Hear of a change of an instance: one of a lease, or of one of our own that found no room."""
        if self._loop is None or self._loop.done():  # not yet, or no longer, at work: all is looked at again
            return
        if (key := self._loans.of_instance(instance.id)) is not None:
            self._wake(key)
        elif instance.state is State.FAILED and instance.reason is Ending.NO_OFFER:
            self._spawn(self.make_room(instance), "make room")

    def _wake(self, key: Key) -> None:
        """Have a lease looked at now."""
        if self._loop is None or self._loop.done():
            return
        task = self._carrying.get(key)
        if task is None or task.done():
            self._carrying[key] = asyncio.create_task(self._carry(key), name=f"lease {key[1]}")
        else:
            self._again.add(key)

    async def _carry(self, key: Key) -> None:
        while True:
            self._again.discard(key)
            try:
                async with self._lock(key):
                    await self._look(key)
            except GridcloudError as error:
                log.warning("lease %s of %s: %s", key[1], key[0], error)
            except (
                Exception
            ):  # a fault of ours at one lease must not leave it to nobody: it is looked at again
                log.exception("lease %s of %s failed", key[1], key[0])
            if key not in self._again:
                return

    async def _look(self, key: Key) -> None:
        loan = self._loans.get(key)
        if loan is None:
            return
        step = lending.look(loan.lent, self._now(), self._terms())
        if step.lease is None:
            await self._loans.forget(key)
            self._carrying.pop(key, None)
            return
        loan = await self._take(loan, step)
        if loan is not None and loan.lent.state in HeldStates:
            await self._keep(loan)

    async def _take(self, loan: Loan, step: lending.Step) -> Loan | None:
        """Store what became of a lease, tell of it, do what follows; return it as it is then."""
        lent = step.lease
        if lent is None:
            return None
        if lent != loan.lent:
            loan = await self._store_step(loan, lent)
        for status in step.say:
            self._spawn(self._tell(loan.key, status), f"tell of {lent.id}")
        for order in step.do:
            after = await self._do(order, loan)
            if after is not None:
                return await self._take(loan, after)
            loan = self._loans.get(loan.key) or loan
        return loan

    async def _store_step(self, loan: Loan, lent: Lent) -> Loan:
        ended = loan.lent.state in HeldStates and lent.state not in HeldStates
        loan = loan.model_copy(update={"lent": lent})
        await self._loans.put(loan)
        if ended:
            for told in self._ended_listeners:
                told(loan.key)
        return loan

    async def _do(self, order: Order, loan: Loan) -> lending.Step | None:
        """Do what is to be done; return what follows from it, if anything yet."""
        now = self._now()
        if order is Order.CHARGE:
            await self._accounts.claim(loan.lent)
            return lending.happen(loan.lent, lending.Event.CHARGE, now)
        instance = await self._instance(loan)
        if order is Order.STOP:
            if instance is None or instance.state in FINAL:
                return lending.happen(loan.lent, lending.Event.CLEAR, now)
            await self._runner.stop(instance.id, Ending.ASKED, f"The lease has ended: {loan.lent.reason}.")
            return None
        return await self._begin(loan, instance)

    async def _begin(self, loan: Loan, instance: Instance | None) -> lending.Step | None:
        now = self._now()
        if instance is None:
            await self._submit(loan)
        elif instance.state is State.READY:
            return lending.happen(
                loan.lent, lending.Event.STARTED, now, connection=self._connection(loan, instance)
            )
        elif instance.state in FINAL:
            if loan.tried + 1 >= len(loan.machines):
                why = f"its machine could not be had ({instance.reason})"
                return lending.happen(loan.lent, lending.Event.FAILED, now, why=why)
            loan = loan.model_copy(update={"tried": loan.tried + 1})
            await self._loans.put(loan)
            await self._submit(loan)
        return None

    async def _submit(self, loan: Loan) -> None:
        if loan.lent.wish is None or loan.machine is None:
            return
        seconds = self._life(self._terms())
        request = request_of(loan.lent.wish, loan.machine.provider, seconds)
        name = f"lease {loan.lent.id}"
        with contextlib.suppress(Conflict):  # it was asked for before a crash
            await self._runner.submit(
                loan.guest,
                request,
                name=name,
                instance_id=loan.instance_id,
                before_end=_tidying(loan.lent.wish.need),
                only=loan.machine,
                guest=True,
            )

    async def _keep(self, loan: Loan) -> None:
        """See that the machine of a held lease is there, and that it lives on while the lease is renewed."""
        instance = await self._instance(loan)
        if instance is None or instance.state is not State.READY:
            why = "its machine has ended"
            await self._take(loan, lending.happen(loan.lent, lending.Event.LOSE, self._now(), why=why))
            return
        await self._accounts.claim(loan.lent)  # the months that are over
        spare = timedelta(seconds=self._life(self._terms())) / 2
        if instance.expires is None or instance.expires < moment(loan.lent.expires) + spare / 2:
            try:
                await self._runner.extend(instance.id, moment(loan.lent.expires) + spare)
            except (InvalidRequest, QuotaExceeded) as error:
                log.warning("lease %s of %s is not prolonged: %s", loan.lent.id, loan.lent.borrower, error)

    @staticmethod
    def _life(terms: Terms) -> int:
        """Return how many seconds a machine is made for at first: it is given more while its lease is renewed."""
        return 2 * max(SPARE, terms.ttl // 1000)

    async def _tell(self, key: Key, status: Status) -> None:
        """Tell a borrower, once; what is lost is asked for, or told again."""
        try:
            kind, body = await self._neighbours.caller.ask(key[0], *write_message(status), timeout=TELL)
            if kind in (Heard.kind, End.kind):
                await self.answer(key[0], kind, body)
        except Transient as error:
            log.info("lease %s: %s was not told: %s", key[1], key[0], error)
        except GridcloudError as error:
            log.warning("lease %s: %s was not told: %s", key[1], key[0], error)

    # Our own users come first ------------------------------------------------------------------------------------

    async def make_room(self, instance: Instance) -> list[Loan]:
        """Take back what would serve an instance of ours that found no room, of the least favoured first.

        What is on its way back already counts. Returns what is taken back.
        """
        wanted = [one.provider for one in instance.refused if one.possible and not one.available]
        try:
            providers = set(self._bench.lent(reclaiming=True)) & set(wanted)
        except InvalidSettings:
            return []
        missing = capacity_of(instance.request)
        if instance.request.on:
            providers &= {instance.request.on}
        mine = [one for one in self._loans.all() if one.machine and one.machine.provider in providers]
        for loan in mine:
            if loan.lent.state in (LentState.WARNED, LentState.ENDING):
                missing -= loan.lent.capacity
        favours = await self._accounts.favours()
        running = [one for one in mine if one.lent.state in (LentState.STARTING, LentState.HELD)]
        running.sort(key=lambda one: (favours.get(one.lent.borrower, 0.0), -one.lent.began, one.lent.id))
        taken = []
        for loan in running:
            if missing == NOTHING:
                break
            with contextlib.suppress(NotFound):
                taken.append(await self.reclaim(*loan.key, "its owner's users need it"))
                missing -= loan.lent.capacity
        if taken:
            grace = timedelta(milliseconds=self._terms().grace)
            words = f"{len(taken)} lent {'machine is' if len(taken) == 1 else 'machines are'} taken back"
            message = f"{words}: there will be room by {self._clock.now() + grace:%H:%M:%S} UTC."
            await self._runner.records.tell(instance, "reclaiming", message)
        return taken

    # Small things --------------------------------------------------------------------------------------------------

    def _connection(self, loan: Loan, instance: Instance) -> dict[str, str]:
        found = {
            "host_key": self._host_key(),
            "directory": str(getattr(instance.address, "directory", "")),
            "home": str(getattr(instance.address, "home", "")),
        }
        return {name: text for name, text in found.items() if len(text) <= 200 and text.isprintable()}

    async def _instance(self, loan: Loan) -> Instance | None:
        try:
            return await self._runner.records.get(loan.instance_id)
        except NotFound:
            return None

    def _lock(self, key: Key) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())

    def _now(self) -> int:
        return milliseconds(self._clock.now())

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        task: asyncio.Task[Any] = asyncio.create_task(_quietly(work), name=f"lending: {name}")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)


async def _quietly(work: Awaitable[Any]) -> None:
    try:
        await work
    except GridcloudError as error:
        log.warning("lending: %s", error)
    except Exception:  # a fault of ours in what is done beside must not end the desk
        log.exception("lending")


def _tidying(need: str) -> tuple[str, ...]:
    """Return the command that removes what a borrower's session left beside its machine's own folder.

    It is named after the borrower's instance (`sessions.places`), which the driver that removes such folders does not
    know; and the borrower may be gone when a lease ends.
    """
    if not re.fullmatch(r"i-[a-z0-9]{1,60}", need):
        return ()
    return ("rm", "-rf", "--", f"/tmp/gridcloud-{need}")  # noqa: S108 - see there
