"""The verbs for shares: links to folders."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from gridcloud.client.wire import Wire
from gridcloud.data.model import Limits, Rights
from gridcloud.service.share_documents import (
    FileWish,
    MadeShare,
    ShareChange,
    ShareInfo,
    ShareLine,
    ShareLog,
    SharesFound,
    ShareWish,
    SignedFile,
)

__all__ = ["Links"]


class Links:
    """One's own shares, or anybody's for an administrator. Every method raises GridcloudError."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def create(
        self,
        folder: str,
        *,
        storage: str = "",
        owner: str | None = None,
        name: str = "",
        rights: Rights = Rights.READ,
        limits: Limits | None = None,
        password: str = "",
        keys: Sequence[str] = (),
        code: bool = False,
        length: int = 22,
    ) -> MadeShare:
        """Make a link to a folder: of a storage, or for administrators any of the service's computer."""
        wish = ShareWish(
            folder=folder,
            storage=storage,
            owner=owner,
            name=name,
            rights=rights,
            limits=limits or Limits(),
            password=password,
            keys=tuple(keys),
            code=code,
            length=length,
        )
        return await self._wire.ask("POST", "/shares", MadeShare, wish)

    async def find(self, *, all: bool = False) -> list[ShareInfo]:
        """Return shares, oldest first; revoked ones too with ``all``."""
        return (await self._wire.ask("GET", "/shares", SharesFound, all=all)).shares

    async def get(self, share: str) -> MadeShare:
        """Return one by its id, or one's own by its name; with its link for its owner. Raises NotFound."""
        return await self._wire.ask("GET", _path(share), MadeShare)

    async def edit(self, share: str, change: ShareChange) -> ShareInfo:
        """Change what a link allows and asks for. Visits that it would not let in any more are cut off."""
        return (await self._wire.ask("PATCH", _path(share), MadeShare, change)).share

    async def revoke(self, share: str) -> ShareInfo:
        """Make a link worthless at once, and cut off whoever is there. May be called twice."""
        return (await self._wire.ask("POST", f"{_path(share)}/revoke", MadeShare)).share

    async def sign(self, share: str, path: str, *, seconds: float) -> SignedFile:
        """Return a URL by which one file of one's own share can be read for so long, by whoever has it."""
        wish = FileWish(path=path, seconds=seconds)
        return await self._wire.ask("POST", f"{_path(share)}/sign", SignedFile, wish)

    async def log(self, share: str, *, limit: int = 1000) -> list[ShareLine]:
        """Return who did what with a share, oldest first."""
        return (await self._wire.ask("GET", f"{_path(share)}/log", ShareLog, limit=limit)).lines


def _path(share: str) -> str:
    return f"/shares/{quote(share, safe='')}"
