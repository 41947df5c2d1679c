"""Asking other institutions: one signed envelope out, one back, over mutual TLS; and streams of bytes to them."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from gridcloud.agents.dialling import SocketMessages
from gridcloud.agents.outward import environment_proxy, kept_alive, stay
from gridcloud.agents.splicing import MESSAGE, pair, splice
from gridcloud.clock import Clock
from gridcloud.errors import (
    ClockSkew,
    ConnectionLost,
    Expired,
    GridcloudError,
    Malformed,
    MessageRefused,
    Replayed,
    TimedOut,
    Transient,
    Unavailable,
    Unreachable,
    Untrusted,
    from_problem,
)
from gridcloud.federation.encoding import MAXIMUM_BYTES, Json
from gridcloud.federation.keys import KeyList, PrivateKey
from gridcloud.grid.certificates import host_name
from gridcloud.grid.destinations import Destinations
from gridcloud.grid.links import LinkBook
from gridcloud.grid.mail import Mail
from gridcloud.grid.model import Way
from gridcloud.grid.seal import Seal

__all__ = ["Caller"]

CONNECT = 10.0
"""Seconds to connect to one address."""
AT_ONCE = 8
"""Messages that are under way to one member at a time; others wait."""
_MISSED = (aiohttp.ClientError, OSError, UnicodeError)
"""What a way fails with; the last where a member writes an address that no host can have."""
IDLE = 30.0
"""Seconds that a connection is kept for the next message: less than the other end keeps it."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One way to try: where, by which connector, and how that is called."""

    url: str
    way: Way
    where: str
    session: aiohttp.ClientSession
    proxy: URL | None = None


class _RelayedConnector(aiohttp.BaseConnector):
    """Makes connections within what a relay carries, as `aiohttp.UnixConnector` makes them within a Unix socket."""

    def __init__(
        self, dial: Callable[[], Awaitable[socket.socket]], *, keepalive_timeout: float, limit: int
    ) -> None:
        super().__init__(keepalive_timeout=keepalive_timeout, limit=limit)
        self._dial = dial

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        try:
            connection = await self._dial()
        except GridcloudError as error:
            raise aiohttp.ClientConnectionError(str(error)) from error
        try:
            _, protocol = await asyncio.get_running_loop().create_connection(
                self._factory,
                sock=connection,
                ssl=req.ssl if isinstance(req.ssl, ssl.SSLContext) else True,
                server_hostname=req.server_hostname,
                ssl_handshake_timeout=CONNECT,
                ssl_shutdown_timeout=1.0,
            )
        except BaseException:
            connection.close()
            raise
        return protocol


