"""The SSH authority over HTTP, for administrators: prepare its next key, go over to it, forget those before."""

from __future__ import annotations

from fastapi import APIRouter

from gridcloud.connections.model import SSHAddress
from gridcloud.errors import Conflict, InvalidRequest
from gridcloud.identity.public_keys import read_public_key
from gridcloud.instances.model import HOLDING
from gridcloud.service.access import Admin, TheHouse
from gridcloud.service.authority_documents import AuthorityKey, AuthorityState, RotationOrder
from gridcloud.service.house import House

__all__ = ["router"]

router = APIRouter(prefix="/authority", tags=["authority"])


@router.get("")
async def show(caller: Admin, house: TheHouse) -> AuthorityState:
    """Return whose certificates machines are to believe, and who would be left behind by a rotation."""
    return await _state(house)


@router.post("/prepare")
async def prepare(caller: Admin, house: TheHouse) -> AuthorityState:
    """Make the next key; what is made from now on trusts both. Asked again, it changes nothing."""
    house.authority.prepare("user")
    house.providers.renew()
    return await _state(house)


@router.post("/rotate")
async def rotate(order: RotationOrder, caller: Admin, house: TheHouse) -> AuthorityState:
    """Sign with the next key from now on; the private half of the present one is gone. Machines that dial in are told.

    Refused where nothing was prepared (InvalidRequest), or instances are left behind (Conflict), unless `now` is said.
    """
    before = await _state(house)
    if not order.now and before.next is None:
        raise InvalidRequest(
            "No key was prepared to follow: machines that are there could not be reached any more.",
            remedy="gridcloud authority prepare, and rotate once they have ended. With --now at once.",
        )
    if not order.now and before.left_behind:
        raise Conflict(
            f"{len(before.left_behind)} instances trust the present key alone: {', '.join(before.left_behind[:5])}.",
            remedy="Wait until they have ended, or say --now: nobody can connect to them then.",
        )
    house.authority.rotate("user")
    house.providers.renew()
    return await _state(house)


@router.post("/forget")
async def forget(caller: Admin, house: TheHouse) -> AuthorityState:
    """Lead nobody any more from keys that were rotated out: a machine that was away meanwhile has to join anew."""
    house.authority.forget("user")
    return await _state(house)


async def _state(house: House) -> AuthorityState:
    present, *following = house.authority.published("user")
    prepared = house.authority.prepared("user")
    lines = house.authority.authorities("user")[1 + len(following) :]
    left_behind = []
    for one in await house.instances.records.find(states=HOLDING):
        certified = isinstance(one.address, SSHAddress) and one.address.principal and not one.address.socket
        if (certified or one.address is None) and (prepared is None or one.created < prepared):
            left_behind.append(one.id)
    return AuthorityState(
        present=_key(present),
        next=_key(following[0]) if following else None,
        prepared=prepared,
        earlier=[_key(line) for line in lines],
        left_behind=sorted(left_behind),
    )


def _key(line: str) -> AuthorityKey:
    return AuthorityKey(line=line, fingerprint=read_public_key(line).get_fingerprint())
