"""Shares over HTTP: one's own, or anybody's for an administrator, to whom links of others are not shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query

from gridcloud.data.model import Share, State
from gridcloud.data.shares import Made, Wish
from gridcloud.errors import Forbidden, InvalidRequest, NotFound
from gridcloud.service.access import Asking, Caller, TheHouse
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

__all__ = ["router"]

router = APIRouter(tags=["shares"])


@router.post("/shares", status_code=201)
async def create(wish: ShareWish, caller: Asking, house: TheHouse) -> MadeShare:
    """Make a link to a folder."""
    folder = wish.folder
    if not wish.storage:
        if not caller.admin:
            raise Forbidden(
                "Any folder of the service's computer is shared by administrators only.",
                remedy="Name a storage.",
            )
        if not Path(folder).is_absolute():
            raise InvalidRequest(f"{folder} is no absolute path.")
    asked = Wish(wish.name, wish.rights, wish.limits, wish.password, wish.keys, wish.code)
    made = await house.gateway.shares.create(
        caller.owner(wish.owner), wish.storage, folder, asked, wish.length
    )
    return _told(made, house)


@router.get("/shares")
async def find(caller: Asking, house: TheHouse, all: bool = False) -> SharesFound:
    """List shares: one's own, or everybody's for an administrator; revoked ones too with ``all``."""
    found = await house.gateway.shares.lives.find(owner=None if caller.admin else caller.user)
    return SharesFound(shares=[_info(one) for one in found if all or one.state is State.ACTIVE])


@router.get("/shares/{share_id}")
async def show(share_id: str, caller: Asking, house: TheHouse) -> MadeShare:
    """Return one share, by its id or the name of one's own; with its link for its owner."""
    share = await _owned(house, caller, share_id)
    if share.owner != caller.user:
        return MadeShare(share=_info(share))
    return _told(await house.gateway.shares.reveal(share), house)


@router.patch("/shares/{share_id}")
async def edit(share_id: str, change: ShareChange, caller: Asking, house: TheHouse) -> MadeShare:
    """Change what a link allows and asks for; it stays the same link."""
    share = await _owned(house, caller, share_id)
    wish = Wish(change.name, change.rights, change.limits, change.password, change.keys)
    return MadeShare(share=_info(await house.gateway.shares.edit(share.id, wish)))


@router.post("/shares/{share_id}/revoke")
async def revoke(share_id: str, caller: Asking, house: TheHouse) -> MadeShare:
    """Make a link worthless at once, and cut off whoever is there. May be asked twice."""
    share = await _owned(house, caller, share_id)
    return MadeShare(share=_info(await house.gateway.shares.revoke(share.id)))


@router.post("/shares/{share_id}/sign")
async def sign(share_id: str, wish: FileWish, caller: Asking, house: TheHouse) -> SignedFile:
    """Return a URL by which one file of one's own share can be read for a while, without the link or a password."""
    share = await _owned(house, caller, share_id)
    if share.owner != caller.user:
        raise Forbidden("Files are signed by who shares them.")
    path, expires = await house.gateway.shares.sign(share, wish.path, wish.seconds)
    url = f"{house.gateway.url}{path}" if house.gateway.url else ""
    return SignedFile(path=path, url=url, expires=expires)


@router.get("/shares/{share_id}/log")
async def log(
    share_id: str, caller: Asking, house: TheHouse, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> ShareLog:
    """Return who did what with a share, oldest first."""
    share = await _owned(house, caller, share_id)
    await house.gateway.shares.settle()
    events = await house.store.events(subject=share.id, limit=limit)
    return ShareLog(
        lines=[ShareLine(at=one.at, type=one.type, message=one.message, data=one.data) for one in events]
    )


async def _owned(house: TheHouse, caller: Caller, word: str) -> Share:
    shares = house.gateway.shares
    try:
        share = await shares.lives.get(word)
    except NotFound:
        theirs = await shares.lives.live(caller.user)
        found = [one for one in theirs if one.name == word] or [
            one for one in theirs if len(word) >= 12 and one.id.startswith(word)
        ]
        if len(found) != 1:
            raise NotFound(f"There is no share {word!r}.", remedy="See 'gridcloud share list'.") from None
        return found[0]
    caller.check(share.owner, f"share {word!r}")
    return share


def _told(made: Made, house: TheHouse) -> MadeShare:
    gateway = house.gateway
    told = MadeShare(share=_info(made.share), secret=made.secret, code=made.code)
    if gateway.url and made.secret:
        told.url = f"{gateway.url}/s/{made.secret}/"
        host, port = gateway.sftp
        told.sftp = f"sftp://{made.secret}@{host}:{port}/"
    return told


def _info(share: Share) -> ShareInfo:
    document = share.model_dump(exclude={"password", "keeper", "version"})
    return ShareInfo.model_validate({**document, "password": bool(share.password)})
