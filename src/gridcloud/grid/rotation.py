"""Our service keys: the first one, the next before it ends, and what becomes of one that was stolen."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from gridcloud.errors import NotFound
from gridcloud.federation.envelopes import SKEW
from gridcloud.federation.keys import (
    KeyList,
    PrivateKey,
    ServiceKey,
    make_key_list,
    revoke_service_key,
    rotate_service_key,
)
from gridcloud.grid.circle import Circle
from gridcloud.grid.keyring import Keyring
from gridcloud.grid.seal import SPAN, is_due, worth_keeping

__all__ = ["Rotation"]

log = logging.getLogger(__name__)

MONTH = SPAN // timedelta(milliseconds=1)
BEHIND = SKEW // timedelta(milliseconds=1)


class Rotation:
    """Changes our key list, one change at a time; a key is on the disk before it is on a list."""

    def __init__(self, keyring: Keyring, circle: Circle) -> None:
        self._keyring = keyring
        self._circle = circle
        self._lock = asyncio.Lock()

    async def begin(self, root: PrivateKey) -> KeyList:
        """Return our first key list; the caller stores it."""
        now = self._circle.now()
        return make_key_list(root, 1, now, (await self._make(now),))

    async def rotate(self, root: PrivateKey) -> None:
        """Put another service key on our list; those before it stay good for as long as they were."""
        async with self._lock:
            keys, now = self._circle.our_keys(), self._circle.now()
            longest = max([0, *(one.valid_until - now for one in keys.keys)])
            made = await self._make(now)
            await self._circle.set_keys(rotate_service_key(root, keys, made.key, now, MONTH, longest))

    async def revoke(self, root: PrivateKey, key: str) -> None:
        """Take a service key off our list for good; another one is made where none is good then. Raises NotFound."""
        async with self._lock:
            keys, now = self._circle.our_keys(), self._circle.now()
            if key not in {one.key for one in keys.keys}:
                raise NotFound(f"{key!r:.60} is not a service key of ours.")
            after = revoke_service_key(root, keys, key, now)
            if not any(one.valid_from <= now < one.valid_until for one in after.keys):
                spans = (*after.keys, await self._make(now))
                after = make_key_list(root, after.serial, now, spans, after.revoked)
            await self._circle.set_keys(after)

    async def look(self) -> None:
        """Make the next key where it is due and the root key is here; keep no key that nobody believes any more."""
        if is_due(self._circle.our_keys(), self._circle.now()) and self._keyring.has_root:
            await self.rotate(await asyncio.to_thread(self._keyring.root, self._circle.me))
            log.info("a new service key was made")
        async with self._lock:
            kept = worth_keeping(self._circle.our_keys(), self._circle.now())
            await asyncio.to_thread(self._keyring.drop_all_but, kept)

    async def _make(self, now: int) -> ServiceKey:
        key = PrivateKey.generate()
        await asyncio.to_thread(self._keyring.keep_service_key, key)
        # It signs at once, also where others' clocks are a little behind.
        return ServiceKey(key=key.public, valid_from=now - BEHIND, valid_until=now + MONTH)