class Caller:
    """Reaches members by their ids. `Office.caller` is the one to use."""

    def __init__(self, links: LinkBook, clock: Clock, destinations: Destinations) -> None:
        self._links = links
        self._clock = clock
        self._destinations = destinations
        self._seal: Seal | None = None
        self._mail: Mail | None = None
        self._own_relay: Callable[[str], Awaitable[socket.socket]] | None = None
        self.find: Callable[[str], Awaitable[None]] | None = None
        """Looks up a member of whom no record is here, which may have moved since there was one."""
        self._sessions: dict[tuple[bool, bool], aiohttp.ClientSession] = {}
        self._through: dict[tuple[str, str], aiohttp.ClientSession] = {}
        self._carrying: set[asyncio.Task[None]] = set()

    def open(self, seal: Seal, mail: Mail, own_relay: Callable[[str], Awaitable[socket.socket]]) -> None:
        """Be ready to call; `own_relay` returns a socket to a member who attends our own relay."""
        self._seal, self._mail, self._own_relay = seal, mail, own_relay

    async def close(self) -> None:
        """End what is under way. May be called twice."""
        sessions = [*self._sessions.values(), *self._through.values()]
        self._sessions, self._through = {}, {}
        for session in sessions:
            await session.close()
        for task in list(self._carrying):
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def ask(
        self, institution: str, kind: str, body: Json, *, timeout: float = 30.0
    ) -> tuple[str, Json]:
        """Send one message to a member, and return the kind and body of its answer; kind is empty where it has none.

        Addresses of its record are tried first, then its relays. Raises Unreachable or TimedOut when it does not
        answer (it may have taken the message all the same), MessageRefused of the fitting kind when either side does
        not believe the other, UnknownSigner when it is no member, and what the other side says: Throttled,
        InvalidRequest, NotFound, Unavailable.
        """
        _, mail = self._ready()
        theirs = mail.keys_for_calling(institution)
        async with _within(institution, timeout):
            await self._look_up(institution)
            try:
                return await self._ask(theirs, kind, body)
            except Untrusted as refusal:
                if not await self._introduce(theirs, refusal):
                    raise
                return await self._ask(theirs, kind, body)

    async def ask_host(
        self, host: KeyList, addresses: tuple[str, ...], kind: str, body: Json, *, timeout: float = 30.0
    ) -> tuple[str, Json]:
        """Send a message as a guest, who shows no certificate, to who invited us. Raises as `ask` does."""
        async with _within(host.institution, timeout):
            return await self._ask(host, kind, body, guest=addresses)

    async def ask_known(
        self, theirs: KeyList, kind: str, body: Json, *, timeout: float = 30.0
    ) -> tuple[str, Json]:
        """Send a message to whoever has these keys, a former member too. Raises as `ask` does."""
        async with _within(theirs.institution, timeout):
            return await self._ask(theirs, kind, body)

    async def open_stream(
        self, institution: str, name: str, id: str, *, timeout: float = 30.0
    ) -> socket.socket:
        """Open a stream of bytes to what a member serves as `name` (`Doorway.stream`) for `id`.

        Returns a non-blocking Unix socket, whose bytes go through TLS to that member and nobody else; closing it ends
        the stream, and the other side's end reads as an end of file. Raises as `ask` does; NotFound when it serves
        none.
        """
        _, mail = self._ready()
        theirs = mail.keys_for_calling(institution)
        path = f"/grid/1/streams/{quote(name, safe='')}/{quote(id, safe='')}"
        async with _within(institution, timeout):
            await self._look_up(institution)
            websocket = await self.open_websocket(theirs, path)
        return self._carry(websocket, *await pair())

    async def open_websocket(
        self, theirs: KeyList, path: str, *, direct: bool = False
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a websocket at a path of a member; `direct`: at its own addresses only. Raises as `open_stream`."""
        seal, _ = self._ready()
        who = theirs.institution
        failures: list[str] = []
        for attempt in self._attempts(who, stream=True, direct=direct):
            context = await seal.calling(theirs)
            try:
                self._check(attempt)
                websocket = await attempt.session.ws_connect(
                    attempt.url + path,
                    proxy=attempt.proxy,
                    ssl=context,
                    server_hostname=host_name(who),
                    max_msg_size=MESSAGE + 4096,
                    heartbeat=30.0,
                )
            except aiohttp.WSServerHandshakeError as error:
                raise await self._read_refusal(attempt, theirs, path, error) from error
            except _MISSED as error:
                failures.append(self._missed(who, attempt, error))
                continue
            self._links.reached(who, attempt.way, attempt.where)
            return websocket
        raise self._unreached(who, failures)

    async def _look_up(self, who: str) -> None:
        _, mail = self._ready()
        if self.find is not None and mail.circle.profile(who) is None:
            await self.find(who)

    # One message -----------------------------------------------------------------------------------------------

    async def _ask(
        self,
        theirs: KeyList,
        kind: str,
        body: Json,
        *,
        guest: tuple[str, ...] = (),
        key: PrivateKey | None = None,
    ) -> tuple[str, Json]:
        seal, mail = self._ready()
        who = theirs.institution
        nonce = self._clock.new_id("m")
        data = seal.sign(kind, who, body, nonce=nonce, key=key)
        context = await seal.calling(theirs, guest=bool(guest), key=key)
        failures: list[str] = []
        refusals: list[Untrusted] = []
        sent = False
        for attempt in self._attempts(who, guest):
            try:
                self._check(attempt)
                status, answer, again = await self._post_surely(attempt, who, data, context)
            except _MISSED as error:
                failures.append(self._missed(who, attempt, error))
                sent = sent or not isinstance(error, aiohttp.ClientConnectorError)
                if _is_distrust(error):
                    refusals.append(Untrusted(f"{who}: {failures[-1]}"))
                continue
            if status >= 300:
                refusal = _told(who, status, answer)
                if isinstance(refusal, ClockSkew | Expired) and "seconds" in refusal.details:
                    self._links.told_skew(who, -float(refusal.details["seconds"]))
                if isinstance(refusal, Replayed) and not guest:  # a guest's invitation may be what was used
                    raise _taken_or_not(who, taken=sent or again) from refusal
                raise refusal
            self._links.reached(who, attempt.way, attempt.where)
            if status == 204:
                return "", {}
            try:
                envelope = mail.open_answer(answer, theirs, nonce)
            except MessageRefused as refusal:
                self._links.refused(refusal, who)
                raise
            return envelope.kind, envelope.body
        if refusals:
            self._links.failed(who, refusals[-1].message, known=False)
            raise refusals[-1]
        raise self._unreached(who, failures)

    async def _post_surely(
        self, attempt: _Attempt, who: str, data: bytes, context: ssl.SSLContext
    ) -> tuple[int, bytes, bool]:
        """Post once, and once more where a connection that was kept had ended meanwhile; the nonce stays the same.

        Return the status, the body, and whether it was posted twice.
        """
        try:
            return *await self._post(attempt, who, data, context), False
        except (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError):
            return *await self._post(attempt, who, data, context), True

    async def _post(
        self, attempt: _Attempt, who: str, data: bytes, context: ssl.SSLContext
    ) -> tuple[int, bytes]:
        async with attempt.session.post(
            f"{attempt.url}/grid/1/messages",
            proxy=attempt.proxy,
            data=data,
            ssl=context,
            server_hostname=host_name(who),
            allow_redirects=False,
            headers={"Content-Type": "application/json"},
        ) as response:
            return response.status, await _bounded(response)

    async def _introduce(self, theirs: KeyList, refusal: Untrusted) -> bool:
        """Tell a member that does not know the key in use of our newest key list, by a key that it may know.

        Who signs with a key that was revoked is believed by those who have not heard of it, and they hear of it so.
        """
        seal, mail = self._ready()
        if isinstance(refusal, MessageRefused) and type(refusal).__name__ not in {"UnknownSigner", "Revoked"}:
            return False
        item = {"kind": "keys", "content": mail.circle.our_keys().document()}
        for held in mail.circle.held.values():
            if not held.membership.is_listed(theirs.institution):
                continue
            body = {"community": held.community, "items": [item], "want_keys": [], "want_records": []}
            for key in seal.earlier_keys():
                try:
                    await self._ask(theirs, "gossip.give", body, key=key)
                except (GridcloudError, OSError):
                    continue
                return True
        return False

    def _attempts(
        self, who: str, guest: tuple[str, ...] = (), *, stream: bool = False, direct: bool = False
    ) -> list[_Attempt]:
        """Return the ways to a member: its addresses, then its relays; for a while after a failure the other way."""
        _, mail = self._ready()
        ways = [self._way(one, stream=stream) for one in guest or mail.circle.addresses(who)]
        relayed = [
            _Attempt(f"https://{host_name(who)}", Way.RELAYED, relay, self._relayed(relay, who))
            for relay in (() if guest or direct else mail.circle.relays(who))
            if relay in mail.circle.members() or relay == mail.circle.me
        ]
        return [*relayed, *ways] if self._links.prefers_relays(who) else [*ways, *relayed]

    def _way(self, address: str, *, stream: bool) -> _Attempt:
        proxy = environment_proxy(address)
        session = self._direct(stream=stream, proxied=proxy is not None)
        return _Attempt(address.rstrip("/"), Way.DIRECT, address, session, proxy)

    def _check(self, attempt: _Attempt) -> None:
        if attempt.proxy is not None:
            self._destinations.check_named(attempt.url)

    def _missed(self, who: str, attempt: _Attempt, error: Exception) -> str:
        if attempt.way is Way.DIRECT:
            self._links.no_direct_way(who)
        return _failure(attempt.where, error)

    def _relayed(self, relay: str, who: str) -> aiohttp.ClientSession:
        """Return what connects to a member through a relay; the connections of each are its own."""
        if (relay, who) not in self._through:
            connector = _RelayedConnector(
                lambda: self._open_through(relay, who), keepalive_timeout=IDLE, limit=0
            )
            self._through[relay, who] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=(stay,),
            )
        return self._through[relay, who]

    async def _open_through(self, relay: str, who: str) -> socket.socket:
        """Return a socket whose bytes a relay carries to a member. Raises GridcloudError."""
        _, mail = self._ready()
        if relay == mail.circle.me and self._own_relay is not None:
            return await self._own_relay(who)
        keys = mail.keys_for_calling(relay)
        return self._carry(await self.open_websocket(keys, f"/grid/1/via/{who}", direct=True), *await pair())

    def _carry(
        self,
        websocket: aiohttp.ClientWebSocketResponse,
        one: socket.socket,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> socket.socket:
        task = asyncio.create_task(splice(reader, writer, SocketMessages(websocket)), name="grid: stream")
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        return one

    def _direct(self, *, stream: bool, proxied: bool) -> aiohttp.ClientSession:
        """Return what connects to addresses: a few connections to each for messages, and one for each stream.

        To the environment's proxy it connects wherever that is; to members where they may be.
        """
        if (stream, proxied) not in self._sessions:
            self._sessions[stream, proxied] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    limit_per_host=0 if stream else AT_ONCE,
                    keepalive_timeout=IDLE,
                    socket_factory=kept_alive if proxied else self._destinations.open,
                    resolver=aiohttp.ThreadedResolver(),
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=(stay,),
            )
        return self._sessions[stream, proxied]

    def _ready(self) -> tuple[Seal, Mail]:
        if self._seal is None or self._mail is None:
            raise Unreachable("This gridcloud does not take part in the grid now.")
        return self._seal, self._mail

    def _unreached(self, who: str, failures: list[str]) -> Unreachable:
        why = "; ".join(failures) or "nobody knows where it is: no address and no relay in its record"
        self._links.failed(who, why, tried=bool(failures))
        return Unreachable(f"{who} is not reached: {why}.")

    async def _read_refusal(
        self, attempt: _Attempt, theirs: KeyList, path: str, error: aiohttp.WSServerHandshakeError
    ) -> GridcloudError:
        """Return why a stream was refused: asked once more without upgrading, the member says it in words."""
        seal, _ = self._ready()
        try:
            async with attempt.session.get(
                attempt.url + path,
                proxy=attempt.proxy,
                ssl=await seal.calling(theirs),
                server_hostname=host_name(theirs.institution),
                allow_redirects=False,
            ) as response:
                return _told(theirs.institution, error.status, await _bounded(response))
        except _MISSED:
            return _told(theirs.institution, error.status, b"")


@asynccontextmanager
async def _within(who: str, seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TimedOut(f"{who} did not answer within {seconds:g} s.") from None


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for block in response.content.iter_chunked(1 << 16):
        data += block
        if len(data) > MAXIMUM_BYTES:
            response.close()
            raise Malformed(f"the answer has more than {MAXIMUM_BYTES} bytes")
    return bytes(data)


YEARS = 10**9
"""Seconds that nobody waits, and by which no clock is off."""
_SAID = frozenset(
    {
        "Throttled",
        "Conflict",
        "InvalidRequest",
        "NotFound",
        "Unavailable",
        "NoCapacity",
        "QuotaExceeded",
        "Forbidden",
    }
)
"""What another institution may say besides that it does not believe us; anything else is Unavailable."""


def _told(who: str, status: int, answer: bytes) -> GridcloudError:
    """Return what another institution said, as an error of ours: its words on one line, of its details the seconds."""
    try:
        document = json.loads(answer)
        error = from_problem(document if isinstance(document, dict) else {})
    except (ValueError, RecursionError):
        error = GridcloudError(f"HTTP status {status}")
    words = "".join(one if one.isprintable() else "�" for one in error.message)[:300]
    seconds = error.details.get("seconds")
    plausible = isinstance(seconds, int | float) and abs(seconds) < YEARS  # also not what is no number
    details = {"seconds": seconds} if plausible else {}
    kind = type(error)
    if not (isinstance(error, MessageRefused) or kind.__name__ in _SAID):
        kind = MessageRefused if status == 403 else Unavailable
    return kind(f"{who} says: {words}", details=details)


def _taken_or_not(who: str, *, taken: bool) -> Transient:
    """Return what it means that a nonce of ours, which was new, is said to be known: we sent it before, or the other
    side lost its memory of nonces and takes none for a minute."""
    if taken:
        return ConnectionLost(f"{who} took the message, and its answer was lost.")
    return Unavailable(f"{who} began anew and takes no messages for a minute.")


def _failure(where: str, error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    words = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error)
    return f"{where}: {words or type(error).__name__}"[:300]


def _is_distrust(error: Exception) -> bool:
    """Say whether TLS failed because one side does not know the other's key; who refuses may just hang up."""
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError | aiohttp.ServerDisconnectedError):
        return True
    return isinstance(error, aiohttp.ClientOSError | ConnectionResetError) and not isinstance(
        error, aiohttp.ClientConnectorError
    )
