"""The machine's side: it joins, dials its control connection, and a further one for each that it is told of.

Everything goes out, over TLS whose certificates are verified, directly or through an HTTP proxy; nothing listens.
Inside each connection the machine is an SSH server with its own key, and believes certificates of the authority whose
fingerprint stood in its invitation.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import aiohttp
import asyncssh
from pydantic import ValidationError
from yarl import URL

from gridcloud.agents.exchange import BEAT, SILENCE, Exchange
from gridcloud.agents.invitations import Token, key_of, prove, read_token
from gridcloud.agents.membership import Answer, Membership, MembershipFolder, Trust
from gridcloud.agents.model import Report, Terms, principal_of
from gridcloud.agents.outward import Redirected, environment_proxy, kept_alive, stay
from gridcloud.agents.serving import Account, Serving, serve
from gridcloud.agents.splicing import MESSAGE, pair, splice
from gridcloud.errors import (
    ConnectionLost,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    Malformed,
    NotAuthenticated,
    Rejected,
    Throttled,
    Unreachable,
    Untrusted,
    from_problem,
)
from gridcloud.identity.credentials import Secret

__all__ = ["Dialler", "Hosting", "SocketMessages", "Way", "join"]

log = logging.getLogger(__name__)

FIRST, LONGEST = 0.5, 30.0
"""Seconds before a lost connection is dialled again: the first pause, and the longest; doubled each time, jittered."""
STREAMS = 256
"""Streams at the same time."""
CONNECT = 15.0
"""Seconds to connect."""


class Way:
    """How a service is reached. ``ca``: file of the authorities that are believed, in place of the system's;
    ``proxy``: URL of an HTTP proxy, in place of the environment's (HTTPS_PROXY, NO_PROXY); ``password``: of the user
    that it names, where it names no password itself. Raises InvalidSettings."""

    def __init__(
        self, url: str, *, ca: Path | None = None, proxy: str = "", password: Secret | None = None
    ) -> None:
        self.url = url
        self._proxy = _checked_proxy(proxy, password) or environment_proxy(url)
        try:
            self._ssl = ssl.create_default_context(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSettings(f"{ca} is no file of certificates (PEM): {error}.") from error

    def session(self) -> aiohttp.ClientSession:
        """Return what connects; the caller closes it."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self._ssl, limit=0, socket_factory=kept_alive, resolver=aiohttp.ThreadedResolver()
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(stay,),
            proxy=self._proxy,
        )

    async def open(
        self, session: aiohttp.ClientSession, path: str, secret: str = ""
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a websocket. Raises Unreachable, Untrusted, NotAuthenticated where we are not known."""
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        try:
            async with asyncio.timeout(2 * CONNECT):
                return await session.ws_connect(
                    f"{self.url}/v1/agents/{path}", headers=headers, max_msg_size=MESSAGE + 4096
                )
        except (aiohttp.ClientError, OSError) as error:
            raise await _failed(self.url, error) from error


class SocketMessages:
    """A websocket of aiohttp, as `splice` takes it."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self._websocket = websocket
        self.refusal = ""
        """Why the other side closed it, in its words, where it said so."""

    async def receive(self) -> bytes:
        """Return the next binary message; see `Messages`."""
        message = await self._websocket.receive()
        if message.type is aiohttp.WSMsgType.CLOSE:
            self.refusal = str(message.extra or "")[:300]
        return message.data if message.type is aiohttp.WSMsgType.BINARY else b""

    async def send(self, data: bytes, /) -> None:
        """Send a binary message; see `Messages`."""
        try:
            await self._websocket.send_bytes(data)
        except (aiohttp.ClientError, RuntimeError) as error:  # it was closed meanwhile
            raise ConnectionResetError(str(error)) from error

    async def close(self) -> None:
        """Close it; see `Messages`."""
        await self._websocket.close()


class Hosting(Protocol):
    """What a machine serves."""

    async def report(self) -> Report:
        """Return what is there now."""

    async def answer(self, call: str, arguments: dict[str, Any]) -> Any:
        """Do what is asked for, and answer in plain JSON. Raises GridcloudError."""

    def find(self, name: str) -> Account | None:
        """Return the account of an instance, by its id."""


async def join(way: Way, token: Secret, folder: MembershipFolder, terms: Terms) -> Membership:
    """Join by an invitation and keep what comes of it. May be asked again, as long as the folder is the same.

    The key that was made for it is gone again when it came to nothing; it is kept where its answer may have been lost.
    Raises NotAuthenticated, Forbidden, Untrusted, Unreachable, InvalidRequest.
    """
    read = read_token(token.reveal())
    fresh = not folder.has_key()
    try:
        answer = await _ask_to_join(way, read, await folder.key())
    except GridcloudError as error:
        refused = isinstance(error, Rejected | Throttled) and not isinstance(error, Malformed)
        if fresh and (refused or isinstance(error.__cause__, _NOT_SENT)):
            await asyncio.to_thread(folder.forget_key)
        raise
    return folder.keep(way.url, read, answer, terms)


_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError)
"""Errors after which nobody has read what we had to say."""


