"""Who we are to others: which service key signs now, our messages, and our TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gridcloud.clock import Clock
from gridcloud.errors import Expired
from gridcloud.federation.encoding import Json, milliseconds
from gridcloud.federation.envelopes import sign
from gridcloud.federation.keys import KeyList, PrivateKey, ServiceKey
from gridcloud.grid.certificates import Certificate, client_context, issue, server_context, trust
from gridcloud.grid.keyring import Keyring

__all__ = ["SETTLE", "SPAN", "Seal", "good_keys", "is_due", "worth_keeping"]

SPAN = timedelta(days=30)
"""How long a service key is good: whoever sees only an old key list trusts a stolen one for that long."""
ROTATE = timedelta(days=10)
"""How long before its end the next key is made."""
SETTLE = timedelta(days=5)
"""How long the next key stands on the list before it is used, so that all others know it by then."""
CONTEXTS = 4096
FEW = 8
"""New keys that take less time to be read than another thread takes to begin."""


class Seal:
    """Signs and proves. `keys` returns our key list in force; the private halves are in the keyring."""

    def __init__(self, keyring: Keyring, folder: Path, keys: Callable[[], KeyList], clock: Clock) -> None:
        self._keyring = keyring
        self._folder = folder
        self._keys = keys
        self._clock = clock
        self._private: dict[str, PrivateKey] = {}
        self._certificates: dict[str, Certificate] = {}
        self._calling: dict[tuple[frozenset[str], bytes], ssl.SSLContext] = {}
        self._called: tuple[tuple[frozenset[str], bytes], ssl.SSLContext] | None = None

    def key_in_use(self) -> PrivateKey:
        """Return the service key that signs now: the newest that others had time to hear of, else the oldest.

        Raises Expired when none is good any more, NotFound when its private half is not here.
        """
        now = milliseconds(self._clock.now())
        good = [one for one in self._keys().keys if one.valid_from <= now < one.valid_until]
        if not good:
            raise Expired(
                "None of our service keys is valid now.", remedy="gridcloud grid rotate, with the root key."
            )
        return self._load(_chosen(good, now).key)

    def earlier_keys(self) -> list[PrivateKey]:
        """Return service keys that are here and not in use: whoever missed news of us may know one of them."""
        used = self.key_in_use().public
        return [self._load(public) for public in self._keyring.service_keys() if public != used]

    def sign(
        self,
        kind: str,
        recipient: str,
        body: Json,
        *,
        nonce: str = "",
        answers: str = "",
        key: PrivateKey | None = None,
    ) -> bytes:
        """Return a message of ours to another institution."""
        return sign(
            key or self.key_in_use(),
            self._clock,
            kind=kind,
            sender=self._keys().institution,
            recipient=recipient,
            body=body,
            nonce=nonce,
            answers=answers,
        )

    async def calling(
        self, theirs: KeyList, *, guest: bool = False, key: PrivateKey | None = None
    ) -> ssl.SSLContext:
        """Return how to call an institution: only its good keys are trusted, and a guest shows no certificate."""
        ours = None if guest else self._certificate(key or self.key_in_use())
        trusted = frozenset(good_keys(theirs, milliseconds(self._clock.now())))
        return await self._context(trusted, ours)

    async def called(self, keys: Iterable[str]) -> ssl.SSLContext:
        """Return how to be called by whoever holds one of these service keys, and by guests."""
        trusted, ours = frozenset(keys), self._certificate(self.key_in_use())
        if self._called is not None and self._called[0] != (trusted, ours.pem):
            (known, shown), context = self._called
            new = trusted - known
            # Making it anew would read all of them again, which takes long with a hundred members.
            if known <= trusted and shown == ours.pem and len(new) <= FEW:
                trust(context, new)
                self._called = ((trusted, shown), context)
        if self._called is None or self._called[0] != (trusted, ours.pem):
            made = await asyncio.to_thread(server_context, trusted, ours, self._folder)
            self._called = ((trusted, ours.pem), made)
        return self._called[1]

    async def _context(self, trusted: frozenset[str], ours: Certificate | None) -> ssl.SSLContext:
        name = (trusted, ours.pem if ours else b"")
        if name not in self._calling:
            if len(self._calling) >= CONTEXTS:
                self._calling.clear()
            self._calling[name] = await asyncio.to_thread(client_context, trusted, ours, self._folder)
        return self._calling[name]

    def _certificate(self, key: PrivateKey) -> Certificate:
        held = self._certificates.get(key.public)
        now = datetime.now(UTC)  # OpenSSL looks at the computer's clock, whatever clock is handed in
        if held is None or held.renewed <= now:
            held = self._certificates[key.public] = issue(key, self._keys().institution, now)
        return held

    def _load(self, public: str) -> PrivateKey:
        if public not in self._private:
            self._private[public] = self._keyring.service_key(public)
        return self._private[public]


def good_keys(keys: KeyList, now: int) -> list[str]:
    """Return which service keys of a list are good at `now` (milliseconds)."""
    revoked = {one.key for one in keys.revoked}
    return [
        one.key for one in keys.keys if one.valid_from <= now < one.valid_until and one.key not in revoked
    ]


def is_due(keys: KeyList, now: int) -> bool:
    """Say whether the next service key should be made: none is good for long any more."""
    return all(one.valid_until - now < ROTATE // timedelta(milliseconds=1) for one in keys.keys)


def worth_keeping(keys: KeyList, now: int) -> set[str]:
    """Return our service keys that sign, or that a member which was away may still believe: see `Caller`."""
    month = SPAN // timedelta(milliseconds=1)
    lately = {one.key for one in keys.revoked if now - one.since < month}
    return {one.key for one in keys.keys} | lately


def _chosen(good: list[ServiceKey], now: int) -> ServiceKey:
    by_age = sorted(good, key=lambda one: one.valid_from)
    settled = [one for one in by_age if now - one.valid_from >= SETTLE // timedelta(milliseconds=1)]
    return settled[-1] if settled else by_age[0]
