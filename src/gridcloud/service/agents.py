"""Machines that dial out, over HTTP: for administrators, and for the machines themselves.

A machine proves who it is by what it signs, so that its own three ways in need no token of the API: its request to
join, its control connection (SSH inside, with the key that it joined with), and its streams, each with a secret that
was sent through the control connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from fastapi import APIRouter, Request, Response, WebSocket, WebSocketDisconnect

from gridcloud.agents.membership import Answer, Trust
from gridcloud.agents.model import Agent, State
from gridcloud.errors import GridcloudError, Throttled
from gridcloud.instances.known_hosts import fingerprint
from gridcloud.service.access import Admin, TheHouse, house_of
from gridcloud.service.agent_documents import (
    Drain,
    Invitation,
    InvitationWish,
    JoinWish,
    Labelling,
    Machine,
    Machines,
)
from gridcloud.service.house import House

__all__ = ["router"]

log = logging.getLogger(__name__)

router = APIRouter(tags=["agents"])

JOINING = 16
"""Requests to join that are looked at, at the same time."""
REFUSED = 4403
"""Code of a websocket that is closed for a reason that its text tells."""
REASON = 120
"""Bytes that such a text may have."""

_joining = asyncio.Semaphore(JOINING)


@router.post("/agents/invitations", status_code=201)
async def invite(wish: InvitationWish, caller: Admin, house: TheHouse, response: Response) -> Invitation:
    """Invite a machine; the token is in this answer only."""
    response.headers["Cache-Control"] = "no-store"
    agent, token = await house.agents.invite(
        wish.name,
        caller.user,
        seconds=wish.time,
        caps=wish.caps,
        labels=wish.labels,
        addresses=wish.addresses,
    )
    return Invitation(machine=_machine(house, agent), token=token.reveal())


@router.post("/agents/join")
async def join(wish: JoinWish, request: Request, house: TheHouse) -> Answer:
    """Join with an invitation; the same machine may ask again."""
    if _joining.locked():
        raise Throttled("Too many machines join at once.", remedy="Try again in a few seconds.")
    async with _joining:
        address = request.client.host if request.client else ""
        agent = await house.agents.admit(
            wish.invitation, wish.public_key, (wish.token_proof, wish.key_proof), address
        )
    return Answer(
        name=agent.name,
        installation=house.store.installation,
        caps=agent.caps,
        **house.agents.trust().model_dump(),
    )


@router.get("/agents/authority")
async def authority(house: TheHouse) -> Trust:
    """Return whose certificates machines are to believe, with what leads to it from earlier ones: public keys only."""
    return house.agents.trust()


@router.get("/agents")
async def find(caller: Admin, house: TheHouse, all: bool = False) -> Machines:
    """List machines; those that were removed too with ``all``."""
    found = [agent for agent in await house.agents.all() if all or agent.state is not State.REMOVED]
    return Machines(machines=[_machine(house, agent) for agent in found])


@router.get("/agents/{name}")
async def show(name: str, caller: Admin, house: TheHouse) -> Machine:
    """Return one machine."""
    return _machine(house, await house.agents.get(name))


@router.post("/agents/{name}/labels")
async def label(name: str, labelling: Labelling, caller: Admin, house: TheHouse) -> Machine:
    """Set labels of a machine."""
    return _machine(house, await house.agents.label(name, labelling.labels))


@router.post("/agents/{name}/drain")
async def drain(name: str, order: Drain, caller: Admin, house: TheHouse) -> Machine:
    """Give a machine nothing new, or again what it can do."""
    return _machine(house, await house.agents.drain(name, caller.user, draining=order.draining))


@router.delete("/agents/{name}", status_code=204)
async def remove(name: str, caller: Admin, house: TheHouse) -> None:
    """Have a machine end everything and leave: at once, or when it next connects."""
    await house.agents.remove(name, caller.user)
    with contextlib.suppress(GridcloudError):  # it is told when it connects again
        await house.switchboard.call(name, "remove", {}, 30)
    await house.switchboard.dismiss(name)


@router.websocket("/agents/streams/{stream}")
async def stream(websocket: WebSocket, stream: str) -> None:
    """Take a stream that a machine was told to dial."""
    switchboard = house_of(websocket).switchboard
    scheme, _, secret = websocket.headers.get("authorization", "").partition(" ")
    try:
        expected = switchboard.claim(stream, secret if scheme.lower() == "bearer" else "")
    except GridcloudError:
        await websocket.close(REFUSED)
        return
    await websocket.accept()
    await switchboard.carry(expected, _Messages(websocket))


@router.websocket("/agents/{name}/control")
async def control(websocket: WebSocket, name: str) -> None:
    """Take a machine's control connection."""
    switchboard = house_of(websocket).switchboard
    address = websocket.client.host if websocket.client else ""
    try:
        agent = await switchboard.expected(name)
    except GridcloudError:
        await websocket.close(REFUSED)
        return
    await websocket.accept()
    messages = _Messages(websocket)
    try:
        await switchboard.attend(agent, address, messages)
        await messages.close()
    except GridcloudError as error:
        log.warning("a control connection for %s from %s: %s", name, address, error)
        text = str(error).encode()[:REASON].decode(errors="ignore")
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await websocket.close(REFUSED, text)


class _Messages:
    """A websocket of the service, as `splice` takes it."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._closed = False

    async def receive(self) -> bytes:
        """Return the next binary message; see `Messages`."""
        try:
            message = await self._websocket.receive()
        except (RuntimeError, WebSocketDisconnect):
            return b""
        return message.get("bytes") or b""

    async def send(self, data: bytes, /) -> None:
        """Send a binary message; see `Messages`."""
        try:
            await self._websocket.send_bytes(data)
        except (RuntimeError, WebSocketDisconnect) as error:
            raise ConnectionResetError(str(error)) from error

    async def close(self) -> None:
        """Close it; see `Messages`."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await self._websocket.close()


def _machine(house: House, agent: Agent) -> Machine:
    presence = house.switchboard.present().get(agent.name)
    joined = agent.state in (State.JOINED, State.DRAINING)
    return Machine(
        name=agent.name,
        state=agent.state,
        labels=agent.all_labels,
        caps=agent.caps,
        fingerprint=fingerprint(agent.host_key) if agent.host_key else "",
        expires=agent.expires if agent.state is State.INVITED else None,
        addresses=agent.addresses,
        joined=agent.joined,
        joined_from=agent.joined_from,
        connected=presence is not None,
        since=presence.since if presence else None,
        why_not=house.switchboard.absence(agent.name) if joined else "",
        last_seen=agent.last_seen,
        last_from=agent.last_from,
        report=presence.report if presence else None,
    )