async def _ask_to_join(way: Way, read: Token, key: asyncssh.SSHKey) -> Answer:
    token_proof, key_proof = prove(read, key)
    wish = {
        "invitation": read.id,
        "public_key": key.export_public_key().decode().strip(),
        "token_proof": token_proof,
        "key_proof": key_proof,
    }
    try:
        async with (
            asyncio.timeout(60),
            way.session() as session,
            session.post(f"{way.url}/v1/agents/join", json=wish, allow_redirects=False) as response,
        ):
            text, status = await response.content.read(1 << 16), response.status
    except (aiohttp.ClientError, OSError) as error:
        raise await _failed(way.url, error) from error
    try:
        document = json.loads(text)
        if status >= 300:
            raise from_problem(document)
        return Answer.model_validate(document)
    except (ValueError, ValidationError, AttributeError) as error:
        raise Malformed(
            f"{way.url} does not answer as a gridcloud does ({status}).", remedy="Is the address right?"
        ) from error


class Dialler:
    """Keeps a machine connected."""

    def __init__(
        self,
        way: Way,
        membership: Membership,
        key: asyncssh.SSHKey,
        hosting: Hosting,
        *,
        beat: float = BEAT,
        silence: float = SILENCE,
        tell: Callable[[str], None] = log.info,
        forsaken: float = 0,
        keep: Callable[[Membership], None] = lambda _: None,
    ) -> None:
        """``keep`` is given the membership when it has changed."""
        self._way = way
        self._membership = membership
        self._key = key
        self._hosting = hosting
        self._beat = beat
        self._silence = silence
        self._tell = tell
        self._forsaken = forsaken
        self._keep = keep
        self._removed = False
        self._connected = False

    async def run(self) -> None:
        """Stay connected until cancelled; return when the machine was removed from the gridcloud it had joined, or has
        not been known there for ``forsaken`` seconds (0: it is waited for)."""
        pause, told = FIRST, ""
        unknown: float | None = None
        while not self._removed:
            self._connected = False
            why, now = "The connection ended.", asyncio.get_running_loop().time()
            try:
                await self._stay()
            except NotAuthenticated as error:
                why, unknown = str(error), now if unknown is None else unknown
                if self._forsaken and now - unknown >= self._forsaken:
                    self._tell(f"{self._way.url} does not know this machine any more.")
                    return
            except GridcloudError as error:
                why = str(error)
            if self._connected:
                pause, told, unknown = FIRST, "", None
            if why != told and not self._removed:
                self._tell(f"Not connected to {self._way.url}: {why} It is tried again.")
                told = why
            # Not all of many machines at once, when their service returns.
            await asyncio.sleep(random.uniform(FIRST, max(FIRST, pause)))  # noqa: S311 - no secret
            pause = min(pause * 2, LONGEST)

    async def _stay(self) -> None:
        async with self._way.session() as session:
            websocket = await self._way.open(session, f"{quote(self._membership.name)}/control")
            streams: set[asyncio.Task[None]] = set()

            async def converse(channel: asyncssh.SSHServerProcess[bytes]) -> None:
                await self._converse(channel, session, streams)

            control = Account(principal_of(self._membership.name), subsystem=converse)
            try:
                await self._serve(websocket, lambda name: control if name == "gridcloud" else None)
            except (Unreachable, Untrusted):
                if self._connected or not await self._ask_for_trust(session):
                    raise
            finally:
                for stream in set(streams):
                    stream.cancel()
                await asyncio.gather(*streams, return_exceptions=True)

    async def _ask_for_trust(self, session: aiohttp.ClientSession) -> bool:
        """Ask whether the authority was rotated while we were away; tell whether another is to be believed now."""
        try:
            async with (
                asyncio.timeout(CONNECT),
                session.get(f"{self._way.url}/v1/agents/authority", allow_redirects=False) as response,
            ):
                return self._follow(json.loads(await response.content.read(MESSAGE)))
        except (aiohttp.ClientError, OSError, ValueError):
            return False

    def _follow(self, said: Any) -> bool:
        """Believe another authority if the one that is believed now, or one that it led to, has signed for it."""
        try:
            trust = Trust.model_validate(said)
            now, before = key_of(trust.authority), [key_of(one) for one in trust.authorities()]
        except (ValidationError, Untrusted):
            return False
        if now == self._membership.authority:
            return False
        if self._membership.authority not in before:
            self._tell(
                f"{self._way.url} says that it has another authority, for which the one that this machine joined has "
                "not signed: it is not believed."
            )
            return False
        self._membership = self._membership.model_copy(update={"authority": now})
        self._keep(self._membership)
        self._tell(f"The authority of {self._way.url} was rotated; the earlier one is not believed any more.")
        return True

    async def _serve(
        self, websocket: aiohttp.ClientWebSocketResponse, find: Callable[[str], Account | None]
    ) -> None:
        """Be an SSH server within a websocket until it ends. Raises Untrusted when nobody logs in."""
        link, reader, writer = await pair()
        messages = SocketMessages(websocket)
        carrying = asyncio.create_task(splice(reader, writer, messages), name="agent: link")
        try:
            await serve(link, Serving(self._key, self._membership.authority, find))
        except (asyncssh.Error, OSError) as error:
            link.close()
            if messages.refusal:
                raise Unreachable(f"It refuses this machine: {messages.refusal}") from error
            raise Untrusted(f"Nobody who may logged in: {error}.") from error
        finally:
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)

    async def _converse(
        self,
        channel: asyncssh.SSHServerProcess[bytes],
        session: aiohttp.ClientSession,
        streams: set[asyncio.Task[None]],
    ) -> None:
        def notice(kind: str, content: Any) -> None:
            if kind == "authority":
                self._follow(content)
            if kind != "dial" or len(streams) >= STREAMS:
                return
            try:
                stream, secret = str(content["stream"]), str(content["secret"])
            except (KeyError, TypeError) as error:
                raise ConnectionLost("We were told to dial without being told whom.") from error
            task = asyncio.create_task(self._dial(session, stream, secret), name="agent: stream")
            streams.add(task)
            task.add_done_callback(streams.discard)

        exchange = Exchange(
            channel.stdin, channel.stdout, notice=notice, answer=self._answer, silence=self._silence
        )
        beating = asyncio.create_task(self._report(exchange), name="agent: reports")
        self._connected = True
        self._tell(f"Connected to {self._way.url} as {self._membership.name}.")
        try:
            await exchange.run()
        except ConnectionLost as error:
            if not self._removed:  # the service hangs up on whom it removed
                self._tell(f"The connection to {self._way.url} was lost: {error}")
            channel.channel.get_connection().abort()
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _answer(self, call: str, arguments: dict[str, Any]) -> Any:
        answer = await self._hosting.answer(call, arguments)
        if call == "remove":
            self._removed = True
            self._tell(f"This machine was removed from {self._way.url}.")
        return answer

    async def _report(self, exchange: Exchange) -> None:
        while True:
            try:
                await exchange.tell("report", (await self._hosting.report()).model_dump(mode="json"))
            except ConnectionLost:
                return
            await asyncio.sleep(self._beat)

    async def _dial(self, session: aiohttp.ClientSession, stream: str, secret: str) -> None:
        try:
            websocket = await self._way.open(session, f"streams/{quote(stream, safe='')}", secret)
            await self._serve(websocket, self._hosting.find)
        except GridcloudError as error:
            log.info("stream %.20s: %s", stream, error)


