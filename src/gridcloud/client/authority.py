"""The verbs for the SSH authority of a service, for administrators."""

from __future__ import annotations

from gridcloud.client.wire import Wire
from gridcloud.service.authority_documents import AuthorityState, RotationOrder

__all__ = ["AuthorityKeys"]


class AuthorityKeys:
    """The keys that certificates for machines are signed with. Every method raises GridcloudError."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def get(self) -> AuthorityState:
        """Return whose certificates machines are to believe."""
        return await self._wire.ask("GET", "/authority", AuthorityState)

    async def prepare(self) -> AuthorityState:
        """Make the next key; what is made from now on trusts both."""
        return await self._wire.ask("POST", "/authority/prepare", AuthorityState)

    async def rotate(self, *, now: bool = False) -> AuthorityState:
        """Go over to the next key.

        Unless `now`, raises InvalidRequest where none was prepared, Conflict where instances would be left behind.
        """
        return await self._wire.ask("POST", "/authority/rotate", AuthorityState, RotationOrder(now=now))

    async def forget(self) -> AuthorityState:
        """Lead nobody any more from keys that were rotated out."""
        return await self._wire.ask("POST", "/authority/forget", AuthorityState)
