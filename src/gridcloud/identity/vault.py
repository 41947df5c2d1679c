"""Secrets of others that outlive the service: in the store, encrypted with a key that lies in a file of its own.

Neither the store, which may be another computer's database, nor a copy of it tells them without that file; the file
tells nothing without the store. What is kept is bound to its name: nobody who can write to the store swaps two.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from gridcloud.errors import NotFound
from gridcloud.identity.keys import write_whole
from gridcloud.store import Record, Store

__all__ = ["Vault"]

log = logging.getLogger(__name__)

KIND = "secrets"
NONCE = 12
"""Bytes."""
KEY = 32
"""Bytes."""


class Vault:
    """Texts by name, such as environments. ``path`` is the file of the key: 0600, made when it is first needed;
    ``kind``: what the records are called, for those who keep theirs apart."""

    def __init__(self, store: Store, path: Path, kind: str = KIND) -> None:
        self._store = store
        self._kind = kind
        self._path = path
        self._cipher: ChaCha20Poly1305 | None = None

    async def put(self, name: str, owner: str, texts: Mapping[str, str]) -> None:
        """Keep the texts of a name that has none. Raises Conflict where it has."""
        nonce = os.urandom(NONCE)
        cipher = await self._open()
        sealed = nonce + cipher.encrypt(nonce, json.dumps(dict(texts)).encode(), name.encode())
        body = {"sealed": base64.b64encode(sealed).decode()}
        await self._store.insert(self._kind, _id(name), owner, "kept", body)

    async def get(self, name: str) -> dict[str, str] | None:
        """Return the texts of a name; None where there are none, or they were sealed with another key."""
        try:
            record = await self._store.get(self._kind, _id(name))
        except NotFound:
            return None
        cipher = await self._open()
        try:
            sealed = base64.b64decode(record.body["sealed"], validate=True)
            found = json.loads(cipher.decrypt(sealed[:NONCE], sealed[NONCE:], name.encode()))
        except (InvalidTag, KeyError, TypeError, ValueError):
            log.warning(
                "the secrets of %s cannot be read: %s is not the key that sealed them", name, self._path
            )
            return None
        return {str(key): str(value) for key, value in found.items()}

    async def forget(self, name: str) -> None:
        """Remove the texts of a name, if it has any."""
        with contextlib.suppress(NotFound):
            await self._store.delete(await self._store.get(self._kind, _id(name)))

    async def forget_others(self, names: Collection[str], before: datetime | None = None) -> None:
        """Remove all but the texts of these names: what is left by whoever ended between two steps. ``before``: only
        what was put there before, where others that share the store put theirs."""
        kept = {_id(name) for name in names}
        left: list[Record] = [
            one
            for one in await self._store.find(self._kind)
            if one.id not in kept and (before is None or one.created < before)
        ]
        for record in left:
            await self._store.delete(record)

    async def _open(self) -> ChaCha20Poly1305:
        if self._cipher is None:
            self._cipher = ChaCha20Poly1305(await asyncio.to_thread(self._key))
        return self._cipher

    def _key(self) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            key = self._path.read_bytes()
            if len(key) == KEY:
                return key
            log.warning("%s holds no key: a new one is made, and what was sealed cannot be read", self._path)
        key = os.urandom(KEY)
        write_whole(self._path, key, 0o600)
        return key


def _id(name: str) -> str:
    return f"v-{name}"