async def _failed(url: str, error: Exception) -> GridcloudError:
    if isinstance(error, aiohttp.ClientConnectorSSLError) and "WRONG_VERSION_NUMBER" in str(error):
        return Unreachable(
            f"{url} does not speak TLS.", remedy="Is the port right? It is that of the service's HTTPS door."
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return Untrusted(
            f"{url} shows a certificate that is not trusted: {error}.",
            remedy="Name the file of its authority's certificate with --ca.",
        )
    if isinstance(error, aiohttp.WSServerHandshakeError):
        kind = NotAuthenticated if error.status in (401, 403) else Unreachable
        return kind(f"{url} does not let this machine connect ({error.status}).")
    if isinstance(error, Redirected):
        return Unreachable(f"{url}: {error}.", remedy="Give the address of the service itself.")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Unreachable(f"The proxy refuses to connect to {url}: {error.status} {error.message}.")
    if not isinstance(error, _NOT_SENT) and await _speaks_tls(url):
        return InvalidRequest(f"{url} speaks TLS.", remedy=f"Write https://{url.removeprefix('http://')}.")
    return Unreachable(f"Nobody answers at {url}: {error or type(error).__name__}.")


async def _speaks_tls(url: str) -> bool:
    """Return whether TLS is spoken where an http:// address leads."""
    parts = urlsplit(url)
    if parts.scheme != "http":
        return False
    try:
        async with asyncio.timeout(CONNECT):
            _, writer = await asyncio.open_connection(
                parts.hostname, parts.port or 80, ssl=ssl.create_default_context()
            )
    except ssl.SSLCertVerificationError:
        return True  # it showed one: whether it is to be trusted is not the question here
    except OSError:
        return False
    writer.close()
    return True


def _checked_proxy(text: str, password: Secret | None) -> URL | None:
    """Return where a proxy is and as whom, None for no text. What is wrong with it is told without its password."""
    if not text:
        return None
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidSettings(
            "--proxy is no address of an HTTP proxy.",
            remedy="Write http://HOST:PORT, or http://USER@HOST:PORT.",
        )
    if password is not None and url.user and not url.password:
        return url.with_password(password.reveal())
    return url
