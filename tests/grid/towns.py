"""Institutions that lend to each other in one process: real desks, stores, runners and SSH; messages go by memory.

What is said is written and read as documents, so that nothing but what the protocol holds goes over. A road between two
can be cut, and an institution closed and opened again over what it stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gridcloud import connections
from gridcloud.clock import SystemClock
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.errors import NotFound, Unreachable
from gridcloud.federation.encoding import Json, decode, encode
from gridcloud.federation.envelopes import Signers
from gridcloud.federation.keys import PrivateKey, ServiceKey, institution_of, make_key_list
from gridcloud.federation.leases import Terms
from gridcloud.federation.records import Profile
from gridcloud.grid.doorway import Admission, MessageHandler, StreamHandler
from gridcloud.grid.leasing import Leasing
from gridcloud.grid.model import Community, Member
from gridcloud.identity.authority import Authority
from gridcloud.identity.ssh import SSHCredentials
from gridcloud.instances.links import Links
from gridcloud.instances.model import FINAL, Instance, Request
from gridcloud.instances.providers import Providers
from gridcloud.instances.runner import Runner, Timing
from gridcloud.settings import Settings, parse_settings
from gridcloud.store import Store, open_store

__all__ = ["FAST", "House", "Roads", "Town", "found", "open_house"]

ALWAYS = 253_402_300_799_999
FAST = Terms(ttl=3000, tolerance=200, window=5000, flight=500, grace=2500)
TIMING = Timing(poll=0.05, watch=0.2, first_pause=0.1, longest_pause=0.5, before_end=1.0, warning=600)


class Roads:
    """The ways between institutions."""

    def __init__(self) -> None:
        self.towns: dict[str, Town] = {}
        self.cut: set[frozenset[str]] = set()
        self.told: list[tuple[str, str, str]] = []
        """(from, to, kind) of each message that arrived."""
        self.strike: Callable[[str], Awaitable[None]] | None = None
        """Called at each step of each message, before it arrives and before its answer leaves, in words."""

    async def step(self, words: str) -> None:
        """Let something happen at a step of a message."""
        if self.strike is not None:
            await self.strike(words)

    def town(self, me: str, other: str) -> Town:
        """Return another, where there is a way to it."""
        if other not in self.towns:
            raise NotFound(f"{other} is no member")
        if not self.towns[other].open or frozenset({me, other}) in self.cut:
            raise Unreachable(f"{other} does not answer")
        return self.towns[other]


@dataclass
class Town:
    """One institution: what an office knows and a doorway takes."""

    name: str
    roads: Roads
    root: PrivateKey = field(default_factory=PrivateKey.generate)
    key: PrivateKey = field(default_factory=PrivateKey.generate)
    handlers: dict[str, MessageHandler] = field(default_factory=dict)
    streams: dict[str, StreamHandler] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    open: bool = False

    def __post_init__(self) -> None:
        self.roads.towns[self.me] = self

    @property
    def caller(self) -> Town:
        return self

    @property
    def initialised(self) -> bool:
        return True

    @property
    def me(self) -> str:
        return institution_of(self.root.public)

    def service_key(self) -> PrivateKey:
        return self.key

    def signers(self) -> Signers:
        return Signers(
            {
                me: make_key_list(
                    town.root, 1, 0, (ServiceKey(key=town.key.public, valid_from=0, valid_until=ALWAYS),), ()
                )
                for me, town in self.roads.towns.items()
            }
        )

    def members(self) -> Mapping[str, Member]:
        now = SystemClock().now()
        return {
            me: Member(institution=me, name=town.name, joined=now)
            for me, town in self.roads.towns.items()
            if me != self.me
        }

    def communities(self) -> tuple[Community, ...]:
        return (Community(community="c-all", name="everybody", number=1, threshold=1),)

    def communities_of(self, institution: str) -> frozenset[str]:
        return frozenset({"c-all"}) if institution in self.roads.towns else frozenset()

    def profiles(self) -> Mapping[str, Profile]:
        return {}

    def find(self, institution: str) -> str:
        for me, town in self.roads.towns.items():
            if institution in (me, town.name):
                return me
        raise NotFound(f"There is no member {institution!r}.")

    # Its caller and its doorway

    async def ask(
        self, institution: str, kind: str, body: Json, *, timeout: float = 30.0
    ) -> tuple[str, Json]:
        other = self.roads.town(self.me, institution)
        async with asyncio.timeout(timeout):
            await asyncio.sleep(0)
            await self.roads.step(f"{kind} comes to {other.name}")
            other = self.roads.town(self.me, institution)
            self.roads.told.append((self.name, other.name, kind))
            answer = await other.handlers[kind.partition(".")[0]](self.me, kind, decode(encode(body)))
            await self.roads.step(f"{kind} was taken by {other.name}")
            other = self.roads.town(self.me, institution)  # the way may have been cut meanwhile
        return (answer[0], decode(encode(answer[1]))) if answer else ("", {})

    async def open_stream(
        self, institution: str, name: str, id: str, *, timeout: float = 30.0
    ) -> socket.socket:
        other = self.roads.town(self.me, institution)
        here, there = socket.socketpair()
        for one in (here, there):
            one.setblocking(False)

        async def serve() -> None:
            try:
                await other.streams[name](self.me, id, there)
            except NotFound:
                return
            finally:
                there.close()

        task = asyncio.create_task(serve())
        other.tasks.add(task)
        task.add_done_callback(other.tasks.discard)
        return here

    def handle(self, prefix: str, handler: MessageHandler) -> None:
        self.handlers[prefix] = handler

    def stream(self, name: str, handler: StreamHandler, admit: Admission | None = None) -> None:
        self.streams[name] = handler

    async def shut(self) -> None:
        self.open = False
        tasks = set(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class House:
    """A gridcloud of one institution, as far as lending needs it."""

    town: Town
    store: Store
    settings: Settings
    runner: Runner
    leasing: Leasing
    credentials: SSHCredentials
    authority: Authority

    async def connect(self, address: Address) -> Connection:
        return await connections.open(address, self.credentials)

    async def obtain(self, owner: str = "ada", **asked: Any) -> Instance:
        """Return a small instance once it is ready."""
        request = Request(**({"cpus": 1, "memory": 64 << 20} | asked))
        instance = await self.runner.submit(owner, request)
        async with asyncio.timeout(30):
            return await self.runner.wait(instance.id)

    async def ended(self, instance_id: str, seconds: float = 20) -> Instance:
        """Return an instance once nothing is left of it."""
        async with asyncio.timeout(seconds):
            async for instance in self.runner.records.follow(instance_id):
                if instance.state in FINAL:
                    return instance
        raise AssertionError("it never ended")

    async def story(self, subject: str) -> str:
        return "\n".join(f"{one.type}: {one.message}" for one in await self.store.events(subject=subject))


@contextlib.asynccontextmanager
async def open_house(
    folder: Path, town: Town, configuration: Mapping[str, Any], terms: Terms = FAST, look: float = 0.1
) -> AsyncIterator[House]:
    """Open the gridcloud of an institution over a folder; open it again to see what outlives it."""
    clock = SystemClock()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    sockets = folder / "s"
    sockets.mkdir(mode=0o700, exist_ok=True)
    settings = parse_settings(yaml.safe_dump(dict(configuration)), "config.yaml", {})
    store = await open_store(folder / "store.sqlite", clock)
    authority = await asyncio.to_thread(Authority, folder / "authority", clock)
    credentials = SSHCredentials(authority)

    async def connect(address: Address) -> Connection:
        return await connections.open(address, credentials)

    async def groups(owner: str) -> Sequence[str]:
        return ("staff",) if owner == "grace" else ("students",)

    async def is_user(name: str) -> bool:
        return False

    leasing = Leasing(
        town,
        store,
        clock,
        lambda: settings,
        sockets,
        lambda: authority.user_authority,
        groups,
        terms=lambda: terms,
        look=look,
    )
    providers = Providers(
        lambda: settings,
        store,
        folder / "providers",
        connect,
        lambda: authority.user_authority,
        peers=leasing.borrowing,
    )

    async def configure(*_: Any) -> None:
        return None

    runner = Runner(store, providers, Links(connect), clock, configure, TIMING)
    leasing.attach(runner, folder / "keys", connect, is_user, town)
    await leasing.load()
    await runner.start()
    await leasing.start()
    town.open = True
    try:
        yield House(town, store, settings, runner, leasing, credentials, authority)
    finally:
        await town.shut()
        await leasing.close()
        await runner.close()
        await credentials.close()
        await store.close()


def found(*names: str) -> list[Town]:
    """Return institutions that know each other."""
    roads = Roads()
    return [Town(name, roads) for name in names]
