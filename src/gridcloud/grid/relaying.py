"""Members that nobody can reach from outside, reached through members who relay: TLS goes end to end through them.

Who cannot be reached attends a relay: it keeps one websocket open to it (`attend`). Who wants to reach it opens a
websocket to the relay (`via/INSTITUTION`); the relay says so on the first, the other dials a further one for it
(`attend/STREAM`), and the relay carries bytes between the two. Inside is TLS between caller and called, so that the
relay can cut it and nothing else. It carries only between members of a community that it shares with both.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import re
import secrets
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from gridcloud.agents.dialling import SocketMessages
from gridcloud.agents.splicing import MESSAGE, pair, splice
from gridcloud.clock import Clock
from gridcloud.errors import Forbidden, GridcloudError, NotFound, Throttled, TimedOut, UnknownSigner
from gridcloud.grid.calling import Caller
from gridcloud.grid.circle import Circle
from gridcloud.grid.doorway import Doorway, WebMessages
from gridcloud.settings.grid import GridSettings

__all__ = ["Attendance", "Relay"]

log = logging.getLogger(__name__)

ANSWER = 10.0
"""Seconds for who is called to dial."""
CARRIED, CARRIED_EACH = 1024, 64
"""Streams that are carried at a time, and of each caller and for each who is called."""
BEAT = 20.0
"""Seconds between signs of life on what is kept open."""
ENOUGH = 2
"""Relays that are attended where none are configured."""
FIRST, LONGEST = 1.0, 30.0
"""Seconds before a relay that was lost is attended again; doubled each time, jittered."""


@dataclass(eq=False, slots=True)
class _Expected:
    """A stream that somebody was told to dial."""

    who: str
    taken: asyncio.Future[WebMessages]
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Relay:
    """What a member does for others who attend it. `carries` says whether it does so now."""

    def __init__(self, circle: Circle, doorway: Doorway, carries: Callable[[], bool]) -> None:
        self._circle = circle
        self._doorway = doorway
        self._carries = carries
        self._attending: dict[str, web.WebSocketResponse] = {}
        self._expected: dict[str, _Expected] = {}
        self._ends: dict[tuple[str, str], set[asyncio.Event]] = {}
        self._carried: Counter[str] = Counter()
        self._own: set[asyncio.Task[None]] = set()
        doorway.route(
            web.get("/grid/1/attend", self._attend),
            web.get("/grid/1/attend/{stream}", self._take),
            web.get("/grid/1/via/{institution}", self._carry),
        )

    @property
    def attending(self) -> tuple[str, ...]:
        """Who is reached through us now."""
        return tuple(sorted(self._attending))

    async def cut_strangers(self) -> None:
        """Let go of who is no member any more, and of what is carried for it."""
        members = self._circle.members()
        for who in set(self._attending) - set(members):
            await self._attending[who].close()
        for sides, over in list(self._ends.items()):
            if not self._circle.shares(*sides):
                for one in over:
                    one.set()

    async def close(self) -> None:
        """Let go of all. The doorway closes the connections."""
        for one in list(self._attending.values()):
            await one.close()
        for expected in self._expected.values():
            expected.over.set()
        for task in list(self._own):
            task.cancel()
        await asyncio.gather(*self._own, return_exceptions=True)

    async def _attend(self, request: web.Request) -> web.StreamResponse:
        """Keep open the websocket of a member who is reached through us."""
        who = ""
        try:
            who = self._doorway.sure_member(request)
            if not self._carries():
                raise Forbidden("This institution does not relay others.")
            self._check_upgrade(request)
            websocket = _websocket()
            await websocket.prepare(request)
        except GridcloudError as error:
            return self._doorway.refuse(error, who)
        earlier, self._attending[who] = self._attending.get(who), websocket
        if earlier is not None:
            await earlier.close()
        try:
            async for _ in websocket:
                pass  # it has nothing to say; its end is what is waited for
        finally:
            if self._attending.get(who) is websocket:
                del self._attending[who]
        return websocket

    async def _take(self, request: web.Request) -> web.StreamResponse:
        """Take the websocket that was dialled for a stream."""
        who = ""
        try:
            who = self._doorway.sure_member(request)
            expected = self._expected.get(request.match_info["stream"])
            if expected is None or expected.who != who or expected.taken.done():
                raise NotFound("Nobody waits for this stream.")
            self._check_upgrade(request)
            websocket = _websocket()
            await websocket.prepare(request)
        except GridcloudError as error:
            return self._doorway.refuse(error, who)
        if not expected.taken.done():
            expected.taken.set_result(WebMessages(websocket))
            await expected.over.wait()
        await websocket.close()
        return websocket

    async def _carry(self, request: web.Request) -> web.StreamResponse:
        """Carry between a caller and who attends us."""
        who = ""
        try:
            who = self._doorway.sure_member(request)
            called = request.match_info["institution"]
            control = self._way_to(who, called)
            self._check_upgrade(request)
            with self._counted(who, called):
                return await self._connect(request, who, called, control)
        except GridcloudError as error:
            return self._doorway.refuse(error, who)

    def _way_to(self, who: str, called: str) -> web.WebSocketResponse:
        if not self._carries():
            raise Forbidden("This institution does not relay others.")
        control = self._attending.get(called)
        if control is None or not self._circle.shares(who, called):
            raise NotFound(f"{called[:40]!a} is not reached through here.")
        return control

    async def open_own(self, called: str) -> socket.socket:
        """Return a socket whose other end is a member who attends us: for our own calls. Raises NotFound, TimedOut."""
        control = self._attending.get(called)
        if control is None:
            raise NotFound(f"{called} does not attend here now.")
        one, reader, writer = await pair()
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def carry() -> None:
            try:
                async with self._dialled(self._circle.me, called, control) as (theirs, _):
                    ready.set_result(None)
                    await splice(reader, writer, theirs)
            except GridcloudError as error:
                if not ready.done():
                    ready.set_exception(error)
            finally:
                writer.close()

        task = asyncio.create_task(carry(), name="grid: carrying")
        self._own.add(task)
        task.add_done_callback(self._own.discard)
        try:
            await asyncio.shield(ready)
        except BaseException:
            one.close()
            task.cancel()
            raise
        return one

    async def _connect(
        self, request: web.Request, who: str, called: str, control: web.WebSocketResponse
    ) -> web.WebSocketResponse:
        async with self._dialled(who, called, control) as (theirs, over):
            websocket = _websocket()
            await websocket.prepare(request)
            await _join(WebMessages(websocket), theirs, over)
            return websocket

    @contextlib.asynccontextmanager
    async def _dialled(
        self, who: str, called: str, control: web.WebSocketResponse
    ) -> AsyncIterator[tuple[WebMessages, asyncio.Event]]:
        """Have who attends us dial, and give what it dialled; the event says that it is to end."""
        stream = secrets.token_urlsafe(24)
        expected = _Expected(called, asyncio.get_running_loop().create_future())
        self._expected[stream] = expected
        ends = self._ends.setdefault((who, called), set())
        ends.add(expected.over)
        try:
            try:
                async with asyncio.timeout(ANSWER):
                    await control.send_bytes(json.dumps({"stream": stream}).encode())
                    theirs = await expected.taken
            except (TimeoutError, OSError, RuntimeError):
                raise TimedOut(f"{called} attends here and did not answer.") from None
            yield theirs, expected.over
        finally:
            expected.taken.cancel()
            expected.over.set()
            del self._expected[stream]
            ends.discard(expected.over)
            if not ends:
                self._ends.pop((who, called), None)

    @contextlib.contextmanager
    def _counted(self, *sides: str) -> Iterator[None]:
        """Bound what is carried, and for whom."""
        if self._carried.total() >= 2 * CARRIED or any(self._carried[one] >= CARRIED_EACH for one in sides):
            raise Throttled("Too much is carried here now.", remedy="Try another relay, or later.")
        self._carried.update(sides)
        try:
            yield
        finally:
            self._carried.subtract(sides)
            self._carried += Counter()  # what is zero goes

    @staticmethod
    def _check_upgrade(request: web.Request) -> None:
        """Refuse what is no websocket; last, since who was refused one asks without to be told why."""
        if not web.WebSocketResponse().can_prepare(request):
            raise UnknownSigner("this is reached by websockets only")


class Attendance:
    """Keeps relays that we are reached through. `changed` is called when there are other ones than before."""

    def __init__(
        self,
        circle: Circle,
        caller: Caller,
        doorway: Doorway,
        clock: Clock,
        settings: Callable[[], GridSettings],
        changed: Callable[[], None],
    ) -> None:
        self._circle = circle
        self._caller = caller
        self._doorway = doorway
        self._clock = clock
        self._settings = settings
        self._changed = changed
        self._kept: dict[str, asyncio.Task[None]] = {}
        self._connected: set[str] = set()
        self._carrying: set[asyncio.Task[None]] = set()

    def relays(self) -> tuple[str, ...]:
        """Return the members that we are reached through now."""
        return tuple(sorted(self._connected))

    def look(self) -> None:
        """Begin and end what the settings and the members' records ask for; called now and then, and at news."""
        wanted = self._wanted()
        for who in set(self._kept) - set(wanted):
            self._kept.pop(who).cancel()
        for who, task in list(self._kept.items()):
            if task.done():
                del self._kept[who]
        for who in wanted:
            if who not in self._kept:
                self._kept[who] = asyncio.create_task(self._keep(who), name="grid: attendance")

    async def close(self) -> None:
        """Attend nobody any more. May be called twice."""
        tasks = [*self._kept.values(), *self._carrying]
        self._kept.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wanted(self) -> list[str]:
        settings = self._settings()
        members = self._circle.members()
        if settings.relays:
            return [who for who in settings.relays if who in members]
        if settings.addresses:
            return []
        profiles = {who: self._circle.profile(who) for who in members}
        offered = [who for who, one in profiles.items() if one is not None and one.relays_others]
        kept = [who for who in offered if who in self._connected]
        return [*kept, *(who for who in sorted(offered) if who not in kept)][:ENOUGH]

    async def _keep(self, relay: str) -> None:
        """Attend a relay, again and again."""
        pause = FIRST
        while True:
            try:
                if await self._stay(relay):
                    pause = FIRST
            except GridcloudError as error:
                log.info("not attending %s: %s", relay, error)
            except (aiohttp.ClientError, OSError) as error:
                log.info("lost %s, which was attended: %s", relay, error)
            # Not all who attended a relay at once, when it returns.
            await self._clock.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - no secret
            pause = min(LONGEST, pause * 2)

    async def _stay(self, relay: str) -> bool:
        keys = self._circle.signers().keys.get(relay)
        if keys is None:
            raise UnknownSigner(f"the keys of {relay} are not known")
        async with asyncio.timeout(30):
            control = await self._caller.open_websocket(keys, "/grid/1/attend", direct=True)
        self._connected.add(relay)
        self._changed()
        log.info("reached through %s", relay)
        try:
            async for message in control:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self._dial(relay, message.data)
        finally:
            self._connected.discard(relay)
            self._changed()
            await control.close()
        return True

    def _dial(self, relay: str, data: bytes) -> None:
        try:
            stream = str(json.loads(data)["stream"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if len(self._carrying) >= CARRIED or not re.fullmatch(r"[A-Za-z0-9_-]{16,64}", stream):
            return
        task = asyncio.create_task(self._let_in(relay, stream), name="grid: relayed")
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _let_in(self, relay: str, stream: str) -> None:
        """Dial what somebody waits for at a relay, and have the door serve who is at its other end."""
        keys = self._circle.signers().keys.get(relay)
        if keys is None:
            return
        try:
            async with asyncio.timeout(ANSWER):
                websocket = await self._caller.open_websocket(keys, f"/grid/1/attend/{stream}", direct=True)
        except (GridcloudError, TimeoutError) as error:
            log.info("a stream of the relay %s: %s", relay, error)
            return
        one, reader, writer = await pair()
        carrying = asyncio.create_task(
            splice(reader, writer, SocketMessages(websocket)), name="grid: relayed bytes"
        )
        try:
            await self._doorway.serve(one, f"the relay {relay}")
            await carrying
        finally:
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)


def _websocket() -> web.WebSocketResponse:
    return web.WebSocketResponse(max_msg_size=MESSAGE + 4096, heartbeat=BEAT, compress=False)


async def _join(one: WebMessages, other: WebMessages, over: asyncio.Event) -> None:
    """Carry messages both ways until either side ends, or it is `over`; neither runs ahead of the other."""

    async def carry(source: WebMessages, sink: WebMessages) -> None:
        with contextlib.suppress(OSError):
            while block := await source.receive():
                await sink.send(block)

    ways: list[asyncio.Task[Any]] = [
        asyncio.create_task(carry(one, other)),
        asyncio.create_task(carry(other, one)),
        asyncio.create_task(over.wait()),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for side in (one, other):
            with contextlib.suppress(OSError, TimeoutError, RuntimeError):
                async with asyncio.timeout(2):
                    await side.close()
