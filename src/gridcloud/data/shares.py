"""Shares and who visits them: links are made, edited and revoked; whoever knocks with one is let in or told why not."""

from __future__ import annotations

import asyncio
import base64
import hmac
import ipaddress
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import WeakSet

from asyncssh import KeyImportError, import_public_key

from gridcloud.clock import Clock
from gridcloud.data import links
from gridcloud.data.driver import Storage
from gridcloud.data.guard import Guard
from gridcloud.data.lifecycle import Event, step
from gridcloud.data.logbook import Logbook
from gridcloud.data.model import FINAL, Door, Limits, Refusal, Rights, Share, State
from gridcloud.data.paths import Names, parse, show, to_url
from gridcloud.data.visits import Visit, refused
from gridcloud.errors import Conflict, GridcloudError, InvalidRequest, NotAuthenticated, NotFound, Throttled
from gridcloud.finishing import whole
from gridcloud.identity.keys import write_whole
from gridcloud.identity.vault import Vault
from gridcloud.store import Entry, Store
from gridcloud.store.lives import Lives

__all__ = ["REMEMBERED", "Knock", "Made", "Shares", "Wish"]

REMEMBERED = 3600.0
"""Seconds that a password, a code or a visit is known again from the same address. A file read by several requests
within it is one use."""

MOST = 10_000
"""Visits and proofs that are remembered at the same time; those seen last."""

FLUSH = 1.0
"""Seconds between writing down what a share has moved."""


@dataclass(frozen=True, slots=True)
class Knock:
    """What somebody has to show at a door."""

    door: Door
    address: str
    secret: str
    password: str = field(default="", repr=False)
    """The password, the code, or the password with the code behind it."""
    key: str = ""
    """The SSH public key that was proven, as OpenSSH writes it, without its comment."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A wish for a share, or for its change; None: as it is."""

    name: str | None = None
    rights: Rights | None = None
    limits: Limits | None = None
    password: str | None = field(default=None, repr=False)
    """Empty: none."""
    keys: tuple[str, ...] | None = None
    code: bool | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A share with what only its owner is told."""

    share: Share
    secret: str = field(repr=False)
    code: str = field(default="", repr=False)
    """The ``otpauth://`` URI of its second factor."""


