"""Figures for Prometheus: what runs, what starts and fails and how long that takes, what it costs, how the parts do.

No user's name is in any of them, nor an id, and every label has few values: names that stand in the configuration, the
states of the tables, and the kinds of errors; whatever else there is counts as ``other``.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST

import gridcloud
from gridcloud.budgets.treasury import Treasury
from gridcloud.errors import GridcloudError
from gridcloud.grid.leasing import Leasing
from gridcloud.instances import runner as instances
from gridcloud.instances.model import FINAL as INSTANCE_FINAL
from gridcloud.instances.model import Instance, Reason
from gridcloud.instances.model import State as InstanceState
from gridcloud.sessions import runner as sessions
from gridcloud.sessions.model import FINAL, Session, State
from gridcloud.settings import Settings
from gridcloud.store.model import Record

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""The media type of what is told."""

FRESH = 5.0
"""Seconds for which what was counted in the store counts as now: several may ask at once."""

STARTS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600)
"""Bounds of the histogram of starts, in seconds: from a fork on this computer to a machine that is made fit."""

QUICK = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
"""Bounds of the histograms of the store, in seconds."""

MOST = 200
"""Profiles that are told apart."""

NONE, OTHER = "none", "other"


@dataclass(frozen=True, slots=True)
class _Counted:
    """What was counted in the store."""

    at: float = float("-inf")
    sessions: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    instances: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    budgets: tuple[tuple[str, str, str, float], ...] = ()
    leases: Mapping[tuple[str, ...], int] = field(default_factory=dict)


