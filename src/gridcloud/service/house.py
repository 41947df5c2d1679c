"""Everything one gridcloud is made of, put together: the owner of a store while it is open."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from weakref import WeakSet, WeakValueDictionary

from gridcloud import connections
from gridcloud.agents.listing import Listing
from gridcloud.agents.membership import trust_of
from gridcloud.agents.registry import Registry
from gridcloud.agents.switchboard import Switchboard
from gridcloud.budgets.model import People
from gridcloud.budgets.treasury import Treasury
from gridcloud.budgets.watching import Watching
from gridcloud.clock import Clock, SystemClock
from gridcloud.clusters import runner as clusters
from gridcloud.clusters.costs import account_of
from gridcloud.clusters.model import ClusterRequest
from gridcloud.clusters.providers import ClusterProviders
from gridcloud.clusters.reconciliation import ClusterReconciliation
from gridcloud.configurers.model import Facts
from gridcloud.configurers.running import check_all, run_all
from gridcloud.connections.driver import Connection
from gridcloud.connections.forkserver import ForkServer, Program
from gridcloud.connections.local import LocalConnection
from gridcloud.connections.model import Address, LocalAddress, SSHAddress
from gridcloud.connections.supervisor import Supervised
from gridcloud.data.gateway import Gateway
from gridcloud.errors import GridcloudError, InvalidRequest, NotFound, QuotaExceeded
from gridcloud.federation.records import Room
from gridcloud.grid.leasing import Leasing
from gridcloud.grid.office import Office
from gridcloud.grid.rooms import Rooms
from gridcloud.grid.terms import lending_problems
from gridcloud.identity import Secret, Tokens, User, Users, resolve
from gridcloud.identity.authority import Authority
from gridcloud.identity.ssh import SSHCredentials
from gridcloud.identity.vault import Vault
from gridcloud.instances import runner as instances
from gridcloud.instances.handing import nobody_of
from gridcloud.instances.links import Links
from gridcloud.instances.model import Folder, Instance, Request, State
from gridcloud.instances.providers import Providers
from gridcloud.instances.reconciliation import Difference, Reconciliation
from gridcloud.jobs import runner as jobs
from gridcloud.jobs.machines import SchedulerMachines, used_by_jobs
from gridcloud.jobs.schedulers import Schedulers
from gridcloud.profiles.folders import folders_of
from gridcloud.service.configuration_desk import ConfigurationDesk
from gridcloud.service.keeper import keeper_of
from gridcloud.service.metrics import Metrics
from gridcloud.sessions import runner as sessions
from gridcloud.sessions.seats import Seats
from gridcloud.settings import Settings, SettingsFile, short_folder
from gridcloud.stacks import runner as stacks
from gridcloud.store import Store, open_store

__all__ = ["House"]

log = logging.getLogger(__name__)

LONGEST = 100 * 365 * 24 * 3600
"""Seconds that an instance may live where the configuration sets no limit: what a date can still hold."""

THREADS = 64
"""Blocking calls at the same time."""

HEED = 2.0
"""Seconds between looks for what others who share the store have stopped of ours."""

RECONCILE = 300.0
"""Seconds between looks for what nothing accounts for."""


class House:
    """One open gridcloud. Make it with `House.open`."""

    asked_store: tuple[float, str, float] = float("-inf"), "", 0.0
    """When the store was asked last whether it answers, what was wrong, and the seconds that it took."""

    def __init__(
        self,
        settings_file: SettingsFile,
        data: Path,
        store: Store,
        authority: Authority,
        clock: Clock,
        fork_server: ForkServer | None = None,
    ) -> None:
        self.settings_file = settings_file
        self.data = data
        self.store = store
        self.authority = authority
        self.credentials = SSHCredentials(authority)
        self.tokens = Tokens(store, clock)
        self.users = Users(store)
        self.clock = clock
        self.administrator = getpass.getuser()
        self.scratch = data / "scratch"
        settings = self.settings()
        self.links = Links(self._connect_for_long)
        self.agents = Registry(store, clock, lambda: trust_of(authority))
        self.switchboard = Switchboard(short_folder(data, "agents"), self.agents, self.credentials, clock)
        self.office = Office(lambda: self.settings().grid, data / "grid", store, clock, self._rooms)
        self.leasing = self._lend_and_borrow()
        self.providers = self._find_providers(settings)
        self.treasury = Treasury(store, clock, self.settings, self._people)
        self.instances = instances.Runner(
            store,
            self.providers,
            self.links,
            clock,
            self._configure,
            _timing(settings),
            judge=self.treasury.judge,
            currency=lambda: self.settings().currency,
            judge_longer=self.treasury.forbids_until,
        )
        self.instances.records.listen(self.treasury.note)
        self.leasing.attach(
            self.instances, data / "grid" / "leases", self._connect, self._is_user, self.office.doorway
        )
        self.sessions = sessions.Runner(
            store,
            self.instances,
            clock,
            Vault(store, data / "secrets.key"),
            up=settings.session.start,
            before_end=self._session_hook,
        )
        self.stacks = stacks.Runner(store, self.instances, clock)
        self.clusters = self._carry_clusters(settings)
        self.budgets = Watching(self.treasury, self.instances, clock, [self.clusters])
        self.reconciliation = Reconciliation(
            self.instances.records, self.providers, clock, unused=lambda: self.settings().limits.orphan
        )
        self.cluster_reconciliation = ClusterReconciliation(self.clusters.lives, self.clusters.providers)
        self._fork_server = fork_server
        self._admissions: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loops: list[asyncio.Task[None]] = []

    @cached_property
    def seats(self) -> Seats:
        """What keeps machines ready for the lectures of courses."""
        machines, lives = self.instances, self.sessions.lives
        return Seats(machines, lives, self.settings, self.complete, self.course_folders, self.clock)

    @cached_property
    def gateway(self) -> Gateway:
        """The shares, and the doors to them."""
        return Gateway(self.store, self.clock, self.data / "shares", lambda: self.settings().shares)

    @cached_property
    def configuration(self) -> ConfigurationDesk:
        """The desk where the configuration is changed."""
        return ConfigurationDesk(self.settings_file.path, self.data, self.settings_file.environment)

    @cached_property
    def metrics(self) -> Metrics:
        """The figures."""
        return Metrics(self.settings, self.sessions, self.instances, self.treasury, self.leasing)

    @classmethod
    async def open(
        cls,
        settings_file: SettingsFile,
        data: Path,
        clock: Clock | None = None,
        programs: Sequence[Program] = (),
        block: Sequence[str] = (),
    ) -> Self:
        """Open the store, take up what it holds, and begin to watch. The caller holds the store's `OwnerLock`.

        ``programs`` start at once on this computer, from a fork server that may not import the modules ``block``.
        """
        _make_room()
        clock = clock or SystemClock()
        settings, problems = settings_file.current()
        for problem in [*problems, *lending_problems(settings)]:
            log.warning("%s", problem)
        keeper = await asyncio.to_thread(keeper_of, data)
        store = await open_store(settings.store.url or data / "store.sqlite", clock, keeper)
        try:
            authority = await asyncio.to_thread(Authority, data / "authority", clock)
            fork_server = ForkServer(data / "run" / "fork", programs, block) if programs else None
            house = cls(settings_file, data, store, authority, clock, fork_server)
            house.metrics.begin()
            await asyncio.to_thread(shutil.rmtree, house.scratch, ignore_errors=True)
            house.scratch.mkdir(mode=0o700)
            if fork_server is not None:
                await fork_server.start()
            await house.office.load()
            await house.leasing.load()
            await house.instances.start()
            await house.clusters.start()
            await house.sessions.start()
            await house.stacks.start()
            await house.jobs.start()
        except BaseException:
            await store.close()
            raise
        house._loops = [
            asyncio.create_task(house._reconcile(), name="reconcile"),
            asyncio.create_task(house._heed(), name="heed"),
            asyncio.create_task(house.budgets.run(), name="budgets"),
            asyncio.create_task(house.seats.run(), name="seats"),
            asyncio.create_task(house.configuration.watch(clock), name="configuration"),
        ]
        try:
            await house.leasing.start()
            await house.office.start()
            await house.gateway.start()
        except BaseException:
            await house.close()
            raise
        return house

    async def close(self) -> None:
        """Let go of everything; instances and sessions live on. May be called twice."""
        loops, self._loops = self._loops, []
        if loops:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self.gateway.close()
            await self.office.close()
            await self.leasing.close()
            await self.jobs.close()
            await self.stacks.close()
            await self.sessions.close()
            await self.clusters.close()
            await self.instances.close()
            await self.switchboard.close()
            if self._fork_server is not None:
                await self._fork_server.close()
            await self.credentials.close()
            await self.store.close()
            await asyncio.to_thread(shutil.rmtree, self.scratch, ignore_errors=True)

    async def user_of(self, token: str) -> User:
        """Return whose API token this is. Raises NotAuthenticated."""
        name = (await self.tokens.check(token)).user
        try:
            return await self.users.get(name)
        except NotFound:
            return User(name=name)

    def settings(self) -> Settings:
        """Return the settings as they are now."""
        return self.settings_file.current()[0]

    def settings_problems(self) -> list[GridcloudError]:
        """Return what is wrong with the configuration now."""
        settings, problems = self.settings_file.current()
        return [*problems, *lending_problems(settings)]

    def complete(self, request: Request) -> Request:
        """Fill in what a request leaves open, from the configuration's defaults."""
        defaults = self.settings().defaults
        limits = self.settings().limits
        changes: dict[str, Any] = {}
        given = request.model_fields_set
        if "cpus" not in given:
            changes["cpus"] = defaults.cpus
        if "memory" not in given:
            changes["memory"] = defaults.memory
        if not request.time:
            changes["time"] = defaults.time or limits.time
        if not request.idle:
            changes["idle"] = defaults.idle or limits.idle
        return request.model_copy(update=changes)

    def _complete(self, request: Request) -> Request:
        """Fill in what a scheduler's request for a machine leaves open, within the limits. Raises InvalidRequest."""
        request, idlest = self.complete(request), self.settings().limits.idle
        if idlest:
            request = request.model_copy(update={"idle": min(request.idle, idlest)})
        self.check(request)
        return request

    def check(self, request: Request) -> None:
        """Raise InvalidRequest for what the limits forbid."""
        longest = self.settings().limits.time or LONGEST
        if request.time > longest:
            raise InvalidRequest(
                f"A time of {timedelta(seconds=request.time)} was asked.",
                remedy=f"{timedelta(seconds=longest)} at most is allowed.",
            )
        idlest = self.settings().limits.idle
        if idlest and request.idle > idlest:
            raise InvalidRequest(
                f"{timedelta(seconds=request.idle)} without use was asked for.",
                remedy=f"{timedelta(seconds=idlest)} at most is allowed.",
            )

    def course_folders(self, course: str) -> tuple[Folder, ...]:
        """Return the folders of a course. Touches the disk."""
        return folders_of(self.settings(), course)

    def check_providers(self, requests: Iterable[Request]) -> None:
        """Raise NotFound, InvalidSettings or DriverUnavailable when one names a provider that cannot be used."""
        for name in {request.on for request in requests if request.on}:
            self.providers.get(name)

    @contextlib.asynccontextmanager
    async def admitting(self, owner: str, count: int = 1, *, cluster: str = "") -> AsyncIterator[None]:
        """Let ``count`` more instances or nodes be asked for within, one at a time of an owner, so that the count
        holds; or let a ``cluster`` of theirs, by its id, get ``count`` nodes in all.

        Raises QuotaExceeded when the owner would have more machines than the limits allow, counting those that sessions
        and stacks are about to ask for, and the nodes of clusters.
        """
        most = self.settings().limits.instances
        if not most:
            yield
            return
        async with self._admissions.setdefault(owner, asyncio.Lock()):
            there = {one.id for one in await self.instances.records.live(owner)}
            there |= {one.instance_id for one in await self.sessions.lives.live(owner)}
            for stack in await self.stacks.lives.live(owner):
                there |= {one.instance_id for one in stack.members.values() if one.instance_id}
            theirs = await self.clusters.lives.live(owner)
            # What shrinks is counted as it is until its nodes are gone.
            nodes = {one.id: max(one.nodes, one.nodes_there) for one in theirs}
            before = sum(one.nodes for one in theirs if one.id == cluster)
            if count > before and len(there) + sum(nodes.values()) - nodes.get(cluster, 0) + count > most:
                beside = f", and clusters with nodes: {sum(nodes.values())}" if nodes else ""
                raise QuotaExceeded(
                    f"{owner} has {len(there)} instances{beside}; {most} at once are allowed.",
                    remedy="Ask for fewer, or stop one." if cluster else "Stop one.",
                )
            yield

    def check_cluster(self, request: ClusterRequest) -> None:
        """Raise InvalidRequest for what the limits forbid."""
        longest = self.settings().limits.time or LONGEST
        if request.time > longest:
            raise InvalidRequest(
                f"A time of {timedelta(seconds=request.time)} was asked.",
                remedy=f"{timedelta(seconds=longest)} at most is allowed.",
            )

    async def examine(self) -> list[Difference]:
        """Compare what all providers hold, of instances and of clusters, with what the store knows."""
        found = await asyncio.gather(self.reconciliation.examine(), self.cluster_reconciliation.examine())
        return [difference for differences in found for difference in differences]

    async def mend(self) -> list[Difference]:
        """Remove what nothing accounts for; return each with what became of it."""
        instances = await self.reconciliation.examine()
        clusters = await self.cluster_reconciliation.examine()
        found = await asyncio.gather(
            self.reconciliation.mend(instances), self.cluster_reconciliation.mend(clusters)
        )
        return [difference for differences in found for difference in differences]

    def check_expiry(self, instance: Instance, expires: datetime, *, admin: bool = False) -> None:
        """Raise InvalidRequest for an expiry that the limits forbid; administrators are held to no limit of ours."""
        longest = LONGEST if admin else self.settings().limits.time or LONGEST
        if expires > (instance.ready_at or instance.created) + timedelta(seconds=longest):
            raise InvalidRequest(f"An instance may live {timedelta(seconds=longest)} at most.")

    async def check_configure(self, entries: Sequence[dict[str, Any]], admin: bool) -> None:
        """Raise InvalidSettings for entries of ``configure`` that cannot work, or that name files of this computer
        though no administrator asks: a playbook runs programs here, and a script's text would show what it holds."""
        await check_all(entries, self.settings_file.path.parent if admin else None)

    async def connection_to(self, instance: Instance) -> Connection:
        """Return the kept connection to a ready instance. Raises what opening it raises."""
        self.instances.records.check_ours(instance)
        if instance.address is None:
            raise InvalidRequest(f"Instance {instance.id} is {instance.state}: it cannot be reached.")
        return await self.links.get(instance.id, instance.address)

    async def settle(self, seconds: float = 120.0) -> None:
        """Wait until no instance is on its way out, or the time is over."""
        leaving = {State.DISCARDING, State.STOPPING, State.FAILING, State.REQUESTED, State.CREATING}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                records = self.instances.records
                for instance in filter(records.keeps, await records.find(states=leaving)):
                    async for now in self.instances.records.follow(instance.id):
                        if now.state not in leaving:
                            break

    def _lend_and_borrow(self) -> Leasing:
        """Return what lends to other institutions and borrows of them."""
        return Leasing(
            self.office,
            self.store,
            self.clock,
            self.settings,
            short_folder(self.data, "leases"),
            lambda: self.authority.user_authority,
            self._groups_of,
        )

    def _find_providers(self, settings: Settings) -> Providers:
        """Return the configured providers, and the machines that dial in."""
        return Providers(
            self.settings,
            self.store,
            self.data / "providers",
            self._connect,
            lambda: "\n".join(self.authority.published("user")),
            offer_seconds=settings.limits.offers,
            secret=_read_secret,
            agents=Listing(self.agents, self.switchboard),
            peers=self.leasing.borrowing,
        )

    def _carry_clusters(self, settings: Settings) -> clusters.Runner:
        """Return the runner of clusters, which asks the same budgets as that of instances, and pays into one ledger."""
        runner = clusters.Runner(
            self.store,
            ClusterProviders(self.settings, self.store, self.data / "clusters", _read_secret),
            self.clock,
            _cluster_timing(settings),
            judge=self.treasury.judge_ask,
            judging=self.instances.choice.judging,
        )
        runner.lives.listen(lambda one: self.treasury.take(account_of(one), one.ended_at))
        return runner

    def _find_schedulers(self) -> Schedulers:
        """Return the configured schedulers, which may have machines of the broker."""
        instances = self.instances

        def machines(name: str) -> SchedulerMachines:
            return SchedulerMachines(name, instances, self.connection_to, self.admitting, self._complete)

        instances.watch.idleness.asked.append(used_by_jobs)
        folder = self.data / "schedulers"
        return Schedulers(self.settings, self.store, folder, self._connect, _read_secret, machines)

    @cached_property
    def jobs(self) -> jobs.Runner:
        """What carries jobs."""
        return jobs.Runner(
            self.store,
            self._find_schedulers(),
            self.clock,
            self.data / "jobs",
            lambda: self.settings().jobs,
            self._connect,
            _read_secret,
        )

    def _session_hook(self) -> Sequence[str]:
        text = self.settings().session.before_end
        return ("sh", "-c", text) if text else ()

    async def _rooms(self) -> Sequence[Room]:
        """Return what is lent and free now, for members to know."""
        return await Rooms(self.settings, self.providers, self.instances.records)()

    async def _groups_of(self, user: str) -> Sequence[str]:
        """Return the groups of a user, as other institutions are told them."""
        return sorted((await self._people()).groups.get(user, ()))

    async def _is_user(self, name: str) -> bool:
        """Tell whether a name is one of our own users'."""
        people = await self._people()
        known = {one.name for one in await self.users.all()}
        return name in known or name in people.administrators or name in people.groups

    async def _people(self) -> People:
        """Return who is an administrator and who belongs to which groups, by the store and by the configuration."""
        groups: dict[str, set[str]] = {}
        administrators = {self.administrator}
        for user in await self.users.all():
            groups.setdefault(user.name, set()).update(user.groups)
            if user.admin:
                administrators.add(user.name)
        for group, members in self.settings().groups.items():
            for name in members:
                groups.setdefault(name, set()).add(group)
        courses = self.settings().courses.items()
        return People(
            frozenset(administrators),
            {name: frozenset(found) for name, found in groups.items() if found},
            {nobody_of(name): course.project for name, course in courses if course.seats and course.project},
        )

    async def _connect(self, address: Address) -> Connection:
        return await connections.open(address, self.credentials)

    async def _connect_for_long(self, address: Address) -> Connection:
        if isinstance(address, SSHAddress):
            return await Supervised.open(lambda: self._connect(address), clock=self.clock)
        if isinstance(address, LocalAddress):
            return await LocalConnection.open(address, self._fork_server)
        return await self._connect(address)

    async def _configure(
        self, instance: Instance, connection: Connection, report: Callable[[str], None]
    ) -> None:
        offer = instance.offer
        facts = Facts(
            instance_id=instance.id,
            owner=instance.owner,
            name=instance.name,
            provider=offer.provider if offer else "",
            kind=str(offer.kind) if offer else "",
            image=instance.request.image,
            cpus=instance.request.cpus,
            memory=instance.request.memory,
            gpus=instance.request.gpus,
        )
        async with asyncio.timeout(self.settings().limits.configure):
            await run_all(instance.configure, self.settings_file.path.parent, connection, facts, report)

    async def _heed(self) -> None:
        """Where others share the store, end what they stopped of ours."""
        while self.store.keeper:
            await self.clock.sleep(HEED)
            try:
                await self.sessions.heed()
                await self.instances.heed()
            except GridcloudError as error:
                log.warning("what others stopped cannot be read: %s", error)

    async def _reconcile(self) -> None:
        """Now and then, remove what nothing accounts for."""
        while True:
            await self.clock.sleep(RECONCILE)
            try:
                for difference in await self.mend():
                    log.warning("%s", difference.message)
            except GridcloudError as error:
                log.warning("reconciling: %s", error)


async def _read_secret(reference: str) -> Secret:
    return await asyncio.to_thread(resolve, reference)


def _timing(settings: Settings) -> instances.Timing:
    return instances.Timing(
        boot=settings.limits.start,
        warning=settings.limits.warning,
        silence=settings.limits.silence,
        longest_life=settings.defaults.time or settings.limits.time,
        before_end=settings.limits.before_end,
        first_pause=settings.limits.retry_first,
        longest_pause=settings.limits.retry_longest,
    )


def _cluster_timing(settings: Settings) -> clusters.Timing:
    return clusters.Timing(
        longest_life=settings.defaults.time or settings.limits.time,
        first_pause=settings.limits.retry_first,
        longest_pause=settings.limits.retry_longest,
    )


_roomy: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


def _make_room() -> None:
    """Give the loop threads enough for the blocking libraries of many clouds at once: they wait, and hardly compute.

    asyncio's own pool has four more than there are processors, so that six slow answers would hold up everything.
    """
    loop = asyncio.get_running_loop()
    if loop not in _roomy:
        _roomy.add(loop)
        loop.set_default_executor(ThreadPoolExecutor(THREADS, "asyncio_house"))