class Shares:
    """All shares of a store. Make it once, `start` it, and `close` it."""

    def __init__(
        self, store: Store, clock: Clock, folder: Path, storage_of: Callable[[Share], Awaitable[Storage]]
    ) -> None:
        self.lives: Lives[Share] = Lives(store, "share", Share, step, FINAL)
        self.guard = Guard(clock)
        self._store = store
        self._clock = clock
        self._storage_of = storage_of
        self._vault = Vault(store, folder / "secrets.key", kind="share-secrets")
        self._key_file = folder / "links.key"
        self._key: bytes | None = None
        self._local_key = os.urandom(32)
        self._visits: OrderedDict[tuple[str, str, bool], tuple[float, Visit]] = OrderedDict()
        self._proofs: OrderedDict[bytes, float] = OrderedDict()
        self._steps: dict[str, int] = {}
        self._opened: OrderedDict[tuple[str, str, Names], float] = OrderedDict()
        self._moved: dict[str, int] = {}
        """Bytes that shares have moved in all, those not written down yet included."""
        self._unwritten: set[str] = set()
        self._there: dict[str, WeakSet[Visit]] = {}
        self._flushing: asyncio.Task[None] | None = None
        self._checking = asyncio.Semaphore(2)
        self._logbook = Logbook(self._tell)
        self.lives.listen(self._changed)

    async def close(self) -> None:
        """End all visits, and write down what is to be remembered. May be called twice."""
        for visits in list(self._there.values()):
            for visit in list(visits):
                visit.end(NotFound("The gateway is being stopped."))
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        await self._flush()
        await self._logbook.close()

    # Verbs ---------------------------------------------------------------------------------------------------

    @whole
    async def create(self, owner: str, storage: str, folder: str, wish: Wish, length: int) -> Made:
        """Make a share and its link. The folder has to be there. Raises InvalidRequest, NotFound."""
        secret = links.new_secret(length)
        blank = Share(id="", owner=owner, created=self._clock.now(), storage=storage, folder=folder)
        share = await self._with(blank, wish)
        share = share.model_copy(update={"id": links.digest(await self._link_key(), secret)})
        place = await self._storage_of(share)
        if not (await place.stat(parse(folder) if storage else ())).folder:
            raise InvalidRequest(f"{folder} is no folder.")
        codes = links.Codes.new() if share.code else None
        texts = {"secret": secret, "codes": base64.b64encode(codes.key).decode() if codes else ""}
        await self._vault.put(share.id, owner, texts)
        try:
            share = await self.lives.insert(share, "created", f"{owner} shares {folder}: {share.rights}")
        except GridcloudError:
            await self._vault.forget(share.id)
            raise
        return Made(share, secret, codes.uri(share.name or folder) if codes else "")

    async def reveal(self, share: Share) -> Made:
        """Return a share with its secrets, for its owner."""
        texts = await self._vault.get(share.id) or {}
        codes = texts.get("codes", "")
        uri = links.Codes(base64.b64decode(codes)).uri(share.name or share.folder) if codes else ""
        return Made(share, texts.get("secret", ""), uri)

    @whole
    async def edit(self, id: str, wish: Wish) -> Share:
        """Change a share; visits that its new limits would not let in are cut off. Raises NotFound, InvalidRequest."""
        while True:
            share = await self.lives.get(id)
            if share.state in FINAL:
                raise InvalidRequest("A share that was revoked cannot be changed.", remedy="Create another.")
            if wish.code is not None and wish.code != share.code:
                raise InvalidRequest(
                    "Whether a code is asked for cannot be changed.", remedy="Create another."
                )
            changed = await self._with(share, wish)
            fields = {
                name: getattr(changed, name) for name in ("name", "rights", "limits", "password", "keys")
            }
            with suppress(Conflict):
                return await self.lives.save(share, "edited", "its limits were changed", **fields)

    @whole
    async def revoke(self, id: str) -> Share:
        """Make a link worthless, and cut off whoever is there. May be called twice."""
        share = await self.lives.get(id)
        revoked = await self.lives.happen(share, Event.REVOKE, "revoked")
        await self._vault.forget(id)
        return revoked or await self.lives.get(id)

    async def sign(self, share: Share, path: str, seconds: float) -> tuple[str, datetime]:
        """Return the path of a URL by which one file can be read for so long, and when that ends.

        Whoever has it shows no password. Raises InvalidRequest, NotFound where there is no such file.
        """
        names = parse(path)
        if share.state in FINAL or not names:
            raise InvalidRequest("Files of shares that work are signed, by their paths in them.")
        expires = self._clock.now() + timedelta(seconds=seconds)
        until = min(expires, share.limits.expires or expires)
        looked = Visit(share, await self._storage_of(share), Door.HTTPS, "", self, only=names)
        if (await looked.stat(names)).folder:
            raise InvalidRequest(f"{show(names)} is a folder.", remedy="Share it by a link of its own.")
        moment = int(until.timestamp())
        word = share.id.removeprefix(links.PREFIX)
        proof = await self._signature(share, moment, names)
        return f"/f/{word}/{moment}/{proof}/{to_url(names)}", datetime.fromtimestamp(moment, UTC)

    # Doors ---------------------------------------------------------------------------------------------------

    async def asks_for(self, secret: str, address: str) -> Share | None:
        """Return the share of a link that works, so that a door may ask for what else it takes; None: let them try.

        Who is kept out is told nothing here: that a link exists would be worth knowing.
        """
        if not links.is_secret(secret):
            return None
        with suppress(NotFound, Throttled):
            self.guard.check(address)
            share = await self.lives.get(links.digest(await self._link_key(), secret))
            return share if share.state is State.ACTIVE else None
        return None

    async def admit(self, knock: Knock) -> Visit:
        """Let somebody in. Raises NotFound, Forbidden, NotAuthenticated, Throttled; each attempt is in the log."""
        self.guard.check(knock.address)
        share = None
        if links.is_secret(knock.secret):
            with suppress(NotFound):
                share = await self.lives.get(links.digest(await self._link_key(), knock.secret))
        if share is None:
            self.guard.fail(knock.address)
            raise refused(Refusal.UNKNOWN)
        try:
            self._check(share, knock.address)
            await self._check_proof(share, knock)
        except GridcloudError as error:
            if not error.details.get("asked"):
                limit = error.details.get("limit", "")
                self._logbook.note(share, f"refused ({limit})", knock.door, knock.address, "/")
            raise
        return await self._visit(share, knock)

    def _check(self, share: Share, address: str) -> None:
        if share.state is State.REVOKED:
            raise refused(Refusal.REVOKED)
        limits = share.limits
        if limits.expires is not None and self._clock.now() >= limits.expires:
            raise refused(Refusal.EXPIRED)
        if limits.networks and not _is_in(address, limits.networks):
            raise refused(Refusal.NETWORK)

    async def _check_proof(self, share: Share, knock: Knock) -> None:
        if not (share.password or share.keys or share.code):
            return
        if knock.key and knock.key in {_bare(key) for key in share.keys}:
            return
        if not (share.password or share.code):
            if knock.key:
                self.guard.fail(knock.address, share.id)
            raise _denied(Refusal.KEY, "This link is for the holders of certain SSH keys: come by SFTP.")
        asked = Refusal.PASSWORD if share.password else Refusal.CODE
        if not knock.password:
            raise _denied(asked, f"This link asks for {_what(share)}.", asked=True)
        shown = f"{share.id}\0{share.password}\0{knock.address}\0{knock.password}"
        proof = hmac.digest(self._local_key, shown.encode("utf-8", "replace"), "sha256")
        if self._proofs.get(proof, 0.0) > self._clock.monotonic():
            return
        async with self._checking:
            # Looked at here, so that of many attempts at the same time no more are made than one after another.
            self.guard.check(knock.address, share.id)
            wrong = await self._wrong(share, knock.password)
            if wrong is not None:
                self.guard.fail(knock.address, share.id)
        if wrong is not None:
            raise _denied(wrong, f"That is not {_what(share)}.")
        self.guard.welcome(knock.address, share.id)
        _remember(self._proofs, proof, self._clock.monotonic() + REMEMBERED)

    async def _wrong(self, share: Share, given: str) -> Refusal | None:
        """Return what is wrong with a password, or a code, or both; a code is good once."""
        password, code = (given[: -links.DIGITS], given[-links.DIGITS :]) if share.code else (given, "")
        if share.password:
            if not await asyncio.to_thread(links.right_password, share.password, password):
                return Refusal.PASSWORD
        elif password:
            return Refusal.CODE
        if share.code:
            texts = await self._vault.get(share.id) or {}
            codes = links.Codes(base64.b64decode(texts.get("codes", "")))
            step = codes.step_of(code, self._clock.now().timestamp()) if codes.key else None
            if step is None or step <= self._steps.get(share.id, -1):
                return Refusal.CODE
            self._steps[share.id] = step
        return None

    async def admit_signed(
        self, address: str, share_id: str, expires: int, signature: str, path: Names
    ) -> Visit:
        """Let somebody in by a URL that was signed for one file. Raises NotFound, Forbidden, Throttled."""
        self.guard.check(address)
        share, right = None, ""
        with suppress(NotFound):
            share = await self.lives.get(share_id)
            right = await self._signature(share, expires, path)
        if share is None or not hmac.compare_digest(right.encode(), signature.encode()):
            self.guard.fail(address)
            raise refused(Refusal.UNKNOWN)
        self._check(share, address)
        until = datetime.fromtimestamp(expires, UTC)
        storage = await self._storage_of(share)
        visit = Visit(share, storage, Door.HTTPS, address, self, only=path, until=until)
        visit.check()
        self._there.setdefault(share.id, WeakSet()).add(visit)
        return visit

    async def _signature(self, share: Share, expires: int, path: Names) -> str:
        place = os.fsencode("/".join(path))
        return links.signature(await self._link_key(), share.id, share.password, expires, place)

    async def _visit(self, share: Share, knock: Knock) -> Visit:
        # A WebDAV client's uploads and what it asks of them are one visit.
        key = (share.id, knock.address, knock.door is Door.SFTP)
        known = self._visits.get(key)
        if known is not None and known[0] > self._clock.monotonic():
            self._visits.move_to_end(key)
            known[1].door = knock.door
            return known[1]
        visit = Visit(share, await self._storage_of(share), knock.door, knock.address, self)
        self._there.setdefault(share.id, WeakSet()).add(visit)
        _remember(self._visits, key, (self._clock.monotonic() + REMEMBERED, visit))
        return visit

    # Books ---------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The time."""
        return self._clock.now()

    async def use(self, share: Share, address: str, path: Names) -> None:
        """Count a file that is opened; the same from the same address within an hour is the same use.

        Raises Forbidden when the link was used up.
        """
        key = (share.id, address, path)
        now = self._clock.monotonic()
        if self._opened.get(key, 0.0) > now:
            return
        while True:
            share = await self.lives.get(share.id)
            if share.limits.uses and share.used >= share.limits.uses:
                raise refused(Refusal.USES)
            with suppress(Conflict):
                await self.lives.save(share, "", "", used=share.used + 1)
                break
        _remember(self._opened, key, now + REMEMBERED)

    def move(self, share: Share, size: int) -> None:
        """Count bytes. Raises Forbidden when there were too many: then none of these is to be moved."""
        moved = self._moved.get(share.id, share.moved) + size
        if share.limits.bytes and size > 0 and moved > share.limits.bytes:
            raise refused(Refusal.BYTES)
        self._moved[share.id] = moved
        self._unwritten.add(share.id)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_soon(), name="shares: bytes")

    def note(self, share: Share, act: str, door: Door, address: str, path: Names, size: int = 0) -> None:
        """Write down what was done, for the owner to see."""
        self._logbook.note(share, act, door, address, show(path), size)

    async def settle(self) -> None:
        """Write what was gathered of bytes and accesses now."""
        await self._flush()
        await self._logbook.flush()

    async def _flush_soon(self) -> None:
        await asyncio.sleep(FLUSH)
        await self._flush()

    async def _flush(self) -> None:
        while self._unwritten:
            share_id = self._unwritten.pop()
            try:
                await self.lives.save(await self.lives.get(share_id), "", "", moved=self._moved[share_id])
            except NotFound:
                continue
            except Conflict:  # somebody changed it this instant
                self._unwritten.add(share_id)

    def _changed(self, share: Share) -> None:
        """Have those who are there see the share as it is now, or be cut off."""
        for visit in list(self._there.get(share.id, ())):
            before, visit.share = visit.share, share
            try:
                self._check(share, visit.address)
                if (before.password, before.keys, before.rights) != (
                    share.password,
                    share.keys,
                    share.rights,
                ):
                    raise _denied(Refusal.PASSWORD, "The share was changed by its owner.")
            except GridcloudError as error:
                self._visits.pop((share.id, visit.address, visit.door is Door.SFTP), None)
                self._there[share.id].discard(visit)
                visit.end(error)

    async def _tell(self, share: Share, entries: list[Entry]) -> None:
        await self._store.append("share", share.id, share.owner, entries)

    async def _with(self, share: Share, wish: Wish) -> Share:
        changes: dict[str, Any] = {}
        for name in ("name", "rights", "limits", "code"):
            if getattr(wish, name) is not None:
                changes[name] = getattr(wish, name)
        if wish.password is not None:
            changes["password"] = (
                await asyncio.to_thread(links.hash_password, wish.password) if wish.password else ""
            )
        if wish.keys is not None:
            changes["keys"] = tuple(_key(text) for text in wish.keys)
        changed = share.model_copy(update=changes)
        if changed.code and changed.keys:
            raise InvalidRequest("A code goes with a password, not with SSH keys.")
        return changed

    async def _link_key(self) -> bytes:
        if self._key is None:
            self._key = await asyncio.to_thread(_kept_key, self._key_file)
        return self._key


def _remember(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > MOST:
        kept.popitem(last=False)


def _kept_key(path: Path) -> bytes:
    """Return the key of the digests, made when it is first needed. Without it no link is known any more."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = os.urandom(32)
    write_whole(path, key, 0o600)
    return key


def _is_in(address: str, networks: tuple[str, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return any(found in ipaddress.ip_network(network) for network in networks)


def _key(text: str) -> str:
    try:
        return import_public_key(text).export_public_key("openssh").decode().strip()
    except (KeyImportError, ValueError) as error:
        raise InvalidRequest(f"{text[:40]!r} is no SSH public key: {error}.") from error


def _bare(key: str) -> str:
    return " ".join(key.split()[:2])


def _what(share: Share) -> str:
    if share.password and share.code:
        return "its password, with the code of the second factor right behind it"
    return "its password" if share.password else "the code of its second factor"


def _denied(why: Refusal, text: str, *, asked: bool = False) -> NotAuthenticated:
    return NotAuthenticated(text, details={"limit": str(why), "asked": asked})
