"""Tokens: secrets shown once, kept as their hash, checked in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import timedelta

from gridcloud.clock import Clock
from gridcloud.errors import NotAuthenticated, NotFound
from gridcloud.identity.credentials import Secret
from gridcloud.identity.model import Token
from gridcloud.store import Entry, Record, Store

__all__ = ["Tokens"]

KIND = "token"
SECRET_BYTES = 24
PATTERN = re.compile(r"gc_([0-9a-z]{19})_([A-Za-z0-9_-]{32})", re.ASCII)


class Tokens:
    """The tokens in a store. A token reads ``gc_<id>_<secret>``; its secret has 192 bits."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def issue(
        self, user: str, *, note: str = "", scopes: Iterable[str] = (), seconds: int | None = None
    ) -> tuple[Token, Secret]:
        """Make a token, for ever or for ``seconds``; return its record and the text to show once."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        now = self._clock.now()
        token = Token(
            id=self._clock.new_id("t"),
            user=user,
            hash=_hash(secret),
            note=note,
            scopes=tuple(scopes),
            created=now,
            expires=None if seconds is None else now + timedelta(seconds=seconds),
        )
        body = token.model_dump(mode="json", exclude={"id", "user"})
        await self._store.insert(KIND, token.id, user, "valid", body, [Entry("issued", note)])
        return token, Secret(f"gc_{token.id.removeprefix('t-')}_{secret}")

    async def check(self, text: str) -> Token:
        """Return the token that the text is. Raises NotAuthenticated, not telling more than that it is no good."""
        match = PATTERN.fullmatch(text)
        token = None
        if match:
            try:
                token = _token(await self._store.get(KIND, f"t-{match[1]}"))
            except NotFound:
                token = None
        offered = _hash(match[2] if match else "")
        known = token.hash if token is not None else _hash("nobody")
        same = hmac.compare_digest(offered, known)
        if token is None or not same or (token.expires is not None and token.expires <= self._clock.now()):
            raise NotAuthenticated("The token is unknown, revoked or expired.", remedy="Ask for a new token.")
        return token

    async def revoke(self, token_id: str, user: str | None = None) -> None:
        """Make a token worthless at once. Raises NotFound, also when it is not ``user``'s."""
        record = await self._store.get(KIND, token_id)
        if user is not None and record.owner != user:
            raise NotFound(f"There is no token {token_id}.")
        await self._store.delete(record, [Entry("revoked", str(record.body.get("note", "")))])

    async def find(self, user: str | None = None) -> list[Token]:
        """Return the tokens of a user, or all, oldest first; expired ones too."""
        return [_token(record) for record in await self._store.find(KIND, owner=user)]


def _token(record: Record) -> Token:
    return Token.model_validate({**record.body, "id": record.id, "user": record.owner})


def _hash(secret: str) -> str:
    # Plain SHA-256 suffices: unlike a password, a random secret of 192 bits cannot be tried out.
    return hashlib.sha256(secret.encode()).hexdigest()