class Metrics:
    """The figures of one service, from when it began on."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        sessions: sessions.Runner,
        instances: instances.Runner,
        treasury: Treasury,
        leasing: Leasing,
    ) -> None:
        self.since = sessions.clock.now()
        """When the service began."""
        self._settings = settings
        self._store_of = sessions.lives.store
        self._instances = instances
        self._treasury = treasury
        self._leasing = leasing
        self._counted = _Counted()
        self._seen: dict[str, State] = {}
        self._reclaimed: set[str] = set()
        self._places: dict[str, str] = {}
        """The provider of each live instance that is known here."""
        self._profiles: set[str] = set()
        self._errors = _error_names()
        self.registry = CollectorRegistry()
        self._starts = Counter(
            "gridcloud_session_starts",
            "Sessions that answered",
            ["provider", "profile"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "gridcloud_session_start_seconds",
            "From the wish to the first answer",
            ["provider", "profile"],
            buckets=STARTS,
            registry=self.registry,
        )
        self._failures = Counter(
            "gridcloud_session_failures",
            "Sessions that ended unasked, by the kind of error",
            ["error", "phase", "provider", "profile"],
            registry=self.registry,
        )
        self._reclaims = Counter(
            "gridcloud_reclaims", "Borrowed machines taken back by their owner", registry=self.registry
        )
        self._store = Histogram(
            "gridcloud_store_seconds",
            "Answers of the store",
            ["action"],
            buckets=QUICK,
            registry=self.registry,
        )
        info = Gauge("gridcloud_info", "This service", ["version", "service"], registry=self.registry)
        info.labels(gridcloud.__version__, self._store_of.keeper or NONE).set(1)
        self.registry.register(self)
        self._sessions = sessions

    def begin(self) -> None:
        """Count from now on."""
        self._sessions.lives.listen(self.hear)
        self._instances.records.listen(self._hear_instance)
        self._store_of.timed = self._time

    async def text(self) -> bytes:
        """Return all figures as they are now, in Prometheus's text format. Raises what the store raises."""
        if time.monotonic() - self._counted.at > FRESH:
            self._counted = await self._count()
        return bytes(generate_latest(self.registry))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give what is looked up when it is asked for."""
        counted = self._counted
        yield _family("gridcloud_sessions", "Sessions", ["state", "provider", "profile"], counted.sessions)
        yield _family("gridcloud_instances", "Instances", ["state", "provider"], counted.instances)
        rates = {(name,): value for name, value in counted.rates.items()}
        yield _family(
            "gridcloud_cost_per_hour",
            "What instances cost in an hour, if known",
            ["provider"],
            rates,
        )
        budgets = {(name, unit, what): value for name, unit, what, value in counted.budgets}
        yield _family(
            "gridcloud_budget", "Budgets in their present period", ["budget", "unit", "what"], budgets
        )
        yield _family("gridcloud_leases", "Machines lent and borrowed", ["way", "state"], counted.leases)
        tunnels = {(state,): number for state, number in self._instances.links.count().items()}
        yield _family("gridcloud_tunnels", "Connections to instances that are held", ["state"], tunnels)
        answers = {
            (self._provider(name),): float(one.error is None)
            for name, one in list(self._instances.providers.answered.items())
        }
        yield _family(
            "gridcloud_provider_answers", "Whether it answered when last asked", ["provider"], answers
        )

    def describe(self) -> list[Any]:
        """Nothing: or the registry would ask for all of it to learn the names."""
        return []

    # What happens -----------------------------------------------------------------------------------------------

    def _time(self, action: str, seconds: float) -> None:
        self._store.labels(action).observe(seconds)

    def hear(self, session: Session) -> None:
        """Count what became of a session."""
        before = self._seen.get(session.id)
        if session.state in FINAL:
            self._seen.pop(session.id, None)
        else:
            self._seen[session.id] = session.state
        if session.state is before:
            return
        labels = self._place(session.instance_id), self._profile(session.profile)
        if session.state is State.RUNNING and not session.former and session.started is not None:
            self._starts.labels(*labels).inc()
            self._seconds.labels(*labels).observe((session.started - session.created).total_seconds())
        if session.state is State.FAILING:
            phase = "running" if before is State.RUNNING or session.started else "starting"
            error = session.error if session.error in self._errors else OTHER
            self._failures.labels(error, phase, *labels).inc()

    def _hear_instance(self, instance: Instance) -> None:
        if instance.reclaimed and instance.id not in self._reclaimed:
            self._reclaims.inc()
            self._reclaimed.add(instance.id)
        if instance.state in INSTANCE_FINAL:
            self._reclaimed.discard(instance.id)
            self._places.pop(instance.id, None)
        elif instance.offer is not None:
            self._places[instance.id] = instance.offer.provider

    # Names ------------------------------------------------------------------------------------------------------

    def _place(self, instance_id: str) -> str:
        return self._provider(self._places.get(instance_id, ""))

    def _provider(self, name: str) -> str:
        return _bounded(name, self._settings().providers)

    def _profile(self, name: str) -> str:
        # Only the hub starts sessions, from what is offered; it alone knows all profiles.
        if len(self._profiles) < MOST:
            self._profiles.add(name)
        return _bounded(name, self._profiles)

    # What is there ----------------------------------------------------------------------------------------------

    async def _count(self) -> _Counted:
        store, keeper = self._store_of, self._store_of.keeper
        live = [str(state) for state in InstanceState if state not in INSTANCE_FINAL]
        found = await store.scan("instance", _sketch_instance, states=live)
        machines: Tally[tuple[str, ...]] = Tally()
        rates: dict[str, float] = defaultdict(float)
        providers = {}
        for id_, state, provider, rate, kept in found:
            if kept not in ("", keeper) and keeper:
                continue
            providers[id_] = self._provider(provider)
            self._places.setdefault(id_, provider)
            machines[state, providers[id_]] += 1
            rates[providers[id_]] += rate
        states = [str(state) for state in State if state not in FINAL]
        running: Tally[tuple[str, ...]] = Tally()
        for state, instance_id, profile, kept in await store.scan("session", _sketch_session, states=states):
            if kept in ("", keeper) or not keeper:
                running[state, providers.get(instance_id, NONE), self._profile(profile)] += 1
        leases: Tally[tuple[str, ...]] = Tally()
        for loan in self._leasing.lending.loans():
            leases["lent", str(loan.lent.state)] += 1
        for borrowing in self._leasing.borrowing.leases():
            leases["borrowed", str(borrowing.lease.state)] += 1
        return _Counted(time.monotonic(), running, machines, rates, await self._budgets(), leases)

    async def _budgets(self) -> tuple[tuple[str, str, str, float], ...]:
        if not self._treasury.configured:
            return ()
        sums: dict[tuple[str, str, str], float] = defaultdict(float)
        for standing in await self._treasury.standings():
            budget, usage = standing.pot.budget, standing.usage
            for unit, limit in (("money", budget.money), ("gpu_hours", budget.gpu_hours)):
                if limit is None:
                    continue
                sums[budget.name, unit, "limit"] += float(limit)
                for what in ("spent", "committed"):
                    sums[budget.name, unit, what] += float(getattr(getattr(usage, what), unit))
        return tuple((*key, value) for key, value in sums.items())


def _family(name: str, text: str, labels: list[str], values: Mapping[Any, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _bounded(name: str, known: Collection[str]) -> str:
    """Return a name where it is one of the configuration's: whoever may start things may make up others."""
    return name if name in known else OTHER if name else NONE


def _error_names() -> frozenset[str]:
    names, left = {GridcloudError.__name__}, [GridcloudError]
    while left:
        for kind in left.pop().__subclasses__():
            names.add(kind.__name__)
            left.append(kind)
    return frozenset(names | {str(reason) for reason in Reason if reason})


def _sketch_instance(record: Record) -> tuple[str, str, str, float, str]:
    body = record.body
    rate = sum(float(one.get("price", 0)) for one in body.get("charges", ()) if one.get("until") is None)
    offer: dict[str, Any] = body.get("offer") or {}
    return record.id, record.state, str(offer.get("provider", "")), rate, str(body.get("keeper", ""))


def _sketch_session(record: Record) -> tuple[str, str, str, str]:
    body = record.body
    return record.state, str(body["instance_id"]), str(body.get("profile", "")), str(body.get("keeper", ""))
